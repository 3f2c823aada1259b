//! `tombolo events`: what happened in a run, step by step.

use clap::Args;
use tombolo_api::wire::{EventView, RunView};

use crate::failure::Failure;
use crate::names;
use crate::render;
use crate::run::is_end;
use crate::session::{Global, Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo events flights-7          what has happened, and what happens until the run is over
  tombolo events flights --output json | jq .state";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Events {
    /// A run, or a project for its newest one
    run: String,
    /// Only events with a higher number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: i64,
}

pub async fn run(global: &Global, args: Events) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let run = names::run(&session, &args.run).await?;
    let view: RunView = session.client.get(&format!("/v1/runs/{run}")).await?;
    let path = format!("/v1/runs/{run}/events?after={}", args.after);
    let heard = session.client.events(&path, |event: EventView| {
        match session.output {
            Output::Text => render::text(&line(&event)),
            Output::Json => render::text(&format!("{}\n", serde_json::to_string(&event).expect("plain data"))),
        }
        !is_end(&view, &event)
    });
    tokio::select! {
        heard = heard => Ok(heard?),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// `41  2026-11-23 14:05:09  train  running at cloud (epoch 1): text`.
fn line(event: &EventView) -> String {
    let who = event.workload.as_deref().unwrap_or(&event.run);
    let site = event.site.as_ref().map(|site| format!(" at {site}")).unwrap_or_default();
    let epoch = if event.epoch > 0 { format!(" (epoch {})", event.epoch) } else { String::new() };
    let text = event.text.as_ref().map(|text| format!(": {}", text.replace('\n', "\n        "))).unwrap_or_default();
    format!("{:>6}  {}  {who}  {}{site}{epoch}{text}\n", event.number, render::date(event.at), event.state)
}
