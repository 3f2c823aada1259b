//! `slurm-submit`: from submitting a job of one line to that line, at a site that is a Slurm; beside `sbatch` itself.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::place::{Place, wait_for};
use super::slurm::Slurm;
use super::submit::{LINE, over_api};
use super::{Context, Goal, Row, median, peers};
use crate::process;

/// The scheduler looks once a second: many are needed for a median to say anything.
const TIMES: u64 = 40;
const TIMES_QUICK: u64 = 3;
/// How much later than with `sbatch` the line may come.
const GOAL_MS: f64 = 100.0;
const LINE_MAX: Duration = Duration::from_secs(60);

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let times = ctx.size(TIMES, TIMES_QUICK);
    let slurm = Slurm::start(ctx)?;
    let mut place = Place::without_sites(ctx)?;
    place.join_as(ctx, "hpc", "home/site", |command| {
        command.args(["--slurm", "--partition", "main"]);
        slurm.tell(command);
    })?;
    ctx.fresh("project")?;
    let body = place.project(ctx, "hello", &format!("echo {LINE}"))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    ctx.say(&format!("{times} times each, in turns: ours, sbatch"));
    for number in 0..times {
        idle(&slurm)?;
        ours.push(over_api(&place, &body, number)? * 1e3);
        idle(&slurm)?;
        theirs.push(sbatch(ctx, &slurm, number)? * 1e3);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let note = format!(
        "median of {times}, one node, an idle cluster; the goal is {GOAL_MS} ms more than sbatch; ours over the API, with code at the site already; {}; Slurm {}",
        place.binary.note,
        peers::version(slurm.command("sbatch").arg("--version"))?
    );
    let goal = Goal::RatioMax(((theirs + GOAL_MS) / theirs * 1e3).floor() / 1e3);
    Ok(vec![ctx.row("first line", "ms", ours, Some(("sbatch", theirs)), goal).note(&note)])
}

/// Waits until no job is left: the scheduler looks at what waits once a second.
fn idle(slurm: &Slurm) -> Result<()> {
    wait_for("the end of a job", LINE_MAX, || {
        let jobs = process::output(slurm.command("squeue").arg("--noheader"))?;
        Ok(jobs.trim().is_empty().then_some(()))
    })
}

/// Until the line is in the job's output; in seconds.
fn sbatch(ctx: &Context, slurm: &Slurm, number: u64) -> Result<f64> {
    let output = ctx.path(&format!("sbatch-{number}.out"));
    let began = Instant::now();
    let mut command = slurm.command("sbatch");
    command.arg(format!("--output={}", output.display())).arg(format!("--wrap=echo {LINE}"));
    process::output(&mut command)?;
    while !std::fs::read_to_string(&output).is_ok_and(|text| text.contains(LINE)) {
        if began.elapsed() > LINE_MAX {
            bail!("the job has printed nothing");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(began.elapsed().as_secs_f64())
}
