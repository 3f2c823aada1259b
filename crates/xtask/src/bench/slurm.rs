//! A Slurm of one node on this machine, from Debian's packages, for as long as it is measured.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Context;
use super::place::{Process, wait_for};
use crate::process;

const CONF: &str = include_str!("slurm.conf");
const UP_MAX: Duration = Duration::from_secs(60);

pub struct Slurm {
    conf: PathBuf,
    // In the order in which they are ended.
    _slurmd: Process,
    _slurmctld: Process,
    _munged: Process,
}

impl Slurm {
    pub fn start(ctx: &Context) -> Result<Slurm> {
        if process::output(process::command("id").arg("-u"))?.trim() != "0" {
            bail!("Slurm's daemons need root");
        }
        if process::which("srun").is_none() {
            process::apt_install(&["slurmctld", "slurmd", "slurm-client", "munge"])?;
        }
        let dir = ctx.fresh("slurm")?;
        for part in ["state", "spool"] {
            ctx.fresh(&format!("slurm/{part}"))?;
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("can't read the host's name")?;
        let place = dir.to_str().context("the scratch directory's name is no UTF-8")?;
        // The node has what the daemon will find.
        let found = process::output(process::command("slurmd").arg("-C"))?;
        let cpus =
            found.split_whitespace().find(|word| word.starts_with("CPUs=")).context("slurmd -C tells no CPUs")?;
        let text =
            CONF.replace("DIR", place).replace("HOST", host.trim()).replace("CPUS", &format!("{cpus} State=UNKNOWN"));
        let text = text.replace("CTLD_PORT", &free_port()?).replace("SLURMD_PORT", &free_port()?);
        let conf = dir.join("slurm.conf");
        std::fs::write(&conf, text).context("can't write slurm.conf")?;

        let munged = munged(ctx, &dir)?;
        let daemon = |name: &str, args: &[&str]| {
            Process::start(ctx, name, process::command(name).arg("-D").arg("-f").arg(&conf).args(args))
        };
        let slurmctld = daemon("slurmctld", &[])?;
        let slurmd = daemon("slurmd", &["-N", "n1"])?;
        let slurm = Slurm { conf, _slurmd: slurmd, _slurmctld: slurmctld, _munged: munged };
        wait_for("Slurm's start", UP_MAX, || {
            let nodes = process::output(slurm.command("sinfo").args(["--noheader", "--format=%t"]));
            Ok(nodes.is_ok_and(|nodes| nodes.trim() == "idle").then_some(()))
        })
        .with_context(|| {
            let log = |name: &str| std::fs::read_to_string(ctx.path(name)).unwrap_or_default();
            format!("Slurm doesn't come up:\n{}\n{}", log("slurmctld.log"), log("slurmd.log"))
        })?;
        Ok(slurm)
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = process::command(program);
        self.tell(&mut command);
        command
    }

    /// Has a command, and what it starts, find this cluster.
    pub fn tell(&self, command: &mut Command) {
        command.env("SLURM_CONF", &self.conf);
    }
}

/// Slurm's authentication, with a key of its own.
fn munged(ctx: &Context, dir: &std::path::Path) -> Result<Process> {
    use std::os::unix::fs::PermissionsExt as _;
    let key = dir.join("munge.key");
    let mut bytes = vec![0; 1024];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    std::fs::write(&key, bytes).context("can't write munge's key")?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o400))?;
    let mut command = process::command("munged");
    // Forced: the scratch directory is for its owner alone, which munged takes for a mistake.
    command.args(["--foreground", "--force"]);
    for (option, file) in
        [("key-file", "munge.key"), ("socket", "munge.sock"), ("pid-file", "munge.pid"), ("seed-file", "munge.seed")]
    {
        command.arg(format!("--{option}={}", dir.join(file).display()));
    }
    let munged = Process::start(ctx, "munged", &mut command)?;
    wait_for("munged's start", UP_MAX, || Ok(dir.join("munge.sock").exists().then_some(())))?;
    Ok(munged)
}

/// A port that nobody has now. Somebody may take it before the daemon does; then the daemon says so.
fn free_port() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string())
}
