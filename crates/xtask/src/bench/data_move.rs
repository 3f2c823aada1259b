//! `data-move`: tables of 2 GB from one store to another over loopback, and again with one row in a hundred changed;
//! beside rsync's daemon and rclone.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::ours::Ours;
use super::{Context, Goal, Row, bytes_in, input, median, peers};
use crate::process;

const BYTES: u64 = 2_000_000_000;
const BYTES_QUICK: u64 = 40_000_000;
/// How long a peer's server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Side {
    new: Vec<f64>,
    changed: Vec<f64>,
    /// Bytes on the wire for the change.
    wire: Vec<f64>,
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let size = ctx.size(BYTES, BYTES_QUICK);
    ctx.need_disk(8 * size)?;
    peers::debian(&["rsync", "rclone"])?;
    let ours = Ours::build(ctx)?;
    ctx.say("making the tables");
    let bytes = bytes_in(&input::tables(ctx, "old", size, false)?)?;
    input::tables(ctx, "new", size, true)?;

    ctx.fresh("store")?;
    let versions =
        [ours.add(ctx, "store", &ctx.path("old"))?.1.version, ours.add(ctx, "store", &ctx.path("new"))?.1.version];
    let serving = ours.serve(ctx, "store")?;
    let rsync_at = free_address()?;
    let _rsync = start(rsync_daemon(ctx, rsync_at)?, rsync_at)?;
    let rclone_at = free_address()?;
    let mut rclone = peers::rclone();
    rclone.args(["serve", "http", "--read-only", "--addr", &rclone_at.to_string()]).arg(ctx.path(""));
    let _rclone = start(rclone, rclone_at)?;

    let (mut tombolo, mut rsync, mut rclone) = (Side::default(), Side::default(), Side::default());
    for round in 1..=ctx.runs {
        ctx.say(&format!("round {round} of {}: ours, rsync, rclone", ctx.runs));
        for name in ["store-there", "rsync-there", "rclone-there"] {
            ctx.remove(name)?;
        }
        tombolo.new.push(ours.fetch(ctx, "store-there", &serving, &versions[0])?.0);
        let (seconds, outcome) = ours.fetch(ctx, "store-there", &serving, &versions[1])?;
        tombolo.changed.push(seconds);
        tombolo.wire.push(outcome.bytes_wire as f64);

        let there = ctx.fresh("rsync-there")?;
        rsync.new.push(rsync_once(rsync_at, "old", &there)?.0);
        let (seconds, wire) = rsync_once(rsync_at, "new", &there)?;
        rsync.changed.push(seconds);
        rsync.wire.push(wire);

        let there = ctx.fresh("rclone-there")?;
        rclone.new.push(ctx.time(&mut rclone_once(rclone_at, "old", &there))?);
        rclone.changed.push(ctx.time(&mut rclone_once(rclone_at, "new", &there))?);
        // rclone copies a changed file whole, and every file has changed.
        rclone.wire.push(bytes as f64);
    }
    rows(ctx, bytes, tombolo, [("rsync", rsync), ("rclone", rclone)])
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free on loopback")?;
    Ok(listener.local_addr()?)
}

/// A server that ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already, or about to be: either is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut command: Command, at: SocketAddr) -> Result<Server> {
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let name = process::shown(&command);
    let mut server = Server(command.spawn().with_context(|| format!("can't start {name}"))?);
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(at).is_err() {
        if let Some(status) = server.0.try_wait()? {
            bail!("{name} ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("{name} doesn't answer at {at}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn rsync_daemon(ctx: &Context, at: SocketAddr) -> Result<Command> {
    let config = ctx.path("rsyncd.conf");
    // No use of chroot and ids, so that it needs no root.
    let text = format!("use chroot = no\nread only = yes\n[data]\npath = {}\n", ctx.path("").display());
    std::fs::write(&config, text).context("can't write rsync's configuration")?;
    let mut command = process::command("rsync");
    command.args(["--daemon", "--no-detach", "--address", &at.ip().to_string(), "--port", &at.port().to_string()]);
    command.arg("--config").arg(config);
    Ok(command)
}

/// Seconds, and bytes over the wire both ways.
fn rsync_once(from: SocketAddr, tree: &str, there: &Path) -> Result<(f64, f64)> {
    process::run(&mut process::command("sync"))?;
    let began = Instant::now();
    // Times are ignored and sizes too: the trees differ in places, not in length.
    let mut command = process::command("rsync");
    command
        .args(["-a", "--stats", "--no-human-readable", "--ignore-times"])
        .arg(format!("rsync://{from}/data/{tree}/"));
    let text = process::output(command.arg(there))?;
    let seconds = began.elapsed().as_secs_f64();
    Ok((seconds, wire_bytes(&text)?))
}

/// The sum of what rsync's statistics say was sent and received.
fn wire_bytes(stats: &str) -> Result<f64> {
    let of = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().replace(',', "").parse::<f64>().ok()
    };
    let sum = of("Total bytes sent:").zip(of("Total bytes received:")).map(|(sent, received)| sent + received);
    sum.context("rsync's statistics don't say what went over the wire")
}

fn rclone_once(from: SocketAddr, tree: &str, there: &Path) -> Command {
    let mut command = peers::rclone();
    command.args(["copy", "--ignore-times", "--http-url", &format!("http://{from}/{tree}"), ":http:"]).arg(there);
    command
}

fn rows(ctx: &Context, bytes: u64, ours: Side, peers: [(&str, Side); 2]) -> Result<Vec<Row>> {
    let note = format!(
        "{:.2} GB of CSV and Parquet over loopback; ours goes from chunk store to chunk store, durable and verified, over TCP without the encryption that sites have between them; rsync {}, rclone {}",
        bytes as f64 / 1e9,
        peers::version(process::command("rsync").arg("--version"))?,
        peers::version(peers::rclone().arg("version"))?
    );
    let rate = |seconds: &[f64]| bytes as f64 / 1e6 / median(seconds.to_vec());
    let share = |wire: &[f64]| median(wire.to_vec()) * 100.0 / bytes as f64;
    let mut rows = Vec::new();
    for (peer, side) in &peers {
        let beside = Some((*peer, rate(&side.new)));
        rows.push(ctx.row("transfer", "MB/s", rate(&ours.new), beside, Goal::RatioMin(0.9)).note(&note));
    }
    for (peer, side) in &peers {
        let beside = Some((*peer, median(side.changed.clone())));
        let measure = "transfer again with 1% of rows changed";
        let seconds = median(ours.changed.clone());
        rows.push(ctx.row(measure, "s", seconds, beside, Goal::RatioMax(1.0)).note(&note));
    }
    for (peer, side) in &peers {
        let beside = Some((*peer, share(&side.wire)));
        let row = ctx.row("bytes on the wire for the change", "%", share(&ours.wire), beside, Goal::ValueMax(3.0));
        rows.push(row.note(&note));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rsyncs_statistics_are_read() {
        let stats = "Number of files: 3\nTotal bytes sent: 1,234\nTotal bytes received: 66\n";
        assert!((wire_bytes(stats).unwrap() - 1_300.0).abs() < 1e-9);
        assert!(wire_bytes("Total bytes sent: 1").is_err());
    }
}
