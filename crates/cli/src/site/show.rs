//! `tombolo site show`.

use std::fmt::Write;

use clap::Args;
use tombolo_api::wire::{LinkView, SiteView};
use tombolo_core::SiteId;
use tombolo_core::resources::{bytes, cpus};

use super::list::status;
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo site show onprem";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    site: SiteId,
}

pub async fn run(session: &Session, args: Show) -> Result<(), Failure> {
    let site: SiteView = session.client.get(&format!("/v1/sites/{}", args.site)).await?;
    let mut links: Vec<LinkView> = session.all("/v1/links").await?;
    links.retain(|link| link.from == site.name || link.to == site.name);
    match session.output {
        Output::Text => render::text(&text(&site, &links)),
        Output::Json => render::json(&serde_json::json!({ "site": site, "links": links })),
    }
    Ok(())
}

fn text(site: &SiteView, links: &[LinkView]) -> String {
    let mut rows: Vec<(String, String)> = vec![
        ("site".into(), site.name.clone()),
        ("status".into(), status(site)),
        ("heard of".into(), render::dash(site.heard.map(|heard| render::ago(render::now(), heard)))),
        ("workloads".into(), site.workloads.to_string()),
        ("key".into(), site.key.clone()),
        ("endpoints".into(), render::dash(site.gateway.clone())),
    ];
    rows.extend(site.labels.iter().map(|(key, value)| (format!("label {key}"), value.clone())));
    let (free, all) = (&site.free, &site.capacity);
    rows.push(("cpus free".into(), format!("{} of {}", cpus(free.cpus_milli), cpus(all.cpus_milli))));
    rows.push(("memory free".into(), format!("{} of {}", bytes(free.memory_bytes), bytes(all.memory_bytes))));
    rows.push(("disk free".into(), format!("{} of {}", bytes(free.disk_bytes), bytes(all.disk_bytes))));
    for (kind, count) in &all.gpus {
        rows.push((format!("{kind} free"), format!("{} of {count}", free.gpus.get(kind).copied().unwrap_or(0))));
    }
    let prices = &site.prices;
    let mut price = |what: String, amount: f64| rows.push((what, render::money(amount)));
    price("a core's hour".into(), prices.cpu_hour);
    price("a GiB's hour".into(), prices.memory_gib_hour);
    price("a GiB that leaves".into(), prices.egress_gib);
    prices.gpu_hour.iter().for_each(|(kind, amount)| price(format!("an {kind}'s hour"), *amount));
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in rows {
        let _ = writeln!(text, "{key:<width$}  {value}");
    }
    if !links.is_empty() {
        text.push('\n');
        text += &link_table(links);
    }
    text
}

pub fn link_table(links: &[LinkView]) -> String {
    let row = |link: &LinkView| {
        let speed = format!("{}/s", bytes(link.bytes_per_s as u64));
        let limit = link.limit_bytes_per_s.map_or("-".to_owned(), |limit| format!("{}/s", bytes(limit)));
        let hours = link.limit_hours.as_ref().map(|hours| format!(" at {hours}")).unwrap_or_default();
        vec![link.from.clone(), link.to.clone(), speed, format!("{} ms", link.latency_ms), limit + &hours]
    };
    render::table(&["from", "to", "bandwidth", "latency", "limit"], &[2, 3], links.iter().map(row).collect())
}
