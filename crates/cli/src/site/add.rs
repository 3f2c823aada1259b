//! `tombolo site add`: this machine, or the cluster that it belongs to, becomes a site.

use clap::Args;
use tombolo_api::wire::{JoinTokenMade, NewJoinToken};
use tombolo_core::SiteId;

use crate::agent::{self, Place};
use crate::failure::Failure;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  tombolo site add lab --label visibility=private
  tombolo site add hpc --slurm --partition gpu --account ml --dir /shared/me/tombolo

It makes a join token, joins with it and runs the site's agent. On a machine that may not make tokens, make one
elsewhere (tombolo site token) and use `tombolo agent join`.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Add {
    /// The site's name
    name: SiteId,
    #[command(flatten)]
    place: Place,
}

pub async fn run(session: &Session, args: Add) -> Result<(), Failure> {
    let body = NewJoinToken { site: Some(args.name.clone()), expires_in_s: None };
    let made: JoinTokenMade = session.create("/v1/join-tokens", &body).await?;
    let address = session.client.base().to_owned();
    agent::add(&session.home, address, made.token, Some(args.name), args.place).await
}
