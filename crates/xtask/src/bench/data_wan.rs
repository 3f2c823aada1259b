//! `data-wan`: 1 GB from site to site over a line of 40 ms and 100 Mbit/s that loses one packet in a thousand, and again
//! with one part in a hundred changed; beside rsync over ssh and rclone over sftp.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::apart::{Apart, SITES};
use super::place::Process;
use super::wan::{ENDS, Line, Wan};
use super::{Context, Goal, Row, input, median, peers};
use crate::process;

const BYTES: u64 = 1_000_000_000;
const BYTES_QUICK: u64 = 20_000_000;
const LINE: Line = Line { one_way_ms: 20, mbit: 100, loss_percent: 0.1 };
/// The share of the line's rate that a transfer is to reach.
const GOAL_SHARE: f64 = 0.95;
/// What a transfer of a change may take beside the time of its own bytes.
const GOAL_EXTRA: f64 = 1.5;
/// The change: so many places, together a hundredth of the file.
const PLACES: u64 = 8;
const UP_MAX: Duration = Duration::from_secs(60);
const SSH_PORT: &str = "2222";
const PROJECT: &str = "project: wan\ndata: { file: {} }\nstages:\n  there: { run: 'true', in: [file], site: far }\n";

#[derive(Default)]
struct Side {
    new: Vec<f64>,
    changed: Vec<f64>,
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let size = ctx.size(BYTES, BYTES_QUICK);
    ctx.need_disk(12 * size)?;
    peers::debian(&["ip", "rsync", "rclone", "sshd"])?;
    let apart = Apart::start(ctx, &LINE)?;
    let wan = &apart.wan;
    apart.write("tombolo.yaml", PROJECT)?;
    ctx.say("making the file");
    let data = ctx.fresh("data")?;
    input::random_file(&data.join("file"), size, 0)?;
    let ssh = Ssh::start(ctx, wan)?;
    let (mut ours, mut rsync, mut rclone) = (Side::default(), Side::default(), Side::default());
    for round in 1..=ctx.runs {
        ctx.say(&format!("round {round} of {}: ours, rsync, rclone; then again with a hundredth changed", ctx.runs));
        for name in ["rsync-there", "rclone-there"] {
            ctx.fresh(name)?;
        }
        // Every round brings other bytes, as sites keep what they have.
        change(&data.join("file"), size, round as u64, true)?;
        for changed in [false, true] {
            if changed {
                change(&data.join("file"), size, round as u64, false)?;
            }
            let pick = |side: &mut Side, seconds: f64| match changed {
                true => side.changed.push(seconds),
                false => side.new.push(seconds),
            };
            pick(&mut ours, bring(ctx, &apart, &data)?);
            pick(&mut rsync, ctx.time(&mut ssh.rsync(ctx, wan))?);
            pick(&mut rclone, ctx.time(&mut ssh.rclone(ctx, wan))?);
        }
        ctx.say(&format!(
            "seconds so far: ours {:.1?} {:.1?}, rsync {:.1?} {:.1?}",
            ours.new, ours.changed, rsync.new, rsync.changed
        ));
    }
    rows(ctx, size, &apart, ours, [("rsync", rsync), ("rclone", rclone)])
}

/// Other bytes everywhere, or in some places that are a hundredth of the file.
fn change(path: &Path, size: u64, seed: u64, everywhere: bool) -> Result<()> {
    if everywhere {
        return input::random_file(path, size, seed);
    }
    let file = OpenOptions::new().write(true).open(path).with_context(|| format!("can't open {}", path.display()))?;
    let length = size / 100 / PLACES;
    let fresh: Vec<u8> = input::random_bytes(length, seed + 1_000);
    for place in 0..PLACES {
        file.write_all_at(&fresh, place * size / PLACES + size / PLACES / 2).context("can't change the file")?;
    }
    Ok(())
}

/// Seconds from the stage's placing until its input lies there, whole and verified, for its command.
fn bring(ctx: &Context, apart: &Apart, data: &Path) -> Result<f64> {
    process::output(apart.command().args(["data", "add", "file", "--site", SITES[0]]).arg(data))?;
    process::run(&mut process::command("sync"))?;
    let view = apart.json(&["run", "--force"])?;
    let run = view["id"].as_str().with_context(|| format!("the run has no id: {view}"))?;
    let text = process::output(apart.command().args(["events", run, "--output", "json"]))?;
    let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let at = |state: &str| {
        events.iter().find(|event| event["workload"] == "there" && event["state"] == state)?["at"].as_f64()
    };
    let (placed, running) = at("placed").zip(at("running")).with_context(|| format!("no times in {text}"))?;
    ctx.say(&format!("ours: {:.1} s", (running - placed) / 1e3));
    Ok((running - placed) / 1e3)
}

