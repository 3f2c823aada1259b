//! `drain`: fifty workloads leave a site while one of three destinations dies, in the simulated world.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Context, Goal, Row, ours};
use crate::process;

/// Histories, each from its own seed; the worst counts.
const SEEDS: u64 = 500;
const SEEDS_QUICK: u64 = 10;
const PEER: &str = "anchor, not run here: Nomad, whose drain stops batch work at its deadline and does not replace it";

#[derive(Deserialize)]
struct Ours {
    workloads: u64,
    placed: u64,
    lost: u64,
    /// Histories in which something acted twice, began again behind where it had got to, or was waited for in vain.
    failed: u64,
    undone: u64,
    took_ms: u64,
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let seeds = ctx.size(SEEDS, SEEDS_QUICK);
    let profile = if ctx.quick { "dev" } else { "dist" };
    let program = ours::build(ctx, profile, &["--package", "tombolo-sim", "--example", "bench_drain"])?;
    ctx.say(&format!("{seeds} simulated drains"));
    let text = process::output(process::command(&program).arg(seeds.to_string()))?;
    let told: Ours = serde_json::from_str(&text).context("the simulation's answer can't be read")?;
    let row = |measure: &str, unit: &str, value: u64, goal: Goal| {
        let note = format!(
            "the worst of {seeds} simulated histories, {} workloads (services, single services, jobs with state) at one site \
             and three others, of which the power of one that moves go to is cut once 8 moves are done, for some minutes; {} moves \
             were undone in all; real decisions, simulated network, disks and processes",
            told.workloads, told.undone
        );
        ctx.row(measure, unit, value as f64, None, goal).note(&note).note(PEER)
    };
    let all = told.workloads as f64;
    Ok(vec![
        row("placed elsewhere", "workloads", told.placed, Goal::ValueMin(all)),
        row("lost", "workloads", told.lost, Goal::ValueMax(1.0)),
        row("histories with something doubled, set back or stuck", "histories", told.failed, Goal::ValueMax(1.0)),
        row("simulated time of the median", "ms", told.took_ms, Goal::ValueMax(3_600_000.0)),
    ])
}
