//! A placement's directory, which the agent and the shim share: what is in it, and who may write what.
//!
//! ```text
//! <site>/work/<run>/<stage>.<epoch>/
//!   order.json    what to run; written by the driver before it starts the shim, without secrets
//!   lock          flock held by the shim for its whole life; its pid and start time are the content
//!   events        one JSON line for each step, appended by the shim (by the driver once the shim is dead)
//!   stop          exists when stop was asked for
//!   secrets       what a shim gets on stdin, where its driver can't hold a pipe to it; removed by the shim
//!   slurm.job     the job's number, where the shim is a job of Slurm; written by the driver
//!   kubernetes.job  the Job's name, where the shim is one of a Kubernetes cluster; written by the driver
//!   log, log.*    what the command printed
//!   shim.err      what the shim itself printed to stderr, normally nothing
//!   code/         the command's working directory, with inputs/ and outputs/ in it
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tombolo_core::ids::{Epoch, RunId, SiteId, VersionId, WorkloadId};
use tombolo_core::sync::{Finish, Order, Phase};
use tombolo_core::time::Timestamp;

use crate::logs::LogLimits;

/// Longest order file that is read, in bytes.
const ORDER_BYTES_MAX: u64 = 16 << 20;
/// What is read of the events at once, in bytes, and so the longest line; a shim writes four events, and a few for what it lacks.
const EVENTS_BYTES_MAX: u64 = 4 << 20;

/// Everything a shim is told, but for the secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShimOrder {
    pub workload: WorkloadId,
    pub epoch: Epoch,
    pub site: SiteId,
    pub order: Order,
    /// The site's chunk store, in which all of the order's versions are.
    pub store_dir: PathBuf,
    /// The file of the key that the store is encrypted under; the key itself is in no order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_key: Option<PathBuf>,
    /// Survives the placement: `$TOMBOLO_STATE`.
    pub state_dir: PathBuf,
    /// Python environments of the site.
    pub envs_dir: PathBuf,
    /// Environment that the site adds for this placement, such as the tracking server's address.
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
    /// The service's port, where the agent has chosen one.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub logs: LogLimits,
    /// The datagram socket that is told when `events` has grown; without it the driver finds out by looking.
    #[serde(default)]
    pub wake: Option<PathBuf>,
    /// The agent's machine, where the shim may be on another: then what it serves is at its own machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Whether the site itself holds the command to its processors and memory.
    #[serde(default)]
    pub limited: bool,
    /// Whether the shim runs within the image that the workload asks for.
    #[serde(default)]
    pub contained: bool,
    /// Where the site's last contact is noted, for workloads that may be started elsewhere; see [`crate::lease`].
    #[serde(default)]
    pub lease: Option<PathBuf>,
}

/// A step in a placement's life, as written to `events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A version is not whole in the site's store. The shim ends, and is started again once it was brought.
    Lacks(Lack),
    /// All is there, with this state, but the port: another process has it.
    Waits {
        state: Option<VersionId>,
    },
    /// Durable before the command is executed: from here on it may have run.
    Launched {
        at: Timestamp,
        session: Session,
    },
    Running {
        at: Timestamp,
        pid: i32,
    },
    Ready {
        at: Timestamp,
        address: String,
    },
    /// Nothing of the command is alive any more.
    Finished {
        finish: Box<Finish>,
    },
}

/// What a shim can't bring from the site's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    pub version: VersionId,
    /// Of what, which file, which chunk.
    pub why: String,
}

/// By what the processes of a command are recognised after their shim has died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The shim, which leads the session.
    pub shim_pid: i32,
    /// When the shim started, in clock ticks after boot (proc(5), field 22 of `stat`).
    pub shim_start: u64,
    /// Pids mean nothing after a reboot.
    pub boot_id: String,
    /// Control groups that hold the command and nothing else.
    pub cgroups: Vec<PathBuf>,
}

/// What stands in `events`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    pub lacks: Vec<Lack>,
    pub launched: Option<Session>,
    pub running: Option<(Timestamp, i32)>,
    pub ready: Option<String>,
    pub finish: Option<Finish>,
}

impl Progress {
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Lacks(lack) => self.lacks.push(lack),
            Event::Waits { .. } => {}
            Event::Launched { session, .. } => self.launched = Some(session),
            Event::Running { at, pid } => self.running = Some((at, pid)),
            Event::Ready { address, .. } => self.ready = Some(address),
            // The first end counts: the driver and a dying shim can't both be right.
            Event::Finished { finish } => {
                self.finish.get_or_insert(*finish);
            }
        }
    }
}

impl Event {
    /// What the agent's journal hears of it.
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Event::Lacks(_) | Event::Launched { .. } => None,
            Event::Waits { state } => Some(Phase::Prepared { state: *state }),
            Event::Running { at, .. } => Some(Phase::Running { since: *at }),
            Event::Ready { at, address } => Some(Phase::Ready { since: *at, address: address.clone() }),
            Event::Finished { finish } => Some(Phase::Finished(finish.clone())),
        }
    }
}

/// The directory of one epoch of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    dir: PathBuf,
}

impl Placement {
    pub fn at(dir: impl Into<PathBuf>) -> Placement {
        Placement { dir: dir.into() }
    }

