//! `move-checkpoint`: the downtime of a training job with a large state that goes to another site and back while it trains,
//! over a line of 40 ms round trip and 300 Mbit/s; and whether it learns the same as one that stays.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::apart::{Apart, SITES, TRAIN};
use super::place::wait_for;
use super::wan::Line;
use super::{Context, Goal, Row, median};

const BYTES: u64 = 1_000_000_000;
const BYTES_QUICK: u64 = 50_000_000;
const LINE: Line = Line { one_way_ms: 20, mbit: 300, loss_percent: 0.0 };
/// KubeVirt cuts a guest off from its memory for so long at most, in milliseconds.
const KUBEVIRT_MS: f64 = 900.0;
/// One table in a hundred is written so often, in seconds.
const CHANGES_EVERY: u64 = 10;
const STEP_SECONDS: f64 = 0.05;
/// Between two moves, so that the state goes on changing.
const PAUSE: Duration = Duration::from_secs(CHANGES_EVERY + 2);
const READY_MAX: Duration = Duration::from_secs(300);
const TRAINED_MAX: Duration = Duration::from_secs(1_800);

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let size = ctx.size(BYTES, BYTES_QUICK);
    ctx.need_disk(8 * size)?;
    let apart = Apart::start(ctx, &LINE)?;
    apart.prefer_near()?;
    apart.write("train.py", TRAIN)?;
    // Long enough for all moves; both runs make as many steps.
    let moves = 2 * ctx.runs;
    let steps = (60 + moves as u64 * 60) as f64 / STEP_SECONDS;
    let steps = if ctx.quick { steps / 2.0 } else { steps } as u64;
    let yaml = |name: &str| {
        format!(
            "project: {name}\nstages:\n  train:\n    run: python3 train.py {size} {CHANGES_EVERY} {steps} {STEP_SECONDS}\n    \
             out: [model]\n    resources: {{ cpus: 0.5 }}\n"
        )
    };
    let still = apart.submit(&yaml("still"))?;
    let moved = apart.submit(&yaml("moved"))?;
    let stage = format!("{moved}/train");
    apart.printed(&stage, "ready", READY_MAX)?;
    let (mut switch, mut down, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..moves {
        std::thread::sleep(PAUSE);
        let to = SITES[(number + 1) % 2];
        let view = apart.json(&["move", &stage, "--to", to])?;
        if view["stage"] != "done" {
            bail!("the move to {to} was undone: {view}");
        }
        let field = |name: &str| view[name].as_f64().with_context(|| format!("no {name} in {view}"));
        ctx.say(&format!(
            "to {to}: {} rounds, {:.0} MB, the last {:.2} MB; down {} ms, of this the state's {} ms",
            view["rounds"],
            field("bytes")? / 1e6,
            field("last_bytes")? / 1e6,
            view["downtime_ms"],
            view["switch_ms"],
        ));
        switch.push(field("switch_ms")?);
        down.push(field("downtime_ms")?);
        last.push(field("last_bytes")? / 1e6);
    }
    ctx.say("waiting for both to end");
    let learnt = |run: &str| {
        wait_for("the end of the training", TRAINED_MAX, || {
            let view = apart.json(&["ps", run])?;
            let stage = view[0]["workloads"].as_array().and_then(|stages| stages.first()).cloned().unwrap_or_default();
            match stage["state"].as_str() {
                Some("succeeded") => Ok(Some(stage["outputs"]["model"].clone())),
                Some("failed" | "stopped") => bail!("{run} did not succeed: {stage}"),
                _ => Ok(None),
            }
        })
    };
    let (still, moved) = (learnt(&still)?, learnt(&moved)?);
    let same = !still.is_null() && version(&still) == version(&moved);
    ctx.say(&format!("learnt: {} unmoved, {} moved", version(&still), version(&moved)));
    let note = format!(
        "{:.2} GB of state in 101 files, one in a hundred written anew each {CHANGES_EVERY} s; {} ms of round trip, {} Mbit/s; \
         {moves} moves there and back; a relay of ours joins two network namespaces, all on this machine; the last round \
         had {:.2} MB at the median; {}",
        size as f64 / 1e9,
        2 * LINE.one_way_ms,
        LINE.mbit,
        median(last),
        apart.binary.note,
    );
    let kubevirt = Some(("KubeVirt's bound for a VM's memory", KUBEVIRT_MS));
    let worst = switch.iter().copied().fold(0.0, f64::max);
    let rows = [
        ("from the source's end until the command runs again, median", median(switch), kubevirt, Goal::ValueMax(900.0)),
        ("the same, worst", worst, kubevirt, Goal::ValueMax(900.0)),
        ("with the program's own end and save", median(down), None, Goal::ValueMax(2_000.0)),
    ];
    let mut rows: Vec<Row> =
        rows.into_iter().map(|(what, ms, peer, goal)| ctx.row(what, "ms", ms, peer, goal).note(&note)).collect();
    let equal = if same { 1.0 } else { 0.0 };
    rows.push(ctx.row("the model is that of an unmoved run", "of 1", equal, None, Goal::ValueMin(1.0)).note(&note));
    Ok(rows)
}

fn version(output: &serde_json::Value) -> String {
    output["version"].as_str().or(output.as_str()).unwrap_or("none").to_owned()
}
