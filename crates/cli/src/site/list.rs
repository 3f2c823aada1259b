//! `tombolo site ls`.

use clap::Args;
use tombolo_api::wire::SiteView;
use tombolo_core::Timestamp;
use tombolo_core::resources::cpus;

use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo site ls
  tombolo site ls --output json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ls {}

pub async fn run(session: &Session, _: Ls) -> Result<(), Failure> {
    let sites: Vec<SiteView> = session.all("/v1/sites").await?;
    match session.output {
        Output::Text if sites.is_empty() => eprintln!("no site has joined yet; let one in: tombolo site token"),
        Output::Text => render::text(&list(&sites, render::now())),
        Output::Json => render::json(&sites),
    }
    Ok(())
}

fn list(sites: &[SiteView], now: Timestamp) -> String {
    let row = |site: &SiteView| {
        let labels: Vec<String> = site.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            site.name.clone(),
            status(site),
            site.workloads.to_string(),
            format!("{} of {}", cpus(site.free.cpus_milli), cpus(site.capacity.cpus_milli)),
            format!("{} of {}", render::bytes(site.free.memory_bytes), render::bytes(site.capacity.memory_bytes)),
            gpus(site),
            labels.join(" "),
            render::dash(site.heard.map(|heard| render::ago(now, heard))),
        ]
    };
    let header = ["site", "status", "runs", "cpus free", "memory free", "gpus", "labels", "heard of"];
    render::table(&header, &[2], sites.iter().map(row).collect())
}

pub fn status(site: &SiteView) -> String {
    match &site.drain {
        Some(drain) if drain.state == "drained" => format!("{}, drained", site.status),
        Some(drain) if drain.state == "overdue" => {
            format!("{}, draining, {} left at its deadline", site.status, drain.left)
        }
        Some(drain) => format!("{}, draining, {} left", site.status, drain.left),
        None if site.draining => format!("{}, draining", site.status),
        None => site.status.clone(),
    }
}

fn gpus(site: &SiteView) -> String {
    let free = |kind| site.free.gpus.get(kind).copied().unwrap_or(0);
    let kinds = site.capacity.gpus.iter().map(|(kind, count)| format!("{} of {count} {kind}", free(kind)));
    let kinds: Vec<String> = kinds.collect();
    if kinds.is_empty() { "-".to_owned() } else { kinds.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tombolo_core::{Name, Resources};

    #[test]
    fn sites_in_a_table() {
        let gpus = |count| BTreeMap::from([(Name::new("a100").unwrap(), count)]);
        let capacity = Resources { cpus_milli: 8000, memory_bytes: 32 << 30, disk_bytes: 0, gpus: gpus(2) };
        let free = Resources { cpus_milli: 6500, memory_bytes: 30 << 30, disk_bytes: 0, gpus: gpus(1) };
        let site = SiteView {
            name: "onprem".into(),
            labels: BTreeMap::from([("visibility".into(), "private".into())]),
            capacity,
            free,
            prices: Default::default(),
            status: "up".into(),
            draining: true,
            drain: None,
            heard: Some(0),
            workloads: 2,
            key: String::new(),
            gateway: None,
        };
        insta::assert_snapshot!(list(&[site], Timestamp(3_000)), @r"
        SITE    STATUS        RUNS  CPUS FREE  MEMORY FREE       GPUS         LABELS              HEARD OF
        onprem  up, draining     2  6.5 of 8   30 GiB of 32 GiB  1 of 2 a100  visibility=private  3 s ago
        ");
    }
}
