//! `tombolo site link`.

use clap::Args;
use tombolo_api::wire::{LinkView, NewLink};
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

Bandwidth is measured as transfers happen; this says what it is before that.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LinkArgs {
    from: SiteId,
    to: SiteId,
    /// Bytes in a second, such as 100MB/s
    #[arg(long, value_parser = bandwidth)]
    bandwidth: u64,
    /// One way, such as 40ms
    #[arg(long, value_parser = span, default_value = "20ms")]
    latency: Millis,
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

pub async fn run(session: &Session, args: LinkArgs) -> Result<(), Failure> {
    let body = NewLink { bytes_per_s: args.bandwidth as f64, latency_ms: args.latency.0 };
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
