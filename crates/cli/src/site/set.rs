//! `tombolo site set`.

use clap::Args;
use tombolo_api::wire::{SitePatch, SiteView};
use tombolo_core::SiteId;

use super::facts::FactOptions;
use super::list::status;
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo site set cloud --price cpu_hour=0.05 --price egress_gib=0.09 --price gpu_hour.a100=2.5
  tombolo site set onprem --label region=eu --label old=
  tombolo site set onprem --cpus 6 --memory 24GiB
  tombolo site set onprem --draining true         nothing new is placed there
  tombolo site set onprem --draining false";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Set {
    site: SiteId,
    #[command(flatten)]
    facts: FactOptions,
    /// Whether nothing new is placed there
    #[arg(long, value_name = "BOOL")]
    draining: Option<bool>,
}

pub async fn run(session: &Session, args: Set) -> Result<(), Failure> {
    let path = format!("/v1/sites/{}", args.site);
    let site: SiteView = session.client.get(&path).await?;
    let patch = patch(&args, site)?;
    if patch == SitePatch::default() {
        return Err(Failure::usage("there is nothing to set").hint("see tombolo site set --help"));
    }
    let site: SiteView = session.client.patch(&path, &patch).await?;
    match session.output {
        Output::Text => eprintln!("site {} is set; it is {}", site.name, status(&site)),
        Output::Json => render::json(&site),
    }
    Ok(())
}

/// Labels, prices and capacity are sent whole: what is not named keeps its value.
fn patch(args: &Set, site: SiteView) -> Result<SitePatch, Failure> {
    let SiteView { mut labels, mut prices, mut capacity, .. } = site;
    args.facts.change_labels(&mut labels)?;
    args.facts.change_prices(&mut prices)?;
    args.facts.change_capacity(&mut capacity)?;
    Ok(SitePatch {
        labels: args.facts.has_labels().then_some(labels),
        prices: args.facts.has_prices().then_some(prices),
        capacity: args.facts.has_capacity().then_some(capacity),
        draining: args.draining,
    })
}
