//! `tombolo data restore`.

use clap::Args;
use tombolo_api::wire::{NewRestore, RemovedVersion, VersionInfo};

use super::{Means, Named, Reference, Which};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data restore raw@v3              the newest again, under a new number
  tombolo data restore raw@prod --reason \"the rows of November were wrong\"
  tombolo data show raw --removed          what lost its name; `restore` brings it back

No byte is copied. What lost its name can come back until garbage collection has freed its
bytes at every site, and comes back under the rules that it was under.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Restore {
    /// A dataset, and a version by its number, first digits, tag or time
    #[arg(value_name = "NAME@VERSION")]
    name: Reference,
    /// Why, to be kept with the version and in the audit log
    #[arg(long)]
    reason: Option<String>,
}

pub async fn run(session: &Session, args: Restore) -> Result<(), Failure> {
    let name = &args.name;
    let dataset = name.dataset()?;
    let Some(which) = &name.which else {
        return Err(Failure::usage(format!("which version of {name}?"))
            .because("the newest is the newest already")
            .hint(format!("see `tombolo data show {name} --removed` and `tombolo data show {name}`")));
    };
    let version = match &which.means {
        Means::Number(_) => which.text.clone(),
        Means::Tag(_) | Means::Time(_) | Means::Digits => whole(session, name, which).await?,
    };
    let path = format!("/v1/datasets/{dataset}/restore");
    let info: VersionInfo = session.create(&path, &NewRestore { version, reason: args.reason }).await?;
    match session.output {
        Output::Json => render::json(&info),
        Output::Text => {
            let number = info.number.unwrap_or_default();
            eprintln!("{name} is v{number} (version {}), the newest", info.version.short());
        }
    }
    Ok(())
}

/// The whole digest of a version that the dataset has, or had.
async fn whole(session: &Session, name: &Reference, which: &Which) -> Result<String, Failure> {
    let missing = match Named::find(session, name).await.and_then(|named| named.one(name)) {
        Ok(info) => return Ok(info.version.to_string()),
        Err(failure) => failure,
    };
    if which.means != Means::Digits {
        return Err(missing);
    }
    let removed: Vec<RemovedVersion> = session.all(&format!("/v1/datasets/{}/removed", name.name)).await?;
    let mut digests: Vec<String> = removed.into_iter().map(|removed| removed.version.to_string()).collect();
    digests.retain(|digest| digest.starts_with(which.text.as_str()));
    digests.sort();
    digests.dedup();
    match &digests[..] {
        [one] => Ok(one.clone()),
        [] => Err(missing),
        _ => {
            Err(Failure::usage(format!("{} may mean several versions of {name}", which.text)).hint("give more digits"))
        }
    }
}
