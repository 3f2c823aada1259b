//! `data-read`: a program reads 5 GB that another site holds, as a stream while it comes; beside copying first.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::place::Place;
use super::{Context, Goal, Row, input, median, peers};
use crate::process;

const BYTES: u64 = 5_000_000_000;
const BYTES_QUICK: u64 = 50_000_000;
/// What a training loop takes at once.
const BATCH_BYTES: usize = 1 << 20;
const GOAL_FIRST_S: f64 = 1.0;
const GOAL_TOTAL: f64 = 1.05;

/// Seconds until the first batch, and until the last byte.
#[derive(Default)]
struct Side {
    first: Vec<f64>,
    total: Vec<f64>,
}

impl Side {
    fn push(&mut self, (first, total): (f64, f64)) {
        self.first.push(first);
        self.total.push(total);
    }
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let size = ctx.size(BYTES, BYTES_QUICK);
    // What was added stays in the store, a round's beside the other's.
    ctx.need_disk((ctx.runs as u64 + 3) * size)?;
    peers::debian(&["rclone"])?;
    let dir = ctx.fresh("data")?;
    let file = dir.join("file.bin");
    let mut place = Place::start(ctx)?;
    let (mut streamed, mut copied, mut rclone) = (Side::default(), Side::default(), Side::default());
    for round in 1..=ctx.runs {
        ctx.say(&format!("round {round} of {}: a stream, our copy first, rclone's copy first", ctx.runs));
        // Other bytes and other sites each time: what is there already would not come.
        input::random_file(&file, size, round as u64)?;
        let mut add = place.binary.command(ctx);
        process::output(add.args(["data", "add", "big", "--site", "bench"]).arg(&file))?;
        for (kind, side) in [("stream", &mut streamed), ("copy", &mut copied)] {
            let (site, home) = (format!("{kind}-{round}"), format!("home/{kind}-{round}"));
            place.join(ctx, &site, &home)?;
            process::run(&mut process::command("sync"))?;
            let mut command = place.binary.command(ctx);
            if kind == "stream" {
                side.push(read(command.args(["data", "cat", "big", "--site", &site]), Instant::now(), size)?);
            } else {
                let to = ctx.path("copied");
                let began = Instant::now();
                process::output(command.args(["data", "get", "big", "--site", &site]).arg(&to))?;
                side.push(read(process::command("cat").arg(to.join("file.bin")), began, size)?);
                ctx.remove("copied")?;
            }
            place.leave();
            ctx.remove(&home)?;
        }
        process::run(&mut process::command("sync"))?;
        let began = Instant::now();
        process::output(peers::rclone().arg("copy").arg(&dir).arg(ctx.path("copied")))?;
        rclone.push(read(process::command("cat").arg(ctx.path("copied/file.bin")), began, size)?);
        ctx.remove("copied")?;
    }
    rows(ctx, size, &place, streamed, [("our copy first", copied), ("rclone's copy first", rclone)])
}

/// Reads all that a command prints, as batches.
fn read(command: &mut std::process::Command, began: Instant, size: u64) -> Result<(f64, f64)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("can't start the reader")?;
    let mut stdout = child.stdout.take().context("it prints nothing")?;
    let mut batch = vec![0; BATCH_BYTES];
    stdout.read_exact(&mut batch).context("there is no first batch")?;
    let first = began.elapsed().as_secs_f64();
    let mut bytes = BATCH_BYTES as u64;
    loop {
        match stdout.read(&mut batch)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    let total = began.elapsed().as_secs_f64();
    if !child.wait()?.success() || bytes != size / 8 * 8 {
        bail!("{bytes} bytes of {size} were read");
    }
    Ok((first, total))
}

fn rows(ctx: &Context, size: u64, place: &Place, ours: Side, peers: [(&str, Side); 2]) -> Result<Vec<Row>> {
    let note = format!(
        "{:.2} GB of random bytes in one file, in batches of 1 MiB; two sites on this machine; ours over the sites' \
         encrypted line, verified, durable and kept at the reading site; rclone {} from directory to directory; {}",
        size as f64 / 1e9,
        peers::version(peers::rclone().arg("version"))?,
        place.binary.note,
    );
    let (first, total) = (median(ours.first), median(ours.total));
    let mut rows = Vec::new();
    for (peer, side) in peers {
        let (theirs_first, theirs_total) = (median(side.first), median(side.total));
        let row = |measure: &str, ours: f64, theirs: f64, goal| ctx.row(measure, "s", ours, Some((peer, theirs)), goal);
        rows.push(row("first batch", first, theirs_first, Goal::ValueMax(GOAL_FIRST_S)).note(&note));
        rows.push(row("all of it", total, theirs_total, Goal::RatioMax(GOAL_TOTAL)).note(&note));
    }
    Ok(rows)
}
