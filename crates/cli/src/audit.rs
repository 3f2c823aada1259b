//! `tombolo audit`: who did what, and what was refused.

use clap::Args;
use tombolo_api::wire::AuditEntry;

use crate::failure::Failure;
use crate::render;
use crate::session::{Global, Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo audit                     the newest entries
  tombolo audit --limit 1000 --output json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Audit {
    /// How many entries, newest first
    #[arg(long, default_value_t = 100, value_name = "ENTRIES", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub async fn run(global: &Global, args: Audit) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let limit = args.limit as usize;
    let mut entries: Vec<AuditEntry> = session.up_to("/v1/audit", limit).await?;
    entries.truncate(limit);
    match session.output {
        Output::Text if entries.is_empty() => eprintln!("nobody has changed anything yet, and nothing was refused"),
        Output::Text => render::text(&list(&entries)),
        Output::Json => render::json(&entries),
    }
    Ok(())
}

fn list(entries: &[AuditEntry]) -> String {
    let row = |entry: &AuditEntry| {
        let (what, on) = (entry.what.clone(), entry.on.clone());
        let detail = entry.detail.clone().unwrap_or_default();
        vec![render::date(entry.at), entry.who.clone(), what, on, entry.outcome.clone(), detail]
    };
    render::table(&["when", "who", "what", "on", "outcome", "detail"], &[], entries.iter().map(row).collect())
}
