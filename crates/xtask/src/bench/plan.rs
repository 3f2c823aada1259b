//! `plan`: a thousand stages on fifty sites, beside SkyPilot's optimizer on what it can express (a chain).

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Context, Goal, Row, median, ours, peers};
use crate::process;

const STAGES: u64 = 1_000;
const STAGES_QUICK: u64 = 100;
const SITES: &str = "50";
/// Plannings in one process, of which the median counts.
const TIMES: &str = "11";
const GOAL_MS: f64 = 100.0;
const SKYPILOT: &[&str] = &["skypilot==0.14.1"];
const SCRIPT: &str = include_str!("plan_skypilot.py");

#[derive(Deserialize)]
struct Ours {
    seconds: Vec<f64>,
    cost: f64,
    greedy: f64,
    exact: bool,
}

#[derive(Deserialize)]
struct Theirs {
    seconds: f64,
    cost: f64,
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let stages = ctx.size(STAGES, STAGES_QUICK).to_string();
    let profile = if ctx.quick { "dev" } else { "dist" };
    let program = ours::build(ctx, profile, &["--package", "tombolo-core", "--example", "bench_plan"])?;
    let python = peers::python(SKYPILOT, "python");
    let world = |shape: &str| process::output(process::command(&program).args([&stages, SITES, shape, TIMES]));
    let (mut chain_ms, mut dag_ms, mut sky_ms) = (Vec::new(), Vec::new(), Vec::new());
    let (mut chain, mut dag, mut theirs) = (None, None, Err(String::new()));
    let (file, script) = (ctx.path("world.json"), ctx.path("plan_skypilot.py"));
    std::fs::write(&script, SCRIPT).context("can't write the script for SkyPilot")?;
    for round in 1..=ctx.runs {
        ctx.say(&format!("round {round} of {}: ours on a chain and on layers, SkyPilot on the chain", ctx.runs));
        let text = world("chain")?;
        std::fs::write(&file, &text).context("can't write the world")?;
        let told: Ours = serde_json::from_str(&text)?;
        chain_ms.push(median(told.seconds.clone()) * 1e3);
        chain = Some(told);
        let told: Ours = serde_json::from_str(&world("dag")?)?;
        dag_ms.push(median(told.seconds.clone()) * 1e3);
        dag = Some(told);
        theirs = match &python {
            Ok(python) => skypilot(process::command(python).arg(&script).arg(&file).arg("1"), ctx),
            Err(error) => Err(format!("{error:#}")),
        };
        sky_ms.extend(theirs.as_ref().ok().map(|theirs| theirs.seconds * 1e3));
    }
    let (chain, dag) = (chain.context("no round")?, dag.context("no round")?);
    let note = |exact: bool| {
        let proved = if exact { "proved the best" } else { "not proved the best" };
        format!("{stages} stages, {SITES} sites, by cost, profile {profile}; our plan is {proved}")
    };
    let sky_note = match &theirs {
        Ok(_) => {
            "SkyPilot's public entry needs real clouds' credentials and catalogues, so its dynamic programme alone is \
                  called, with the same prices; it knows chains, egress and prices, and no capacity, links or residency"
                .to_owned()
        }
        Err(why) => format!("SkyPilot could not be run: {why}"),
    };
    let beside = |value: Option<f64>| value.map(|value| ("SkyPilot's optimizer", value));
    let sky_cost = theirs.as_ref().ok().map(|theirs| theirs.cost);
    let sky_ms = (!sky_ms.is_empty()).then(|| median(sky_ms));
    let greedy = |ours: &Ours| Some(("greedy, stage by stage (a baseline of ours)", ours.greedy));
    // The peer's prices are sums of fractions, ours of whole billionths: equal plans differ in the ninth digit.
    let never_worse = Goal::RatioMax(1.000_001);
    Ok(vec![
        ctx.row("time to plan a chain", "ms", median(chain_ms), beside(sky_ms), Goal::ValueMax(GOAL_MS))
            .note(&note(chain.exact))
            .note(&sky_note),
        ctx.row("cost of the plan of a chain", "$", chain.cost, beside(sky_cost), never_worse)
            .note(&note(chain.exact))
            .note(&sky_note),
        ctx.row("cost of the plan of a chain, beside greedy", "$", chain.cost, greedy(&chain), never_worse)
            .note(&note(chain.exact)),
        ctx.row("time to plan layers", "ms", median(dag_ms), None, Goal::ValueMax(GOAL_MS)).note(&note(dag.exact)),
        ctx.row("cost of the plan of layers", "$", dag.cost, greedy(&dag), never_worse)
            .note(&note(dag.exact))
            .note("SkyPilot solves such a graph as an integer programme with millions of variables, which is left out"),
    ])
}

/// What SkyPilot says, or why it can't.
fn skypilot(command: &mut std::process::Command, ctx: &Context) -> Result<Theirs, String> {
    command.env("HOME", ctx.path("")).env("SKYPILOT_DISABLE_USAGE_COLLECTION", "1");
    let text = process::output(command).map_err(|error| format!("{error:#}"))?;
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|error| format!("it printed {last:?}: {error}"))
}
