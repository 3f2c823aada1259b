//! `idle`: what the control plane keeps in memory with thousands of finished runs in its database.

use std::time::Duration;

use anyhow::{Result, bail};

use super::place::{Binary, server};
use super::{Context, Goal, Row, ours};
use crate::process;

const RUNS: u64 = 10_000;
const RUNS_QUICK: u64 = 300;
const GOAL_MB: f64 = 100.0;
/// What a start needs for a moment only is given back within this.
const SETTLE: Duration = Duration::from_secs(10);
/// Pages of the listing that are asked for, as a console would.
const PAGES: usize = 20;

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let runs = ctx.size(RUNS, RUNS_QUICK);
    let binary = Binary::find(ctx)?;
    let filler = ours::build(ctx, "dev", &["--package", "tombolo-control", "--example", "bench_engine"])?;
    let dir = ctx.fresh("home/server")?;
    ctx.say(&format!("making {runs} finished runs"));
    process::output(process::command(filler).arg("finish").arg(&dir).arg(runs.to_string()))?;
    let server = server(ctx, &binary)?;
    server.api.get("/healthz")?;
    std::thread::sleep(SETTLE);
    let idle = server.process.memory("VmRSS")?;

    let mut listed = 0;
    let mut after = String::new();
    for _ in 0..PAGES {
        let page = server.api.get(&format!("/v1/runs?limit=500{after}"))?;
        listed += page["items"].as_array().map_or(0, Vec::len) as u64;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    if listed < runs.min(500 * PAGES as u64) {
        bail!("the control plane lists {listed} of {runs} runs");
    }
    std::thread::sleep(SETTLE);
    let used = server.process.memory("VmRSS")?;
    let note =
        format!("{runs} runs of one job; the database's pages in the kernel's cache don't count; {}", binary.note);
    let row = |measure: &str, bytes: u64| {
        ctx.row(measure, "MB", bytes as f64 / 1e6, None, Goal::ValueMax(GOAL_MB)).note(&note)
    };
    Ok(vec![
        row("resident after the start", idle),
        row("resident after all runs were listed", used),
        row("most that was resident", server.process.memory("VmHWM")?),
    ])
}
