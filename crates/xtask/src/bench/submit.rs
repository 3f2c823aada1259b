//! `submit`: from submitting a job of one line to that line; beside `srun` and `ray job submit`.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::place::{Place, Process, wait_for};
use super::slurm::Slurm;
use super::{Context, Goal, Row, median, peers};
use crate::process;

const TIMES: u64 = 50;
const TIMES_QUICK: u64 = 3;
const GOAL_MS: f64 = 50.0;
/// What the jobs print.
pub const LINE: &str = "first-line";
const RAY: &[&str] = &["ray[default]==2.60.0"];
const RAY_UP_MAX: Duration = Duration::from_secs(120);
/// A line that doesn't come within this doesn't come.
const LINE_MAX: Duration = Duration::from_secs(60);

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let times = ctx.size(TIMES, TIMES_QUICK);
    let place = Place::start(ctx)?;
    ctx.fresh("project")?;
    let body = place.project(ctx, "hello", &format!("echo {LINE}"))?;
    let slurm = Slurm::start(ctx);
    let ray = Ray::start(ctx);
    let (mut api, mut cli, mut srun, mut submitted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    ctx.say(&format!("{times} times each, in turns: ours, srun, ray job submit"));
    for number in 0..times {
        api.push(over_api(&place, &body, number)? * 1e3);
        cli.push(first_line(&mut place.run_command(ctx))? * 1e3);
        if let Ok(slurm) = &slurm {
            srun.push(first_line(slurm.command("srun").args(["echo", LINE]))? * 1e3);
        }
        if let Ok(ray) = &ray {
            submitted.push(first_line(&mut ray.job()?)? * 1e3);
        }
    }
    let mut note = format!("median of {times}; code at the site already; {}", place.binary.note);
    for (name, failed) in [("srun", slurm.as_ref().err()), ("ray job submit", ray.as_ref().err())] {
        if let Some(why) = failed {
            note += &format!("; {name} could not be started: {why:#}");
        }
    }
    if let Ok(slurm) = &slurm {
        note += &format!("; Slurm {}", peers::version(slurm.command("srun").arg("--version"))?);
    }
    if ray.is_ok() {
        note += &format!("; Ray {}", RAY[0].trim_start_matches("ray[default]=="));
    }
    let mut rows = Vec::new();
    let ours = [("over the API", &api), ("`tombolo run`, its process's start and the upload included", &cli)];
    for (measure, ours) in ours {
        let ours = median(ours.clone());
        rows.push(ctx.row(measure, "ms", ours, None, Goal::ValueMax(GOAL_MS)).note(&note));
        for (peer, theirs) in [("srun", &srun), ("ray job submit", &submitted)] {
            if !theirs.is_empty() {
                let beside = Some((peer, median(theirs.clone())));
                rows.push(ctx.row(measure, "ms", ours, beside, Goal::RatioMax(1.0)).note(&note));
            }
        }
    }
    Ok(rows)
}

/// Posts the run and follows its log until the first line; in seconds.
pub fn over_api(place: &Place, body: &str, number: u64) -> Result<f64> {
    let began = Instant::now();
    let run = place.submit(body, &format!("submit-{number}"))?;
    let path = format!("/v1/workloads/{run}/hello/logs?follow=true");
    loop {
        // The log can't be followed before the site has begun with the job.
        match place.server.api.first_event(&path)? {
            Some(line) if line.contains(LINE) => return Ok(began.elapsed().as_secs_f64()),
            _ if began.elapsed() > LINE_MAX => bail!("{run} has printed nothing"),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Runs a command until it prints the line, and then to its end.
fn first_line(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("can't start {}", process::shown(command)))?;
    let mut seconds = None;
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        // Some tell the command too, which has the same words.
        if seconds.is_none() && line.trim_end().ends_with(LINE) && !line.contains("echo") {
            seconds = Some(began.elapsed().as_secs_f64());
        }
    }
    let status = child.wait()?;
    match seconds {
        Some(seconds) if status.success() => Ok(seconds),
        _ => bail!("{} ended with {status}, its line seen: {}", process::shown(command), seconds.is_some()),
    }
}

/// A Ray of one node on loopback.
struct Ray {
    head: Process,
    address: String,
    _temp: tempfile::TempDir,
}

impl Ray {
    fn start(ctx: &Context) -> Result<Ray> {
        ctx.say("starting Ray");
        let program = peers::python(RAY, "ray")?;
        let port = || Ok::<_, anyhow::Error>(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let (head, dashboard) = (port()?, port()?);
        // Ray makes sockets whose paths are long, so its directory's must be short.
        let temp = tempfile::Builder::new().prefix("ray").tempdir_in("/tmp").context("can't make Ray's directory")?;
        let mut command = process::command(program);
        command.args(["start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]);
        command.args(["--disable-usage-stats", "--num-cpus=2", "--object-store-memory=100000000"]);
        command.arg(format!("--port={head}")).arg(format!("--dashboard-port={dashboard}"));
        command.arg(format!("--temp-dir={}", temp.path().display()));
        let head = Process::start(ctx, "ray", &mut command)?;
        let mut ray = Ray { head, address: format!("http://127.0.0.1:{dashboard}"), _temp: temp };
        wait_for("Ray's start", RAY_UP_MAX, || {
            if ray.head.0.try_wait()?.is_some() {
                bail!("Ray ended: {}", std::fs::read_to_string(ctx.path("ray.log"))?);
            }
            Ok(first_line(&mut ray.job()?).is_ok().then_some(()))
        })?;
        Ok(ray)
    }

    fn job(&self) -> Result<Command> {
        let mut command = process::command(peers::python(RAY, "ray")?);
        command.env("RAY_ADDRESS", &self.address).env("RAY_USAGE_STATS_ENABLED", "0");
        command.args(["job", "submit", "--", "echo", LINE]);
        Ok(command)
    }
}
