//! `data-wan`: 1 GB from site to site over a line of 40 ms and 100 Mbit/s that loses one packet in a thousand, and again
//! with one part in a hundred changed; beside rsync over ssh and rclone over sftp.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::place::{Binary, Process, wait_for};
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

#[derive(Default)]
struct Side {
    new: Vec<f64>,
    changed: Vec<f64>,
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let size = ctx.size(BYTES, BYTES_QUICK);
    ctx.need_disk(12 * size)?;
    peers::debian(&["ip", "rsync", "rclone", "sshd"])?;
    let wan = Wan::start(ctx, &LINE)?;
    ctx.say("making the file");
    let data = ctx.fresh("data")?;
    input::random_file(&data.join("file"), size, 0)?;
    let sites = Sites::start(ctx, &wan)?;
    let ssh = Ssh::start(ctx, &wan)?;
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
            pick(&mut ours, sites.bring(ctx, &data)?);
            pick(&mut rsync, ctx.time(&mut ssh.rsync(ctx, &wan))?);
            pick(&mut rclone, ctx.time(&mut ssh.rclone(ctx, &wan))?);
        }
        ctx.say(&format!(
            "seconds so far: ours {:.1?} {:.1?}, rsync {:.1?} {:.1?}",
            ours.new, ours.changed, rsync.new, rsync.changed
        ));
    }
    rows(ctx, size, &sites, ours, [("rsync", rsync), ("rclone", rclone)])
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

/// A control plane and a site at one end, and a site at the other.
struct Sites<'w> {
    wan: &'w Wan,
    binary: Binary,
    home: PathBuf,
    project: PathBuf,
    _server: Process,
    _agents: [Process; 2],
}

impl<'w> Sites<'w> {
    fn start(ctx: &Context, wan: &'w Wan) -> Result<Sites<'w>> {
        let binary = Binary::find(ctx)?;
        let home = ctx.fresh("home")?;
        let at = |end: usize| {
            let mut command = wan.at(end, &binary.path);
            command.env("TOMBOLO_HOME", &home).env("TOMBOLO_LOG", "warn").env("TOMBOLO_DIE_WITH_PARENT", "1");
            command
        };
        let mut command = at(0);
        command.args(["server", "--listen", &format!("{}:7070", ENDS[0])]);
        command.args(["--agent-listen", &format!("{}:7071", ENDS[0]), "--dir"]).arg(home.join("server"));
        let server = Process::start(ctx, "server", &mut command)?;
        wait_for("the control plane's start", UP_MAX, || Ok(home.join("context.json").is_file().then_some(())))?;
        let join = |end: usize, name: &str| {
            let token = process::output(at(0).args(["site", "token", "--site", name]))?;
            let mut command = at(end);
            command.args(["agent", "join", &format!("{}:7070", ENDS[0]), "--token", token.trim(), "--name", name]);
            command.args(["--listen", &format!("{}:0", ENDS[end]), "--dir"]).arg(home.join(name));
            Process::start(ctx, name, &mut command)
        };
        let agents = [join(0, "near")?, join(1, "far")?];
        wait_for("the sites' start", UP_MAX, || {
            let sites: Value = serde_json::from_str(&process::output(at(0).args(["site", "ls", "--output", "json"]))?)?;
            let up = sites.as_array().map_or(0, |sites| sites.iter().filter(|site| site["status"] == "up").count());
            Ok((up == 2).then_some(()))
        })?;
        let project = ctx.fresh("project")?;
        let text = "project: wan\ndata: { file: {} }\nstages:\n  there: { run: 'true', in: [file], site: far }\n";
        fs::write(project.join("tombolo.yaml"), text).context("can't write the project")?;
        Ok(Sites { wan, binary, home, project, _server: server, _agents: agents })
    }

    /// Seconds from the stage's placing until its input lies there, whole and verified, for its command.
    fn bring(&self, ctx: &Context, data: &Path) -> Result<f64> {
        let command = || {
            let mut command = self.wan.at(0, &self.binary.path);
            command.env("TOMBOLO_HOME", &self.home).current_dir(&self.project);
            command
        };
        process::output(command().args(["data", "add", "file", "--site", "near"]).arg(data))?;
        process::run(&mut process::command("sync"))?;
        let view: Value =
            serde_json::from_str(&process::output(command().args(["run", "--force", "--output", "json"]))?)
                .context("the run says no JSON")?;
        let run = view["id"].as_str().with_context(|| format!("the run has no id: {view}"))?;
        let text = process::output(command().args(["events", run, "--output", "json"]))?;
        let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let at = |state: &str| {
            events.iter().find(|event| event["workload"] == "there" && event["state"] == state)?["at"].as_f64()
        };
        let (placed, running) = at("placed").zip(at("running")).with_context(|| format!("no times in {text}"))?;
        ctx.say(&format!("ours: {:.1} s", (running - placed) / 1e3));
        Ok((running - placed) / 1e3)
    }
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

fn rows(ctx: &Context, size: u64, sites: &Sites<'_>, ours: Side, peers: [(&str, Side); 2]) -> Result<Vec<Row>> {
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
        sites.binary.note,
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
