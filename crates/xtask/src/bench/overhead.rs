//! `overhead`: the same training as it is, and as a job of ours; the same Python, in pairs.
//!
//! A machine's speed drifts by more than the hundredth that is asked for, so each job is compared with the training beside
//! it alone, which of the two comes first changes from pair to pair, and the median of the pairs' ratios counts. Beside the
//! wall time stands the processors' time, which others on the machine disturb far less: once of the command alone, once
//! with all that the agent, its shim and the control plane took meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::pairs::Pairs;
use super::place::{Place, wait_for};
use super::{Context, Goal, Row, peers};
use crate::process;

const SECONDS: u64 = 30;
const SECONDS_QUICK: u64 = 2;
/// The fewest pairs of which a hundredth can be told.
const PAIRS_MIN: usize = 10;
const SCRIPT: &str = include_str!("overhead.py");
const GOAL: f64 = 1.01;
/// How much longer than planned a run may take before it counts as stuck.
const PATIENCE: u32 = 20;

/// One training, in seconds.
#[derive(Debug, Clone, Copy)]
struct Direct {
    wall: f64,
    cpu: f64,
}

/// One training as a job, in seconds.
#[derive(Debug, Clone, Copy)]
struct Job {
    /// The command, as the site measured it.
    ran: f64,
    cpu: f64,
    /// From submit to the recorded end.
    whole: f64,
    /// The processors' time of everything: the command, the shim, the agent, the control plane.
    cpu_whole: f64,
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let seconds = ctx.size(SECONDS, SECONDS_QUICK);
    let pairs = if ctx.quick { 2 } else { ctx.runs.max(PAIRS_MIN) };
    let python = peers::python(peers::ARROW, "python")?;
    let place = Place::start(ctx)?;
    let script = ctx.fresh("project")?.join("train.py");
    std::fs::write(&script, SCRIPT).context("can't write the script")?;
    // More threads than one would measure the scheduler.
    let python = format!("env OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 {}", python.display());
    let steps = process::output(&mut shell(ctx, &format!("{python} train.py calibrate {seconds}")))?;
    let train = format!("{python} train.py {}", steps.trim());
    // What is run once before the turns begin is not counted: it is short, and makes the code known at the site.
    place.project(ctx, "warm", &format!("{python} train.py 1"))?;
    let code_known = place.project_body("warm", &train)?;

    let (mut direct, mut jobs) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let run_job = || as_a_job(&place, &code_known, pair, seconds);
        let (alone, job) = match pair % 2 {
            0 => (as_it_is(ctx, &train)?, run_job()?),
            _ => {
                let job = run_job()?;
                (as_it_is(ctx, &train)?, job)
            }
        };
        ctx.say(&format!("pair {} of {pairs}: {alone:?}, {job:?}", pair + 1));
        direct.push(alone);
        jobs.push(job);
    }
    let note = format!(
        "about {seconds} s of logistic regression with numpy in one thread, the same environment, {pairs} pairs of which \
         each has either side first in turn; {}",
        place.binary.note
    );
    let row = |measure: &str, beside: fn(&Direct) -> f64, ours: fn(&Job) -> f64| {
        let pairs = Pairs::new(jobs.iter().map(ours), direct.iter().map(beside));
        ctx.paired(measure, "s", &pairs, "direct", Goal::RatioMax(GOAL)).note(&note)
    };
    Ok(vec![
        row("the command itself, as the site measured it", |d| d.wall, |j| j.ran),
        row("from submit to the recorded end", |d| d.wall, |j| j.whole),
        row("processors' time of the command", |d| d.cpu, |j| j.cpu),
        row("processors' time of the command and all of Tombolo", |d| d.cpu, |j| j.cpu_whole),
    ])
}

fn shell(ctx: &Context, command: &str) -> std::process::Command {
    let mut shell = process::command("sh");
    shell.args(["-c", command]).current_dir(ctx.path("project"));
    shell
}

fn as_it_is(ctx: &Context, train: &str) -> Result<Direct> {
    // What was written before is flushed before the processors' time is looked at.
    process::run(&mut process::command("sync"))?;
    let before = process::cpu("self")?;
    let wall = ctx.time(&mut shell(ctx, train))?;
    let after = process::cpu("self")?;
    Ok(Direct { wall, cpu: after.children - before.children })
}

fn as_a_job(place: &Place, body: &str, pair: usize, seconds: u64) -> Result<Job> {
    process::run(&mut process::command("sync"))?;
    let before = place.cpu()?;
    let run = place.submit(body, &format!("overhead-{pair}"))?;
    // Asking meanwhile would keep the other core busy, which is often half of the same one.
    std::thread::sleep(Duration::from_secs(seconds));
    let limit = Duration::from_secs(seconds) * PATIENCE + Duration::from_secs(60);
    let over = wait_for("the training as a job", limit, || {
        let view = place.server.api.get(&format!("/v1/runs/{run}"))?;
        Ok((view["state"] != "active").then_some(view))
    })?;
    if over["state"] != "succeeded" {
        bail!("the training as a job did not succeed: {over}");
    }
    let number =
        |value: &serde_json::Value| value.as_f64().map(|ms| ms / 1e3).with_context(|| format!("no times in {over}"));
    let attempt = &over["workloads"][0]["attempts"][0];
    let cpu = number(&attempt["cpu_ms"])?;
    // What a process took is added to its parent's when that has seen it end, which is a moment after it told how it ended.
    let cpu_whole = wait_for("the end of the shim", Duration::from_secs(60), || {
        let taken = place.cpu()? - before;
        Ok((taken >= cpu).then_some(taken))
    })?;
    let whole = number(&over["ended"])? - number(&over["at"])?;
    Ok(Job { ran: number(&attempt["ran_ms"])?, cpu, whole, cpu_whole })
}
