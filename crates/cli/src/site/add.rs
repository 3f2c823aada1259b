//! `tombolo site add`: this machine, the Slurm cluster that it belongs to, or a Kubernetes cluster becomes a site.

use clap::Args;
use tombolo_api::wire::{JoinTokenMade, NewJoinToken};
use tombolo_core::SiteId;

use crate::agent::{self, Place};
use crate::failure::Failure;
use crate::session::Session;
use crate::site::kubernetes::{self, KubernetesOptions};

const EXAMPLES: &str = "\
Examples:
  tombolo site add lab --label visibility=private
  tombolo site add hpc --slurm --partition gpu --account ml --dir /shared/me/tombolo
  tombolo site add cloud --kubernetes --context prod --namespace ml --label visibility=public

It makes a join token, joins with it and runs the site's agent, which at a Kubernetes cluster is installed there. On a machine that may not make tokens, make one
elsewhere (tombolo site token) and use `tombolo agent join`.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Add {
    /// The site's name
    name: SiteId,
    #[command(flatten)]
    kubernetes: KubernetesOptions,
    #[command(flatten)]
    place: Place,
}

pub async fn run(session: &Session, args: Add) -> Result<(), Failure> {
    if args.kubernetes.kubernetes {
        return kubernetes::add(session, &args.name, args.kubernetes, &args.place).await;
    }
    let body = NewJoinToken { site: Some(args.name.clone()), expires_in_s: None };
    let made: JoinTokenMade = session.create("/v1/join-tokens", &body).await?;
    let address = session.client.base().to_owned();
    agent::add(&session.home, address, made.token, Some(args.name), args.place).await
}