    pub fn of(site_dir: &Path, workload: &WorkloadId, epoch: Epoch) -> Placement {
        Placement::at(under(&site_dir.join("work"), &workload.run, &format!("{}.{epoch}", workload.name)))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn code_dir(&self) -> PathBuf {
        self.dir.join("code")
    }

    pub fn inputs_dir(&self) -> PathBuf {
        self.dir.join("code/inputs")
    }

    pub fn outputs_dir(&self) -> PathBuf {
        self.dir.join("code/outputs")
    }

    pub fn shim_err(&self) -> PathBuf {
        self.dir.join("shim.err")
    }

    pub fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// Writes the order; whole or not at all, so that a shim never reads half of one.
    pub fn write_order(&self, order: &ShimOrder) -> io::Result<()> {
        let text = serde_json::to_vec(order).map_err(io::Error::other)?;
        let new = self.dir.join("order.json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        fs::rename(new, self.dir.join("order.json"))
    }

    /// None where there is no order: nothing is to be started, or not any more.
    pub fn read_order(&self) -> io::Result<Option<ShimOrder>> {
        let Some(text) = read_if_there(&self.dir.join("order.json"), ORDER_BYTES_MAX)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
    }

    /// Makes a shim that has not taken the lock yet find nothing to do.
    pub fn withdraw_order(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.dir.join("order.json")))
    }

    pub fn ask_to_stop(&self) -> io::Result<()> {
        File::create(self.dir.join("stop")).map(|_| ())
    }

    /// Says that no other site will start the workload, however long this one is silent.
    pub fn unlease(&self) -> io::Result<()> {
        File::create(self.dir.join("unleased")).map(|_| ())
    }

    pub fn is_unleased(&self) -> bool {
        self.dir.join("unleased").exists()
    }

    /// Keeps secrets in a file, where a shim can't be given them through a pipe.
    pub fn keep_secrets(&self, secrets: &[u8]) -> io::Result<()> {
        // One that was there may have had another mode.
        absent_is_fine(fs::remove_file(self.secrets_file()))?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.secrets_file())?.write_all(secrets)
    }

    /// The secrets that were kept, which are then gone.
    pub fn take_secrets(&self) -> io::Result<Option<File>> {
        match File::open(self.secrets_file()) {
            Ok(file) => {
                absent_is_fine(fs::remove_file(self.secrets_file()))?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn secrets_file(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    pub fn stop_was_asked(&self) -> bool {
        // A network file system that has answered no keeps to that for up to a minute, unless the directory is opened.
        let _ = File::open(&self.dir);
        self.dir.join("stop").exists()
    }

    /// None where another process has the lock.
    pub fn try_lock(&self) -> io::Result<Option<Lock>> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether a shim is alive. The driver itself holds the lock only for moments, on its one thread for a placement.
    pub fn is_locked(&self) -> io::Result<bool> {
        match File::open(self.dir.join("lock")) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(fs::TryLockError::WouldBlock) => Ok(true),
                Err(fs::TryLockError::Error(error)) => Err(error),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The pid and start time that the holder of the lock wrote into it.
    pub fn holder(&self) -> Option<(i32, u64)> {
        let text = fs::read_to_string(self.dir.join("lock")).ok()?;
        let (pid, start) = text.trim_end().split_once(' ')?;
        Some((pid.parse().ok()?, start.parse().ok()?))
    }

    pub fn events(&self) -> Events {
        Events { path: self.dir.join("events"), at: 0 }
    }

    pub fn progress(&self) -> io::Result<Progress> {
        let mut progress = Progress::default();
        for event in self.events().read_new()? {
            progress.add(event);
        }
        Ok(progress)
    }

    /// Appends an event. Only the holder of the lock may.
    pub fn append(&self, event: &Event, _lock: &Lock, durable: Durable) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(self.dir.join("events"))?;
        let mut line = serde_json::to_vec(event).map_err(io::Error::other)?;
        line.push(b'\n');
        // A torn line of a writer that was killed must not swallow this one.
        if !ends_with_newline(&self.dir.join("events"))? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        if durable == Durable::Yes {
            file.sync_data()?;
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    Yes,
    No,
}

/// The right to act for an epoch; released by the kernel when its holder ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Writes who holds it.
    pub fn sign(&mut self, pid: i32, start: u64) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(format!("{pid} {start}\n").as_bytes())
    }
}

/// Reads `events` as it grows.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    at: u64,
}

impl Events {
    /// The whole lines that were appended since the last call. A torn line is skipped once a later one follows it.
    pub fn read_new(&mut self) -> io::Result<Vec<Event>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        file.seek(io::SeekFrom::Start(self.at))?;
        let mut text = Vec::new();
        file.take(EVENTS_BYTES_MAX).read_to_end(&mut text)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        if whole == 0 && text.len() as u64 == EVENTS_BYTES_MAX {
            // Waiting for its end would be waiting for ever.
            let why = format!("{} has a line of over {EVENTS_BYTES_MAX} bytes", self.path.display());
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        self.at += whole as u64;
        Ok(text[..whole].split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// The state directory of a workload, whichever its epoch.
pub fn state_dir(site_dir: &Path, workload: &WorkloadId) -> PathBuf {
    under(&site_dir.join("state"), &workload.run, workload.name.as_str())
}

/// Where the logs of a discarded placement are kept.
pub fn kept_logs_dir(site_dir: &Path, workload: &WorkloadId, epoch: Epoch) -> PathBuf {
    under(&site_dir.join("logs"), &workload.run, &format!("{}.{epoch}", workload.name))
}

fn under(root: &Path, run: &RunId, name: &str) -> PathBuf {
    root.join(run.to_string()).join(name)
}

fn ends_with_newline(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(io::SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last[0] == b'\n')
}

fn read_if_there(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("{} is longer than {bytes_max} bytes", path.display())));
    }
    Ok(Some(text))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_is_a_fault_and_a_short_one_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let placement = Placement::at(dir.path());
        fs::write(dir.path().join("events"), vec![b'x'; EVENTS_BYTES_MAX as usize - 1]).unwrap();
        assert_eq!(placement.events().read_new().unwrap(), []);
        fs::write(dir.path().join("events"), vec![b'x'; EVENTS_BYTES_MAX as usize + 1]).unwrap();
        let error = placement.events().read_new().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
}
