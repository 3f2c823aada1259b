//! `dispatch`: ten thousand jobs of one line over twenty simulated sites, submitted, placed and durable; a second.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Context, Goal, Row, median, ours};
use crate::process;

const JOBS: u64 = 10_000;
const JOBS_QUICK: u64 = 1_000;
const SITES: &str = "20";
/// Stages of a run where jobs come together, at most as many as a project may have.
const TOGETHER: u64 = 500;
/// What Nomad's makers published of their million containers.
const NOMAD: f64 = 1_500.0;

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let jobs = ctx.size(JOBS, JOBS_QUICK);
    let profile = if ctx.quick { "dev" } else { "dist" };
    let program = ours::build(ctx, profile, &["--package", "tombolo-control", "--example", "bench_engine"])?;
    let shapes = [("jobs placed, each a run of its own", 1), ("jobs placed, 500 in a run", TOGETHER)];
    let mut rates = [Vec::new(), Vec::new()];
    for round in 1..=ctx.runs {
        for ((_, stages), rates) in shapes.iter().zip(&mut rates) {
            ctx.say(&format!("round {round} of {}: {jobs} jobs, {stages} in a run", ctx.runs));
            let dir = ctx.fresh("engine")?;
            let mut command = process::command(&program);
            command.arg("dispatch").arg(&dir).args([&jobs.to_string(), &stages.to_string(), SITES]);
            let told: Value = serde_json::from_str(&process::output(&mut command)?)?;
            let number = |field: &str| told[field].as_f64().with_context(|| format!("no {field} in {told}"));
            rates.push(number("jobs")? / number("seconds")?);
        }
    }
    let note = format!(
        "{jobs} jobs that all stay placed, 64 clients, every answer durable in SQLite; the real engine and database in one \
         process, sites simulated by their reports; profile {profile}; Nomad's number is published, on a cluster of its \
         own, not run here"
    );
    let rows = shapes.iter().zip(rates).map(|((measure, _), rates)| {
        ctx.row(measure, "1/s", median(rates), Some(("Nomad (published)", NOMAD)), Goal::RatioMin(1.0)).note(&note)
    });
    Ok(rows.collect())
}