/// An ssh server at the near end, and keys for it.
struct Ssh {
    _server: Process,
    options: String,
    key: String,
}

impl Ssh {
    fn start(ctx: &Context, wan: &Wan) -> Result<Ssh> {
        let dir = ctx.fresh("ssh")?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).context("can't close the keys' directory")?;
        // Where sshd confines itself; Debian makes it at boot.
        fs::create_dir_all("/run/sshd").context("can't make /run/sshd; hint: this benchmark needs root")?;
        for key in ["host", "user"] {
            let mut keygen = process::command("ssh-keygen");
            process::output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key)))?;
        }
        let config = dir.join("sshd_config");
        let text = format!(
            "ListenAddress {}:{SSH_PORT}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nPidFile none\nSubsystem sftp internal-sftp\n",
            ENDS[0],
            dir = dir.display(),
        );
        fs::write(&config, text).context("can't write sshd's configuration")?;
        let program = process::which("sshd").unwrap_or_else(|| "/usr/sbin/sshd".into());
        let server = Process::start(ctx, "sshd", wan.at(0, program).args(["-D", "-e", "-f"]).arg(&config))?;
        let key = dir.join("user").display().to_string();
        let options = format!("ssh -p {SSH_PORT} -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null");
        let ssh = Ssh { _server: server, options, key };
        let began = Instant::now();
        while process::output(wan.at(1, "sh").args(["-c", &format!("{} root@{} true", ssh.options, ENDS[0])])).is_err()
        {
            if began.elapsed() > UP_MAX {
                bail!("sshd does not answer: {}", fs::read_to_string(ctx.path("sshd.log")).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(ssh)
    }

    fn rsync(&self, ctx: &Context, wan: &Wan) -> Command {
        let mut command = wan.at(1, "rsync");
        // The change leaves the length as it was.
        command.args(["-a", "--ignore-times", "-e", &self.options]);
        command.arg(format!("root@{}:{}/", ENDS[0], ctx.path("data").display())).arg(ctx.path("rsync-there"));
        command
    }

    fn rclone(&self, ctx: &Context, wan: &Wan) -> Command {
        let mut command = wan.at(1, "rclone");
        command.args([
            "--config",
            "/dev/null",
            "copy",
            "--ignore-times",
            "--sftp-host",
            ENDS[0],
            "--sftp-user",
            "root",
        ]);
        command.args(["--sftp-port", SSH_PORT, "--sftp-key-file", &self.key]);
        command.arg(format!(":sftp:{}", ctx.path("data").display())).arg(ctx.path("rclone-there"));
        command
    }
}

fn rows(ctx: &Context, size: u64, apart: &Apart, ours: Side, peers: [(&str, Side); 2]) -> Result<Vec<Row>> {
    let note = format!(
        "{:.2} GB of random bytes; {} ms of round trip, {} Mbit/s with all headers, {} % of packets lost; a relay of ours \
         joins two network namespaces; ours with the stage's start, durable, verified and laid out for the command; \
         rsync {} over ssh, rclone {} over sftp; {}",
        size as f64 / 1e9,
        2 * LINE.one_way_ms,
        LINE.mbit,
        LINE.loss_percent,
        peers::version(process::command("rsync").arg("--version"))?,
        peers::version(peers::rclone().arg("version"))?,
        apart.binary.note,
    );
    let share = |seconds: &[f64]| size as f64 * 8.0 / 1e6 / median(seconds.to_vec()) / f64::from(LINE.mbit) * 100.0;
    let delta = size as f64 / 100.0 * 8.0 / 1e6 / f64::from(LINE.mbit);
    let mut rows = Vec::new();
    for (peer, side) in &peers {
        let beside = Some((*peer, share(&side.new)));
        let row =
            ctx.row("transfer, of the line's rate", "%", share(&ours.new), beside, Goal::ValueMin(GOAL_SHARE * 100.0));
        rows.push(row.note(&note));
    }
    for (peer, side) in &peers {
        let beside = Some((*peer, median(side.changed.clone())));
        let row = ctx.row(
            "again with 1% changed",
            "s",
            median(ours.changed.clone()),
            beside,
            Goal::ValueMax(GOAL_EXTRA + delta),
        );
        rows.push(row.note(&note));
    }
    Ok(rows)
}
