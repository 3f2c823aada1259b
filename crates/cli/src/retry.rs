//! `tombolo retry`: runs again what failed, was stopped or was skipped; what succeeded stays.

use clap::Args;

use crate::failure::Failure;
use crate::names;
use crate::render;
use crate::run::{follow_to_end, last_event};
use crate::session::{Global, Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo retry flights-7           goes on from the stage that failed
  tombolo retry flights --detach    the newest run of a project, without waiting";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Retry {
    /// A run, or a project for its newest one
    run: String,
    /// Don't wait for it
    #[arg(long, short)]
    detach: bool,
}

pub async fn run(global: &Global, args: Retry) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let run = names::run(&session, &args.run).await?;
    // What happened before the retry was told when it happened.
    let after = if args.detach { 0 } else { last_event(&session, &run).await? };
    let answer: serde_json::Value = session.create(&format!("/v1/runs/{run}/retry"), &serde_json::json!({})).await?;
    if !args.detach {
        return follow_to_end(&session, &run, after).await;
    }
    match session.output {
        Output::Text => eprintln!("{run} goes on. Follow it: tombolo logs -f {run}"),
        Output::Json => render::json(&answer),
    }
    Ok(())
}
