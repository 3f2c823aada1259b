//! `move-switch`: a service under 1,000 requests a second, asked at one site's gateway, goes to another site and back over
//! and over, over a line of 40 ms.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::apart::{Apart, SITES};
use super::load::{Asked, Load, served};
use super::place::wait_for;
use super::wan::Line;
use super::{Context, Goal, Row, peers};
use crate::process;

const MOVES: u64 = 20;
const MOVES_QUICK: u64 = 4;
const RATE: u32 = 1_000;
/// A request to the other end takes the line's 40 ms and more of its connection's time: at this number each has 100 ms.
const CONNECTIONS: u32 = 100;
const LINE: Line = Line { one_way_ms: 20, mbit: 300, loss_percent: 0.0 };
/// What the worst hundredth may take beyond the line's own round trip.
const EXTRA_MS: f64 = 10.0;
/// How long it is asked at each site while nothing moves.
const CALM: Duration = Duration::from_secs(10);
const CALM_QUICK: Duration = Duration::from_secs(3);
/// What belongs to a move after it has arrived: the source's last answers and its end.
const SETTLE: Duration = Duration::from_secs(1);
const UP_MAX: Duration = Duration::from_secs(60);
const PATH: &str = "/bench-move/web/";
const SERVICE: &str = include_str!("counting.py");

/// From when until when, since the epoch.
type Span = (Duration, Duration);

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    peers::debian(&["ip"])?;
    let moves = ctx.size(MOVES, MOVES_QUICK);
    let calm_for = if ctx.quick { CALM_QUICK } else { CALM };
    let apart = Apart::start(ctx, &LINE)?;
    let at = service(ctx, &apart)?;
    let mut command = apart.wan.at(0, std::env::current_exe().context("this program can't be found")?);
    let load = Load::start(&mut command, &at, PATH, RATE, CONNECTIONS)?;
    // The first second makes the connections.
    std::thread::sleep(SETTLE);
    let (mut calm, mut moving) = ([Vec::new(), Vec::new()], Vec::new());
    calm[0].push(wait(calm_for)?);
    for number in 1..=moves {
        let to = (number % 2) as usize;
        moving.push(span(|| {
            process::output(apart.command().args(["move", "web", "--to", SITES[to], "--method", "switch"]))?;
            wait(SETTLE).map(drop)
        })?);
        // Every stay is looked at, as the machine is not as calm all the time.
        calm[to].push(wait(calm_for / 4)?);
    }
    let asked = load.end()?;
    let note = note(&asked, moves, &apart.binary.note);
    // The service has ended with what it has counted on disk.
    drop(apart);
    let counted = served(&ctx.path("served"))?;
    let doubled = counted.values().filter(|times| **times > 1).count();
    let failed: Vec<&Asked> = asked.iter().filter(|one| one.failed.is_some()).collect();
    // An answer without its request among those that were counted would be as bad as none.
    let unserved = asked.iter().filter(|one| one.failed.is_none() && !counted.contains_key(&one.id)).count();
    for one in failed.iter().take(5) {
        ctx.say(&format!("request {} failed: {}", one.id, one.failed.as_deref().unwrap_or_default()));
    }
    let calm = [p99_ms(&asked, &calm[0]), p99_ms(&asked, &calm[1])];
    let during = p99_ms(&asked, &moving);
    ctx.say(&format!("{} requests; p99 calm {calm:.1?} ms, during moves {during:.1} ms", asked.len()));
    let count =
        |measure: &str, count: usize| ctx.row(measure, "requests", count as f64, None, Goal::ValueMax(1.0)).note(&note);
    let limit = f64::from(2 * LINE.one_way_ms) + EXTRA_MS;
    let told = format!(
        "p99 {during:.1} ms during the moves, {:.1} ms calm at the gateway's own site, {:.1} ms calm at the other one; {note}",
        calm[0], calm[1]
    );
    Ok(vec![
        count("failed", failed.len() + unserved),
        count("doubled", doubled),
        ctx.row(
            "p99 during the moves, above calm at the same site",
            "ms",
            during - calm[0],
            None,
            Goal::ValueMax(limit),
        )
        .note(&told),
    ])
}

fn note(asked: &[Asked], moves: u64, binary: &str) -> String {
    format!(
        "{} posts, {RATE} in a second at times fixed beforehand over {CONNECTIONS} kept connections, latency counted from then; \
         {moves} moves by switch there and back; a line of {} ms round trip and {} Mbit/s by a relay of ours; an asyncio \
         service in Python; a move lasts until it is done and {} s more; clients, sites, line and control plane share the \
         machine; {binary}",
        asked.len(),
        2 * LINE.one_way_ms,
        LINE.mbit,
        SETTLE.as_secs(),
    )
}

fn span(act: impl FnOnce() -> Result<()>) -> Result<Span> {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let from = now()?;
    act()?;
    Ok((from, now()?))
}

fn wait(so_long: Duration) -> Result<Span> {
    span(|| {
        std::thread::sleep(so_long);
        Ok(())
    })
}

/// Of what was due in these times.
fn p99_ms(asked: &[Asked], within: &[Span]) -> f64 {
    let due = |one: &&Asked| within.iter().any(|(from, until)| (*from..*until).contains(&one.due));
    let mut took: Vec<Duration> = asked.iter().filter(due).map(|one| one.took).collect();
    took.sort();
    let at = (took.len() * 99).div_ceil(100).saturating_sub(1);
    took.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

/// Runs the service at the near site, and says where the gateway there is.
fn service(ctx: &Context, apart: &Apart) -> Result<String> {
    // Not by way of a shim that looks for the right version at each start.
    let python = process::output(process::command("python3").args(["-c", "import sys; print(sys.executable)"]))?;
    let serve = format!("exec {} counting.py {}", python.trim(), ctx.fresh("served")?.display());
    let yaml = format!(
        "project: bench-move\nservices:\n  web:\n    run: {}\n    placement: {{ prefer: near }}\n    access: public\n    ready: /\n",
        Value::from(serve)
    );
    apart.write("counting.py", SERVICE)?;
    apart.submit(&yaml)?;
    let url = wait_for("the service's first answer", UP_MAX, || {
        let endpoint = apart.json(&["endpoint", "ls"])?[0].clone();
        let answers = endpoint["replicas"].as_array().is_some_and(|replicas| !replicas.is_empty());
        let urls = endpoint["urls"].as_array().filter(|_| answers);
        let near = urls.and_then(|urls| urls.iter().find(|url| url["site"] == SITES[0]));
        Ok(near.and_then(|near| near["url"].as_str()).map(str::to_owned))
    })?;
    let at = url.strip_prefix("http://").and_then(|url| url.strip_suffix(PATH));
    Ok(at.with_context(|| format!("{url} is no address of the service"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_hundredth_is_of_what_was_due_then() {
        let second = Duration::from_secs;
        let asked: Vec<Asked> =
            (1..=300).map(|id| Asked { id, due: second(id), took: Duration::from_millis(id), failed: None }).collect();
        assert!((p99_ms(&asked, &[(second(1), second(101))]) - 99.0).abs() < 1e-9);
        assert!((p99_ms(&asked, &[(second(1), second(51)), (second(251), second(301))]) - 299.0).abs() < 1e-9);
        assert!(p99_ms(&asked, &[(second(900), second(901))]).is_nan());
    }
}
