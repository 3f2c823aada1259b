//! How a kind of site starts shims, ends them, and tells that they are gone: all in which drivers differ.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tombolo_core::sync::{Order, Outcome};

use super::kubernetes::{self, Kubernetes};
use super::scheduled::Scheduled;
use super::slurm::Slurm;
use crate::shim::placement::Placement;
use crate::shim::process;

/// How often a watcher looks without being woken.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

pub enum Launcher {
    /// As a process of this machine that outlives the agent, by this command and the placement's directory.
    Process(Vec<OsString>),
    /// As a job of a Slurm cluster.
    Slurm(Slurm),
    /// As a Job of a Kubernetes cluster.
    Kubernetes(Kubernetes),
}

/// A shim as its driver sees it.
pub enum Shim {
    /// A process that this agent started.
    Child(Child),
    /// A process that an earlier agent started; it ends unheard.
    Stranger,
    /// One that the site's own scheduler runs.
    Scheduled(Scheduled),
}

/// What a watcher is woken with.
pub enum News {
    /// There may be new events.
    Look,
    /// Nothing of the shim runs any more, or it can't be known but by its lock.
    Gone,
    /// The site's own scheduler lets it wait, for this reason.
    Queued(String),
    /// The site will end it soon, for this reason.
    Ends(String),
}

impl Launcher {
    pub fn start(&self, placement: &Placement, order: &Order, secrets: &[u8]) -> io::Result<Shim> {
        match self {
            Launcher::Process(command) => spawn(command, placement, secrets).map(Shim::Child),
            Launcher::Slurm(slurm) => slurm.start(placement, order, secrets).map(Shim::Scheduled),
            Launcher::Kubernetes(cluster) => cluster.start(placement, order, secrets).map(Shim::Scheduled),
        }
    }

    /// A shim of before this agent's start that may be alive; for certain none is where this answers none.
    pub fn found(&self, placement: &Placement) -> Option<Shim> {
        match self {
            Launcher::Process(_) => placement.is_locked().unwrap_or(false).then_some(Shim::Stranger),
            Launcher::Slurm(slurm) => slurm.found(placement).map(Shim::Scheduled),
            Launcher::Kubernetes(cluster) => cluster.found(placement).map(Shim::Scheduled),
        }
    }

    /// Whether what a shim is held to, processors and memory, is seen to by the site.
    pub fn limits(&self) -> bool {
        !matches!(self, Launcher::Process(_))
    }

    /// How shims reach the agent's machine, where they are on others.
    pub fn host(&self) -> Option<String> {
        match self {
            Launcher::Process(_) => None,
            Launcher::Slurm(_) => Some(crate::shim::host()),
            Launcher::Kubernetes(cluster) => Some(cluster.address()),
        }
    }

    /// At which port of that machine workloads log, where it can't be any.
    pub fn tracking_port(&self) -> Option<u16> {
        matches!(self, Launcher::Kubernetes(_)).then_some(kubernetes::TRACKING_PORT)
    }

    /// Whether a shim runs within the image that its workload asks for.
    pub fn contains(&self) -> bool {
        matches!(self, Launcher::Kubernetes(_))
    }

    /// After the wish to stop was written down: tells a shim that is alive, and keeps one from starting.
    pub fn stop(&self, placement: &Placement) {
        match self {
            Launcher::Process(_) => {
                if let Some(pid) = living_shim(placement) {
                    // It may have ended in between.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            }
            Launcher::Slurm(slurm) => slurm.stop(placement),
            Launcher::Kubernetes(cluster) => cluster.stop(placement),
        }
    }

    /// What starts it, for messages.
    pub fn program(&self) -> String {
        match self {
            Launcher::Process(command) => {
                command.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default()
            }
            Launcher::Slurm(_) => "by sbatch".to_owned(),
            Launcher::Kubernetes(_) => "as a Job".to_owned(),
        }
    }
}

impl Shim {
    /// Waits for something to be known of it beside its events.
    pub async fn news(&mut self) -> News {
        match self {
            Shim::Child(child) => {
                // An error means that somebody else has waited for it.
                let _ = child.wait().await;
                News::Gone
            }
            // What isn't this process's child ends unheard.
            Shim::Stranger => {
                tokio::time::sleep(LOOK_EVERY).await;
                News::Gone
            }
            Shim::Scheduled(job) => job.news().await,
        }
    }

    /// What its site says of its end, where it says anything.
    pub fn fate(&self) -> Option<Outcome> {
        match self {
            Shim::Child(_) | Shim::Stranger => None,
            Shim::Scheduled(job) => job.fate(),
        }
    }

    /// Waits until its process is gone, so that it does not stay as a zombie.
    pub async fn reap(self) {
        if let Shim::Child(mut child) = self {
            let _ = child.wait().await;
        }
    }
}

/// The secrets go through a pipe: neither the arguments nor the environment of a process are private.
fn spawn(shim_command: &[OsString], placement: &Placement, secrets: &[u8]) -> io::Result<Child> {
    let [program, args @ ..] = shim_command else { return Err(io::Error::other("there is no command to start it")) };
    let stderr = OpenOptions::new().append(true).create(true).mode(0o600).open(placement.shim_err())?;
    let mut command = std::process::Command::new(program);
    if program == "/proc/self/exe" {
        command.arg0("tombolo");
    }
    command.args(args).arg(placement.dir()).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr);
    // The shim makes itself the leader of a session, so that it survives the agent and its terminal.
    let mut child = tokio::process::Command::from(command).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let secrets = secrets.to_vec();
        tokio::spawn(async move {
            // A shim that ends without reading them has its reasons, and writes them down.
            let _ = stdin.write_all(&secrets).await;
        });
    }
    Ok(child)
}

/// The pid of the placement's shim; never that of another process which has got its number since.
fn living_shim(placement: &Placement) -> Option<i32> {
    if !placement.is_locked().unwrap_or(false) {
        return None;
    }
    let (pid, start) = placement.holder()?;
    (process::stat(pid)?.start == start).then_some(pid)
}
