//! `move-quote`: what quotes of moves said beside what the moves took, over jobs and services with states of several sizes
//! that change at several rates, and lines of several speeds.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::apart::{Apart, SITES, TRAIN};
use super::wan::Line;
use super::{Context, Goal, Row, median};
use crate::process;

const MOVES: u64 = 50;
const MOVES_QUICK: u64 = 8;
/// One way in milliseconds, and Mbit/s.
const LINES: [Line; 3] = [
    Line { one_way_ms: 20, mbit: 300, loss_percent: 0.0 },
    Line { one_way_ms: 5, mbit: 100, loss_percent: 0.0 },
    Line { one_way_ms: 40, mbit: 50, loss_percent: 0.0 },
];
/// Bytes of state, and seconds between two changes of a hundredth of it.
const STATES: [(u64, f64); 4] = [(2_000_000, 1.0), (20_000_000, 0.5), (50_000_000, 10.0), (100_000_000, 2.0)];
/// How long a workload stays before it is moved on, in seconds.
const STAYS_S: [u64; 4] = [3, 1, 8, 5];
/// What asks for nothing costs nothing anywhere, and begins at any site.
const LITTLE: &str = "resources: { cpus: 0.5 }";
const READY_MAX: Duration = Duration::from_secs(120);
const GOAL_PERCENT: f64 = 20.0;
const GOAL_TIMES: f64 = 2.0;

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let moves = ctx.size(MOVES, MOVES_QUICK);
    let lines = if ctx.quick { &LINES[..1] } else { &LINES[..] };
    let mut views = Vec::new();
    let mut note = String::new();
    for (number, line) in lines.iter().enumerate() {
        let share = (moves as usize * (number + 1) / lines.len()) - (moves as usize * number / lines.len());
        ctx.say(&format!("{share} moves over {} ms and {} Mbit/s", 2 * line.one_way_ms, line.mbit));
        let apart = Apart::start(ctx, line)?;
        apart.prefer_near()?;
        apart.write("train.py", TRAIN)?;
        note = apart.binary.note.to_owned();
        over(ctx, &apart, share, &mut views)?;
    }
    let note = format!(
        "{} moves of jobs and single services with 2 to 100 MB of state, of which a hundredth changes each 0.5 to 10 s, after stays of 1 to 8 s, over \
         {} lines; the first of each is quoted before anything is known of its program; {note}",
        views.len(),
        lines.len(),
    );
    let mut rows = Vec::new();
    for (what, field, quoted) in [("bytes", "bytes", "bytes"), ("downtime", "downtime_ms", "downtime_ms")] {
        let pairs = views.iter().filter_map(|view| Some((view["quote"][quoted].as_f64()?, view[field].as_f64()?)));
        let pairs: Vec<(f64, f64)> = pairs.map(|(quoted, actual)| (quoted.max(1.0), actual.max(1.0))).collect();
        let off = pairs.iter().map(|(quoted, actual)| (quoted - actual).abs() * 100.0 / actual).collect();
        let worst = pairs.iter().map(|(quoted, actual)| (quoted / actual).max(actual / quoted)).fold(1.0, f64::max);
        let measure = format!("{what}: median error of what was quoted");
        rows.push(ctx.row(&measure, "%", median(off), None, Goal::ValueMax(GOAL_PERCENT)).note(&note));
        let measure = format!("{what}: worst");
        rows.push(ctx.row(&measure, "times", worst, None, Goal::ValueMax(GOAL_TIMES)).note(&note));
    }
    Ok(rows)
}

/// Moves each workload there and back until there are so many moves.
fn over(ctx: &Context, apart: &Apart, moves: usize, views: &mut Vec<Value>) -> Result<()> {
    let mut left = moves;
    for (number, (size, every)) in STATES.iter().cycle().enumerate() {
        if left == 0 {
            return Ok(());
        }
        let name = format!("quote{number}");
        let train = format!("python3 train.py {size} {every} 1000000 0.05");
        let yaml = match number % 2 {
            0 => format!("project: {name}\nstages:\n  train: {{ run: '{train}', out: [model], {LITTLE} }}\n"),
            // A service that answers on its port while it trains.
            _ => format!(
                "project: {name}\nservices:\n  train:\n    run: 'python3 -m http.server --bind 127.0.0.1 $PORT & exec {train}'\n    \
                 single: true\n    ready: /\n    {LITTLE}\n"
            ),
        };
        let run = apart.submit(&yaml)?;
        let stage = format!("{run}/train");
        apart.printed(&stage, "ready", READY_MAX)?;
        for (at, stay_s) in STAYS_S.iter().enumerate().take(left) {
            std::thread::sleep(Duration::from_secs(*stay_s));
            let view = apart.json(&["move", &stage, "--to", SITES[(at + 1) % 2]])?;
            let (quote, took) = (&view["quote"], &view);
            ctx.say(&format!(
                "{stage}: bytes {} of {} quoted, down {} of {} ms",
                took["bytes"], quote["bytes"], took["downtime_ms"], quote["downtime_ms"]
            ));
            views.push(view);
            left -= 1;
        }
        process::output(apart.command().args(["stop", &run]))?;
    }
    Ok(())
}
