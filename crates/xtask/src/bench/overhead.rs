//! `overhead`: the same training as it is, and as a job of ours; the same Python, in turns.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::place::{Place, wait_for};
use super::{Context, Goal, Row, median, peers};
use crate::process;

const SECONDS: u64 = 30;
const SECONDS_QUICK: u64 = 2;
const SCRIPT: &str = include_str!("overhead.py");
const GOAL: f64 = 1.01;
/// How much longer than planned a run may take before it counts as stuck.
const PATIENCE: u32 = 20;

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let seconds = ctx.size(SECONDS, SECONDS_QUICK);
    let python = peers::python(peers::ARROW, "python")?;
    let place = Place::start(ctx)?;
    let script = ctx.fresh("project")?.join("train.py");
    std::fs::write(&script, SCRIPT).context("can't write the script")?;
    // More threads than one would measure the scheduler.
    let python = format!("env OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 {}", python.display());
    let shell = |command: &str| {
        let mut shell = process::command("sh");
        shell.args(["-c", command]).current_dir(ctx.path("project"));
        shell
    };
    let steps = process::output(&mut shell(&format!("{python} train.py calibrate {seconds}")))?;
    let train = format!("{python} train.py {}", steps.trim());
    // What is run once before the turns begin is not counted: it is short, and makes the code known at the site.
    place.project(ctx, "warm", &format!("{python} train.py 1"))?;
    let code_known = place.project_body("warm", &train)?;

    let (mut direct, mut ran, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ctx.runs {
        ctx.say(&format!("round {round} of {}: direct, as a job", ctx.runs));
        direct.push(ctx.time(&mut shell(&train))?);
        process::run(&mut process::command("sync"))?;
        let run = place.submit(&code_known, &format!("overhead-{round}"))?;
        // Asking meanwhile would keep the other core busy, which is often half of the same one.
        std::thread::sleep(Duration::from_secs(seconds));
        let limit = Duration::from_secs(seconds) * PATIENCE + Duration::from_secs(60);
        let over = wait_for("the training as a job", limit, || {
            let view = place.server.api.get(&format!("/v1/runs/{run}"))?;
            Ok((view["state"] != "active").then_some(view))
        })?;
        let (Some(at), Some(ended)) = (over["at"].as_f64(), over["ended"].as_f64()) else {
            bail!("no times in {over}")
        };
        whole.push((ended - at) / 1e3);
        let ran_ms = over["workloads"][0]["attempts"][0]["ran_ms"].as_f64();
        match (over["state"].as_str(), ran_ms) {
            (Some("succeeded"), Some(ran_ms)) => ran.push(ran_ms / 1e3),
            _ => bail!("the training as a job did not succeed: {over}"),
        }
        ctx.say(&format!("direct {:?} s, the job's command {:?} s, from submit to its end {:?} s", direct, ran, whole));
    }
    let note = format!(
        "about {seconds} s of logistic regression with numpy in one thread, the same environment, in turns; {}",
        place.binary.note
    );
    let beside = Some(("direct", median(direct)));
    let row = |measure: &str, values| ctx.row(measure, "s", median(values), beside, Goal::RatioMax(GOAL)).note(&note);
    Ok(vec![row("the command itself, as the site measured it", ran), row("from submit to the recorded end", whole)])
}
