//! `tombolo site undrain`: a site is open again, and what belongs there comes home.

use clap::Args;
use tombolo_api::wire::HomecomingView;
use tombolo_core::SiteId;

use super::drain::planned;
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo site undrain onprem

What has `home: onprem` in its project file, and what the drain had moved away, comes home where that is worth it;
`tombolo move ls` tells how it goes.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Undrain {
    site: SiteId,
}

pub async fn run(session: &Session, args: Undrain) -> Result<(), Failure> {
    let path = format!("/v1/sites/{}/undrain", args.site);
    let home: HomecomingView = session.create(&path, &serde_json::json!({})).await?;
    if session.output == Output::Json {
        render::json(&home);
        return Ok(());
    }
    eprintln!("site {} is open", home.site);
    let comes = home.workloads.iter().filter(|row| row.state == "goes").count();
    if !home.workloads.is_empty() {
        render::text(&planned(&home.workloads));
        eprintln!("{comes} of {} come home; `tombolo move ls` tells how it goes", home.workloads.len());
    }
    Ok(())
}
