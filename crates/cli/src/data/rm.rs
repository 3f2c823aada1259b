//! `tombolo data rm`.

use clap::Args;

use super::{Reference, find};
use crate::failure::Failure;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  tombolo data rm raw@3f2a          one version; `tombolo data show raw` lists them

Runs that used it keep what they need. `tombolo data gc` frees the rest.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Rm {
    /// A dataset and a version by its first digits
    #[arg(value_name = "NAME@VERSION")]
    dataset: Reference,
}

pub async fn run(session: &Session, args: Rm) -> Result<(), Failure> {
    let name = &args.dataset.name;
    if args.dataset.version.is_none() {
        return Err(Failure::usage(format!("which version of {name}?"))
            .because("only a version that is named is removed")
            .hint(format!("see `tombolo data show {name}`, then tombolo data rm {name}@<version>")));
    }
    let info = find(session, &args.dataset).await?;
    let _: serde_json::Value = session.client.delete(&format!("/v1/datasets/{name}/versions/{}", info.version)).await?;
    eprintln!("{name}@{} is removed; `tombolo data gc` frees its bytes", info.version.short());
    Ok(())
}
