//! Versions that a run or a plan reads because they were named, and not because they are the newest.

use std::collections::BTreeMap;

use tombolo_core::{Name, VersionId};

use crate::data::{Reference, find};
use crate::failure::Failure;
use crate::project::Project;
use crate::session::Session;

/// The versions of a project's datasets that are named. What such a dataset's path holds is not looked at then.
pub async fn pins(
    session: &Session,
    project: &mut Project,
    named: Vec<Reference>,
) -> Result<BTreeMap<Name, VersionId>, Failure> {
    let mut pins = BTreeMap::new();
    for reference in named {
        let name = reference.dataset()?.clone();
        let Some(data) = project.spec.data.get_mut(&name) else {
            let known: Vec<&str> = project.spec.data.keys().map(Name::as_str).collect();
            return Err(Failure::usage(format!("{name} is no dataset of the project"))
                .hint(format!("it has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })));
        };
        if reference.which.is_none() {
            return Err(Failure::usage(format!("which version of {name}?"))
                .hint(format!("such as --at {name}@v3; `tombolo data show {name}` lists them")));
        }
        let info = find(session, &reference).await?;
        if info.number.is_none() {
            return Err(Failure::usage(format!("there is no dataset {name}")).hint("`tombolo data ls` lists datasets"));
        }
        data.path = None;
        if pins.insert(name.clone(), info.version).is_some() {
            return Err(Failure::usage(format!("--at names two versions of {name}")).hint("leave one of them out"));
        }
    }
    Ok(pins)
}
