//! `tombolo data rm`.

use clap::Args;

use super::{Means, Named, Reference};
use crate::failure::Failure;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  tombolo data rm raw@v3            one version; `tombolo data show raw` lists them
  tombolo data rm raw@3f2a          every number that this version has in `raw`
  tombolo data rm raw@v3 --force    with the tags that are on it
  tombolo data rm flights/model@7   what run 7 has made; `tombolo data show flights/model` lists them

Runs that used it keep what they need. `tombolo data gc` frees the rest.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Rm {
    /// A dataset and a version by its number, first digits or tag; or an output and a run
    #[arg(value_name = "NAME@VERSION")]
    name: Reference,
    /// Remove a version too that has a tag, with the tag
    #[arg(long)]
    force: bool,
}

pub async fn run(session: &Session, args: Rm) -> Result<(), Failure> {
    let name = &args.name;
    let Some(which) = &name.which else {
        return Err(Failure::usage(format!("which version of {name}?"))
            .because("only a version that is named is removed")
            .hint(format!("see `tombolo data show {name}`, then tombolo data rm {name}@<version>")));
    };
    // The same command once more would remove the version before it.
    if matches!(which.means, Means::Time(_)) {
        return Err(Failure::usage(format!("which version of {name}?"))
            .because("what a time means changes when a version is removed")
            .hint(format!("see `tombolo data show {name}`, then tombolo data rm {name}@<version>")));
    }
    let named = Named::find(session, name).await?;
    let (path, which) = match &named {
        Named::Dataset(_) => {
            let info = named.one(name)?;
            let (path, which) = match which.means {
                Means::Number(_) => (which.text.clone(), which.text.clone()),
                Means::Tag(_) | Means::Digits | Means::Time(_) => (info.version.to_string(), info.version.short()),
            };
            let force = if args.force { "?force=true" } else { "" };
            (format!("/v1/datasets/{name}/versions/{path}{force}"), which)
        }
        Named::Output(_) => {
            let run = named.one_run(name)?;
            (format!("/v1/outputs/{}/{}/{run}", run.project(), name.name), run.to_string())
        }
    };
    let _: serde_json::Value = session.client.delete(&path).await?;
    eprintln!("{name}@{which} is removed; `tombolo data gc` frees its bytes");
    Ok(())
}
