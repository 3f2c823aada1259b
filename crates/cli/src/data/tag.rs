//! `tombolo data tag`.

use clap::Args;
use tombolo_api::wire::{NewTag, TagInfo};
use tombolo_core::Tag;

use super::{Reference, find};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data tag raw prod                the newest version is raw@prod from now on
  tombolo data tag raw@v3 prod --move      prod is on v3, and no longer where it was
  tombolo data tag raw@3f2a before-cleaning
  tombolo data tag --delete raw prod

A version with a tag keeps its name: no rule of retention takes it, and `tombolo data rm` only with --force.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TagArgs {
    /// A dataset, and a version by its number, first digits, tag or time [default: the newest]
    #[arg(value_name = "NAME[@VERSION]")]
    name: Reference,
    /// A word that means nothing else where a version is asked for
    tag: Tag,
    /// Take it from the version that it is on
    #[arg(long = "move", conflicts_with = "delete")]
    may_move: bool,
    /// Take the tag away; the version stays
    #[arg(long)]
    delete: bool,
}

pub async fn run(session: &Session, args: TagArgs) -> Result<(), Failure> {
    let TagArgs { name, tag, may_move, delete } = args;
    let path = format!("/v1/datasets/{}/tags/{tag}", name.dataset()?);
    if delete {
        if let Some(which) = &name.which {
            return Err(Failure::usage(format!("{name}@{} names a version, and a tag is on one alone", which.text))
                .hint(format!("tombolo data tag --delete {name} {tag}")));
        }
        let _: serde_json::Value = session.client.delete(&path).await?;
        eprintln!("{name} has no tag {tag} any more");
        return Ok(());
    }
    let version = find(session, &name).await?.version;
    let info: TagInfo = session.client.put(&path, &NewTag { version, may_move }).await?;
    match session.output {
        Output::Json => render::json(&info),
        Output::Text => eprintln!("{name}@{tag} is v{} (version {})", info.number, version.short()),
    }
    Ok(())
}
