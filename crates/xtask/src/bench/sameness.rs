//! `sameness`: the same training as it is, and as a job at a host, at a Kubernetes and at a Slurm.
//!
//! A machine's speed drifts by more than the hundredths that are asked for: each job is compared with the training of its
//! round, the order changes from round to round, and the median of the ratios counts.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::cluster::Clustered;
use super::pairs::Pairs;
use super::place::{Place, wait_for};
use super::slurm::Slurm;
use super::{Context, Goal, Row};
use crate::process;

const SECONDS: u64 = 30;
const SECONDS_QUICK: u64 = 2;
const ROUNDS_MIN: usize = 5;
const PROGRAM: &str = include_str!("sameness.c");
const GOAL: f64 = 1.02;
/// The sites, and what they are.
const SITES: [(&str, &str); 3] = [("lab", "a host"), ("cloud", "a Kubernetes"), ("hpc", "a Slurm")];

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let seconds = ctx.size(SECONDS, SECONDS_QUICK);
    let rounds = if ctx.quick { 2 } else { ctx.runs.max(ROUNDS_MIN) };
    let slurm = Slurm::start(ctx)?;
    let mut clustered = Clustered::start(ctx)?;
    clustered.place.join_as(ctx, "hpc", "home/hpc", |command| {
        command.args(["--slurm", "--partition", "main"]);
        slurm.tell(command);
    })?;
    let place = &clustered.place;
    let project = ctx.fresh("project")?;
    let source = ctx.path("sameness.c");
    std::fs::write(&source, PROGRAM).context("can't write the program")?;
    let mut cc = process::command("cc");
    process::output(cc.args(["-O2", "-static", "-o"]).arg(project.join("sameness")).arg(&source).arg("-lm"))?;
    let mut calibrate = process::command(project.join("sameness"));
    let steps = process::output(calibrate.args(["calibrate", &seconds.to_string()]))?;
    let train = format!("./sameness {}", steps.trim());
    // Makes the code known, and is not counted.
    place.project(ctx, "warm", "./sameness 1")?;
    let body: Value = serde_json::from_str(&place.project_body("warm", &train)?)?;
    for (site, _) in SITES {
        at(place, &body, site, "warm", seconds)?;
    }
    let (mut alone, mut jobs) = (Vec::new(), SITES.map(|_| Vec::new()));
    for round in 0..rounds {
        for turn in 0..=SITES.len() {
            match (turn + round) % (SITES.len() + 1) {
                0 => alone.push(ctx.time(process::command("sh").args(["-c", &train]).current_dir(&project))?),
                one => jobs[one - 1].push(at(place, &body, SITES[one - 1].0, &round.to_string(), seconds)?),
            }
        }
        ctx.say(&format!("round {} of {rounds}: {alone:?}, {jobs:?}", round + 1));
    }
    let note = format!(
        "about {seconds} s of logistic regression by one static program in one thread, {rounds} rounds, the command itself as the site measured it; {}",
        place.binary.note
    );
    let rows = SITES.iter().zip(jobs).map(|((_, what), jobs)| {
        let pairs = Pairs::new(jobs.into_iter(), alone.iter().copied());
        ctx.paired(&format!("training at {what}"), "s", &pairs, "direct", Goal::RatioMax(GOAL)).note(&note)
    });
    Ok(rows.collect())
}

/// As a job at a site; how long the command ran, in seconds.
fn at(place: &Place, body: &Value, site: &str, turn: &str, seconds: u64) -> Result<f64> {
    let mut body = body.clone();
    body["project"]["workloads"]["warm"]["site"] = json!([{ "site": site }]);
    let run = place.submit(&body.to_string(), &format!("{site}-{turn}"))?;
    // Asking meanwhile would keep a processor busy that may be half of the same one.
    std::thread::sleep(Duration::from_secs(seconds));
    let over = wait_for("the training as a job", Duration::from_secs(seconds * 20 + 120), || {
        let view = place.server.api.get(&format!("/v1/runs/{run}"))?;
        Ok((view["state"] != "active").then_some(view))
    })?;
    if over["state"] != "succeeded" {
        bail!("the training at {site} did not succeed: {over}");
    }
    let ran = over["workloads"][0]["attempts"][0]["ran_ms"].as_f64();
    ran.map(|ms| ms / 1e3).with_context(|| format!("no times in {over}"))
}
