//! `k8s-submit`: from submitting a job of one line to that line, at a site that is a Kubernetes; beside `kubectl create job`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::cluster::{Clustered, IMAGE, printed};
use super::place::wait_for;
use super::submit::{LINE, over_api};
use super::{Context, Goal, Row, median};

const TIMES: u64 = 20;
const TIMES_QUICK: u64 = 3;
/// How much later than with kubectl the line may come.
const GOAL_MS: f64 = 150.0;
const LINE_MAX: Duration = Duration::from_secs(60);

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let times = ctx.size(TIMES, TIMES_QUICK);
    let clustered = Clustered::start(ctx)?;
    ctx.fresh("project")?;
    let body = clustered.place.project(ctx, "hello", &format!("echo {LINE}"))?;
    clustered.close_lab(ctx)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first brings the code.
    over_api(&clustered.place, &body, times)?;
    ctx.say(&format!("{times} times each, in turns: ours, kubectl create job"));
    for number in 0..times {
        idle(&clustered)?;
        ours.push(over_api(&clustered.place, &body, number)? * 1e3);
        idle(&clustered)?;
        theirs.push(kubectl(&clustered, number)? * 1e3);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let note = format!(
        "median of {times}, one node, the same image for both, which is there; the goal is {GOAL_MS} ms more than kubectl; ours over the API, \
         with code at the site already; theirs until the line is in the pod's log on the node; {}; Kubernetes 1.36 with fsync of \
         its store off",
        clustered.place.binary.note
    );
    let goal = Goal::RatioMax(((theirs + GOAL_MS) / theirs * 1e3).floor() / 1e3);
    Ok(vec![ctx.row("first line", "ms", ours, Some(("kubectl create job", theirs)), goal).note(&note)])
}

/// Waits until no Job has a pod that lives.
fn idle(clustered: &Clustered) -> Result<()> {
    wait_for("the end of a job", LINE_MAX, || {
        let pods = clustered.kubectl(&[
            "get",
            "pods",
            "--selector=batch.kubernetes.io/job-name",
            "--field-selector=status.phase!=Succeeded",
            "--output=name",
        ])?;
        Ok(pods.trim().is_empty().then_some(()))
    })
}

/// In seconds.
fn kubectl(clustered: &Clustered, number: u64) -> Result<f64> {
    let (job, logs) = (format!("theirs-{number}"), clustered.pod_logs());
    let began = Instant::now();
    clustered.kubectl(&["create", "job", &job, &format!("--image={IMAGE}"), "--", "echo", LINE])?;
    while !printed(&logs, &job).contains(LINE) {
        if began.elapsed() > LINE_MAX {
            bail!("the job has printed nothing");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(began.elapsed().as_secs_f64())
}
