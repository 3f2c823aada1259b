//! `k8s-many`: many short jobs at a site that is a Kubernetes of one node; beside as many Jobs by kubectl in a shell loop.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::cluster::{Clustered, IMAGE};
use super::place::wait_for;
use super::{Context, Goal, Row, ours};
use crate::process;

const JOBS: u64 = 500;
const JOBS_QUICK: u64 = 20;
const AGENT_BYTES_MAX: f64 = 100e6;
const DONE_MAX: Duration = Duration::from_secs(40 * 60);

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let jobs = ctx.size(JOBS, JOBS_QUICK);
    let clustered = Clustered::start(ctx)?;
    ctx.fresh("project")?;
    let body = clustered.place.project(ctx, "hello", "true")?;
    clustered.close_lab(ctx)?;
    let one: Value = serde_json::from_str(&body)?;
    ctx.say(&format!("{jobs} jobs by kubectl"));
    let theirs = jobs as f64 / kubectl(&clustered, jobs)?;
    ctx.say(&format!("{jobs} jobs by us; theirs {theirs:.2}/s"));
    let ours_rate = jobs as f64 / ours_of(&clustered, &one, jobs)?;
    let agent = ours::memory(clustered.agent()?, "VmHWM")? as f64;
    let note = format!(
        "{jobs} jobs that end at once, one node of {} cores, from the first word to the last end; theirs a shell loop of `kubectl create job`, \
         ours one run of {jobs} stages; {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        clustered.place.binary.note
    );
    Ok(vec![
        ctx.row("jobs in a second", "/s", ours_rate, Some(("kubectl create job", theirs)), Goal::RatioMin(1.0))
            .note(&note),
        ctx.row("agent's memory at its highest", "MB", agent / 1e6, None, Goal::ValueMax(AGENT_BYTES_MAX / 1e6))
            .note(&note),
    ])
}

/// Until all have ended; in seconds.
fn kubectl(clustered: &Clustered, jobs: u64) -> Result<f64> {
    let command = clustered.kubectl_command()?;
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let script = format!(
        "for i in $(seq {jobs}); do {} create job many-$i --image={IMAGE} -- true || exit 1; done",
        words.join(" ")
    );
    let mut shell = process::command("sh");
    shell.args(["-c", &script]).stdout(Stdio::null());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let began = Instant::now();
    if !shell.status().context("can't start a shell")?.success() {
        bail!("kubectl has failed");
    }
    let path = "--output=jsonpath={range .items[?(@.status.succeeded==1)]}{.metadata.name}{\"\\n\"}{end}";
    wait_for("the end of all Jobs", DONE_MAX, || {
        std::thread::sleep(Duration::from_millis(500));
        let done = clustered.kubectl(&["get", "jobs", path])?;
        Ok((done.lines().filter(|name| name.starts_with("many-")).count() as u64 >= jobs).then_some(()))
    })?;
    let took = began.elapsed().as_secs_f64();
    // What is left of them is nobody's load any more.
    clustered.kubectl(&["delete", "jobs", "--all", "--wait=true"])?;
    Ok(took)
}

fn ours_of(clustered: &Clustered, one: &Value, jobs: u64) -> Result<f64> {
    let mut body = one.clone();
    let stage = body["project"]["workloads"]["hello"].take();
    let stages: serde_json::Map<String, Value> =
        (0..jobs).map(|number| (format!("s{number}"), stage.clone())).collect();
    body["project"] = json!({"name": "many", "data": {}, "workloads": stages});
    let began = Instant::now();
    let run = clustered.place.submit(&body.to_string(), "many")?;
    wait_for("the end of the run", DONE_MAX, || {
        std::thread::sleep(Duration::from_millis(500));
        let view = clustered.place.server.api.get(&format!("/v1/runs/{run}"))?;
        match view["state"].as_str() {
            Some("succeeded") => Ok(Some(())),
            Some("failed" | "stopped") => bail!("the run has not succeeded"),
            _ => Ok(None),
        }
    })?;
    Ok(began.elapsed().as_secs_f64())
}
