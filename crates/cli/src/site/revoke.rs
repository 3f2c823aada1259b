//! `tombolo site revoke`.

use clap::Args;
use tombolo_core::SiteId;

use crate::failure::Failure;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  tombolo site revoke cloud

The site is out at once and for good: its agent is not let in again, and no other site sends it anything.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Revoke {
    site: SiteId,
}

pub async fn run(session: &Session, args: Revoke) -> Result<(), Failure> {
    let path = format!("/v1/sites/{}/revoke", args.site);
    let _: serde_json::Value = session.create(&path, &serde_json::json!({})).await?;
    eprintln!("site {} is revoked", args.site);
    Ok(())
}
