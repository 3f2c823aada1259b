//! `tombolo site link`.

use clap::Args;
use tombolo_api::wire::{LinkView, NewLink};
use tombolo_core::site::Hours;
use tombolo_core::{Millis, SiteId};

use super::facts::bytes;
use super::show::link_table;
use crate::failure::Failure;
use crate::logs::span;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo site link onprem cloud --bandwidth 100MB/s --latency 40ms
  tombolo site link onprem cloud --bandwidth 100MB/s --both
  tombolo site link onprem cloud --limit 20MB/s --hours 08:00-18:00
  tombolo site link onprem cloud --limit 20MB/s --hours \"mon-fri 08:00-18:00\"
  tombolo site link onprem cloud --limit none

Bandwidth is measured as transfers happen; this says what it is before that.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LinkArgs {
    from: SiteId,
    to: SiteId,
    /// Bytes in a second, such as 100MB/s
    #[arg(long, value_parser = bandwidth, required_unless_present_any = ["latency", "limit"])]
    bandwidth: Option<u64>,
    /// One way, such as 40ms
    #[arg(long, value_parser = span)]
    latency: Option<Millis>,
    /// The most that transfers may take together, such as 20MB/s; none lifts it
    #[arg(long, value_parser = limit)]
    limit: Option<u64>,
    /// When the limit holds, by the clock of the site that fetches, such as 08:00-18:00 or mon-fri 08:00-18:00; always unless given
    #[arg(long, requires = "limit")]
    hours: Option<Hours>,
    /// The way back too
    #[arg(long)]
    both: bool,
}

fn bandwidth(text: &str) -> Result<u64, String> {
    match bytes(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err("nothing can be moved without bandwidth".to_owned()),
        bytes => Ok(bytes),
    }
}

fn limit(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(0) } else { bandwidth(text) }
}

pub async fn run(session: &Session, args: LinkArgs) -> Result<(), Failure> {
    let body = NewLink {
        bytes_per_s: args.bandwidth.map(|bytes| bytes as f64),
        latency_ms: args.latency.map(|latency| latency.0),
        limit_bytes_per_s: args.limit,
        limit_hours: args.hours.map(|hours| hours.to_string()),
    };
    let mut ways = vec![(&args.from, &args.to)];
    if args.both {
        ways.push((&args.to, &args.from));
    }
    let mut links: Vec<LinkView> = Vec::new();
    for (from, to) in ways {
        links.push(session.client.put(&format!("/v1/links/{from}/{to}"), &body).await?);
    }
    match session.output {
        Output::Text => render::text(&link_table(&links)),
        Output::Json => render::json(&links),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths() {
        assert_eq!(bandwidth("100MB/s"), Ok(100_000_000));
        assert_eq!(bandwidth("1MiB"), Ok(1 << 20));
        assert!(bandwidth("0").is_err() && bandwidth("fast").is_err() && bandwidth("5MB/m").is_err());
    }
}
