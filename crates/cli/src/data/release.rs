//! `tombolo data release`.

use clap::Args;
use tombolo_api::wire::{NewRelease, VersionInfo};

use super::{Reference, find, version_path};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data release flights/model@7 --reason \"weights only, reviewed by the data office\"

This needs the role operator. Who, when, why and which rules were lifted is in `tombolo audit`. What was derived from
it before stays where it must, and what its stage makes anew must stay too: `release:` in the project is for that.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Release {
    /// A dataset, and a version by its number, first digits, tag or time; or an output, and a run
    #[arg(value_name = "NAME[@VERSION]")]
    name: Reference,
    /// Why it may leave
    #[arg(long)]
    reason: String,
}

pub async fn run(session: &Session, args: Release) -> Result<(), Failure> {
    let info = find(session, &args.name).await?;
    let path = format!("{}/release", version_path(info.version));
    let released: VersionInfo = session.create(&path, &NewRelease { reason: args.reason }).await?;
    match session.output {
        Output::Json => render::json(&released),
        Output::Text => eprintln!(
            "{}@{} may be anywhere; before, it might only be at {}",
            args.name,
            info.version.short(),
            info.residency
        ),
    }
    Ok(())
}
