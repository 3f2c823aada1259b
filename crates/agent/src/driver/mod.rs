//! The driver: starts a shim for each placement with its resources, watches it and stops it, and knows nothing else.
//!
//! A placement is a directory, whatever the kind of site; kinds differ in how a shim is started, ended and found dead
//! ([`launch`]).

mod discarded;
pub mod kubernetes;
mod launch;
mod scheduled;
mod shared;
pub mod slurm;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::net::UnixDatagram;
use tokio::sync::{Notify, mpsc};
use tombolo_core::ids::{Epoch, Name, SiteId, VersionId, WorkloadId};
use tombolo_core::journal::Found;
use tombolo_core::sync::{Finish, Order, Outcome, Phase};
use tombolo_data::Store;

use crate::clock::now;
use crate::lease;
use crate::logs::{self, LogLimits, LogLine, LogQuery};
use crate::python;
use crate::shim::placement::{self, Durable, Event, Placement, ShimOrder};
use crate::shim::{lost, process};
use crate::{state, tracking};

pub use launch::Launcher;

/// What the driver tells of a placement.
pub type Seen = (WorkloadId, Epoch, Phase);

/// Has a version whole in the site's store again, for a placement whose shim has found it damaged.
pub type Bring = Box<dyn Fn(VersionId, WorkloadId) -> BoxFuture<'static, Result<(), Outcome>> + Send + Sync>;

/// How many placements are discarded between two looks at the kept logs.
const PRUNE_EVERY: usize = 50;
/// Longest path of a wake socket, in bytes; the kernel's limit is 108.
const SOCKET_PATH_MAX: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("can't make the placement's directory {}: {source}", dir.display())]
    Dir { dir: PathBuf, source: io::Error },
    #[error("can't start the shim, {program}: {source}")]
    Spawn { program: String, source: io::Error },
}

impl DriverError {
    /// What it means for the placement.
    pub fn outcome(&self) -> Outcome {
        let (DriverError::Dir { source, .. } | DriverError::Spawn { source, .. }) = self;
        let why = self.to_string();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Outcome::NoSpace { why },
            _ => Outcome::Unprepared { why },
        }
    }
}

/// Starts, finds, stops and watches shims. Clones are the same driver.
#[derive(Clone)]
pub struct Driver {
    inner: Arc<Inner>,
}

struct Inner {
    site: SiteId,
    site_dir: PathBuf,
    store_key: Option<PathBuf>,
    launcher: Launcher,
    seen: mpsc::Sender<Seen>,
    /// By their directories: who is watched, and what wakes the watcher.
    watched: Mutex<HashMap<PathBuf, Arc<Notify>>>,
    wake: Option<PathBuf>,
    discarded: std::sync::atomic::AtomicUsize,
    bring: OnceLock<Bring>,
    tracking: OnceLock<tracking::Address>,
}

/// What starts this very program as a shim, also after its file was replaced by a newer one.
pub fn shim_command() -> Vec<OsString> {
    vec!["/proc/self/exe".into(), "shim".into()]
}

impl Driver {
    /// `store_key` is the file of the key that the site's store is encrypted under. What is seen of the placements goes
    /// to `seen`. Needs a tokio runtime.
    pub fn new(
        site: SiteId,
        site_dir: impl AsRef<Path>,
        store_key: Option<PathBuf>,
        launcher: Launcher,
        seen: mpsc::Sender<Seen>,
    ) -> Driver {
        let site_dir = std::path::absolute(site_dir.as_ref()).unwrap_or_else(|_| site_dir.as_ref().to_owned());
        let socket = listen(&site_dir);
        let inner = Arc::new(Inner {
            site,
            wake: socket.as_ref().map(|(path, _)| path.clone()),
            site_dir,
            store_key,
            launcher,
            seen,
            watched: Mutex::default(),
            discarded: Default::default(),
            bring: OnceLock::new(),
            tracking: OnceLock::new(),
        });
        if let Some((_, socket)) = socket {
            tokio::spawn(pass_wakes_on(socket, Arc::downgrade(&inner)));
        }
        Driver { inner }
    }

    /// Says how to bring what turns out damaged; the first word counts. Without, such a placement can't be started.
    pub fn bring_with(&self, bring: Bring) {
        let _ = self.inner.bring.set(bring);
    }

    /// Says where workloads log; the first word counts. Without, their environment says nothing of it.
    pub fn track_at(&self, address: tracking::Address) {
        let _ = self.inner.tracking.set(address);
    }

    /// Whether shims, and an agent that starts again, may be on another machine than this one.
    pub fn spans_machines(&self) -> bool {
        self.inner.launcher.limits()
    }

    /// Starts a shim and watches it. Doing so twice is harmless: one of the shims gets the lock.
    pub fn start(
        &self,
        workload: &WorkloadId,
        epoch: Epoch,
        order: &Order,
        secrets: &BTreeMap<Name, String>,
    ) -> Result<(), DriverError> {
        let placement = self.placement(workload, epoch);
        let Some(wake) = self.inner.enter(&placement) else { return Ok(()) };
        let started = self.write_order(&placement, workload, epoch, order).and_then(|()| {
            let mut line = serde_json::to_vec(secrets).map_err(|e| self.dir_error(&placement, io::Error::other(e)))?;
            line.push(b'\n');
            Ok((self.launch(&placement, order, &line)?, line))
        });
        match started {
            Ok((shim, secrets)) => {
                let spawner = watch::Spawner { order: order.clone(), secrets, left: watch::SPAWNS_MAX - 1 };
                self.spawn_watch(workload, epoch, placement, wake, shim, Some(spawner));
                Ok(())
            }
            Err(error) => {
                self.inner.leave(&placement);
                Err(error)
            }
        }
    }

    /// Watches a placement whose shim may be alive, as after [`Driver::find`] has found it; else does nothing.
    pub fn watch(&self, workload: &WorkloadId, epoch: Epoch) {
        let placement = self.placement(workload, epoch);
        if let Some(shim) = self.inner.launcher.found(&placement)
            && let Some(wake) = self.inner.enter(&placement)
        {
            self.spawn_watch(workload, epoch, placement, wake, shim, None);
        }
    }

    /// What there is of a placement, for an agent that has just started. Of one that has no shim any more nothing is
    /// left running when this returns.
    pub fn find(&self, workload: &WorkloadId, epoch: Epoch) -> Found {
        let placement = self.placement(workload, epoch);
        match self.inner.find(&placement) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(dir = %placement.dir().display(), %error, "a placement can't be read");
                // On a shared file system that may pass, while the shim is well on another machine.
                if self.inner.launcher.limits() { Found::Alive } else { Found::Vanished }
            }
        }
    }

    /// SIGTERM for the command, its grace, then SIGKILL for all of it; the shim sees to that. Where there is no
    /// shim, none will start the command any more.
    pub fn stop(&self, workload: &WorkloadId, epoch: Epoch) {
        let placement = self.placement(workload, epoch);
        if !placement.exists() {
            return;
        }
        // The mark first: a shim that has not signed its lock yet looks for it afterwards.
        if let Err(error) = placement.ask_to_stop() {
            tracing::warn!(dir = %placement.dir().display(), %error, "the wish to stop can't be written down");
        }
        self.inner.launcher.stop(&placement);
    }

    /// The placement is held to no lease any more.
    pub fn unlease(&self, workload: &WorkloadId, epoch: Epoch) {
        let placement = self.placement(workload, epoch);
        if let Err(error) = placement.unlease() {
            tracing::warn!(dir = %placement.dir().display(), %error, "it stays held to its lease");
        }
    }

    /// Where a workload's state is, whichever its epoch.
    pub fn state_dir(&self, workload: &WorkloadId) -> PathBuf {
        placement::state_dir(&self.inner.site_dir, workload)
    }

    /// The state directories of which the store has all, with the last placement that used each.
    pub fn state_dirs(&self) -> Vec<(WorkloadId, Epoch)> {
        state::all(&self.inner.site_dir)
    }

    /// Removes a workload's state directory, unless a newer placement than this has used it. When this returns it is no
    /// longer where a placement would find it.
    pub fn forget_state(&self, workload: &WorkloadId, epoch: Epoch) {
        let dir = self.state_dir(workload);
        if let Err(error) = state::forget(&dir, epoch) {
            tracing::warn!(dir = %dir.display(), %error, "a state directory can't be removed");
        }
    }

    /// Makes the environment that an order will need, and lays out its state.
    pub async fn make_ready(
        &self,
        store: &Arc<Store>,
        workload: &WorkloadId,
        epoch: Epoch,
        order: &Order,
    ) -> Result<(), Outcome> {
        let (store, state_dir, state) = (store.clone(), self.state_dir(workload), order.state);
        let (envs, python, workload) = (self.inner.site_dir.join("envs"), order.spec.python.clone(), workload.clone());
        let made = tokio::task::spawn_blocking(move || {
            if let Some(version) = state {
                state::lay_ahead(&store, &state_dir, epoch, version)?;
            }
            let Some(python) = python else { return Ok(()) };
            let talk = |line: &str| tracing::info!(%workload, "{line}");
            python::ensure(&envs, &python, &talk)
                .map(drop)
                .map_err(|error| Outcome::Unprepared { why: error.to_string() })
        });
        made.await.map_err(|error| Outcome::Unprepared { why: error.to_string() })?
    }

    /// Removes the placement's directory, in the background; its log is kept for [`Driver::logs`].
    pub fn discard(&self, workload: &WorkloadId, epoch: Epoch) {
        let placement = self.placement(workload, epoch);
        let state_dir = self.state_dir(workload);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = state::forget_ahead(&state_dir, epoch) {
                tracing::warn!(dir = %state_dir.display(), %error, "what was laid out ahead can't be removed");
            }
        });
        if !placement.exists() {
            return;
        }
        let kept = placement::kept_logs_dir(&self.inner.site_dir, workload, epoch);
        let count = self.inner.discarded.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let logs = self.inner.site_dir.join("logs");
        tokio::task::spawn_blocking(move || {
            if let Err(error) = discarded::discard(&placement, &kept) {
                tracing::warn!(dir = %placement.dir().display(), %error, "a placement can't be removed");
            }
            if count.is_multiple_of(PRUNE_EVERY) {
                discarded::prune(&logs);
            }
        });
    }

    /// What the workload printed, line by line.
    pub fn logs(
        &self,
        workload: &WorkloadId,
        epoch: Epoch,
        query: LogQuery,
    ) -> impl Stream<Item = io::Result<LogLine>> + Send + Unpin + use<> {
        let placement = self.placement(workload, epoch).dir().to_owned();
        logs::read(vec![placement, placement::kept_logs_dir(&self.inner.site_dir, workload, epoch)], query)
    }

    fn placement(&self, workload: &WorkloadId, epoch: Epoch) -> Placement {
        Placement::of(&self.inner.site_dir, workload, epoch)
    }

    fn write_order(
        &self,
        placement: &Placement,
        workload: &WorkloadId,
        epoch: Epoch,
        order: &Order,
    ) -> Result<(), DriverError> {
        let site_dir = &self.inner.site_dir;
        let order = ShimOrder {
            workload: workload.clone(),
            epoch,
            site: self.inner.site.clone(),
            order: order.clone(),
            store_dir: site_dir.join("store"),
            store_key: self.inner.store_key.clone(),
            state_dir: placement::state_dir(site_dir, workload),
            envs_dir: site_dir.join("envs"),
            env: self.tracking_env(workload, epoch, order),
            port: None,
            logs: LogLimits::default(),
            wake: self.inner.wake.clone(),
            lease: order.spec.failover_after.map(|_| lease::path(site_dir)),
            host: self.inner.launcher.host(),
            limited: self.inner.launcher.limits(),
            contained: self.inner.launcher.contains(),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(placement.dir())
            .and_then(|()| placement.write_order(&order))
            .map_err(|error| self.dir_error(placement, error))
    }

    /// Where its user says where to track, all of it is theirs: our token and run would mean nothing there.
    fn tracking_env(&self, workload: &WorkloadId, epoch: Epoch, order: &Order) -> BTreeMap<String, String> {
        let spec = &order.spec;
        let own = spec.env.contains_key(tracking::URI_VARIABLE)
            || spec.secrets.iter().any(|name| name.as_env() == tracking::URI_VARIABLE);
        let address = self.inner.tracking.get().filter(|_| !own);
        address.map_or_else(BTreeMap::new, |address| address.environment(workload, epoch))
    }

    fn dir_error(&self, placement: &Placement, source: io::Error) -> DriverError {
        DriverError::Dir { dir: placement.dir().to_owned(), source }
    }

    fn launch(&self, placement: &Placement, order: &Order, secrets: &[u8]) -> Result<launch::Shim, DriverError> {
        let launcher = &self.inner.launcher;
        let started = launcher.start(placement, order, secrets);
        started.map_err(|source| DriverError::Spawn { program: launcher.program(), source })
    }

    fn spawn_watch(
        &self,
        workload: &WorkloadId,
        epoch: Epoch,
        placement: Placement,
        wake: Arc<Notify>,
        shim: launch::Shim,
        spawner: Option<watch::Spawner>,
    ) {
        let (driver, workload) = (self.clone(), workload.clone());
        let watch = watch::Watch {
            driver,
            workload,
            epoch,
            placement,
            wake,
            shim,
            spawner,
            began: false,
            ready: None,
            brought: 0,
        };
        tokio::spawn(watch.run());
    }
}

impl Inner {
    /// None where the placement is watched already.
    fn enter(&self, placement: &Placement) -> Option<Arc<Notify>> {
        let mut watched = self.watched();
        if watched.contains_key(placement.dir()) {
            return None;
        }
        let wake = Arc::new(Notify::new());
        watched.insert(placement.dir().to_owned(), wake.clone());
        Some(wake)
    }

    fn find(&self, placement: &Placement) -> io::Result<Found> {
        if !placement.exists() {
            return Ok(Found::Nothing);
        }
        if let Some(finish) = placement.progress()?.finish {
            return Ok(Found::Ended(Box::new(finish)));
        }
        // Where it may run on another machine, whoever watches it finds out.
        if self.launcher.limits() && self.launcher.found(placement).is_some() {
            return Ok(Found::Alive);
        }
        let Some(lock) = placement.try_lock()? else { return Ok(Found::Alive) };
        let progress = placement.progress()?;
        if let Some(finish) = progress.finish {
            return Ok(Found::Ended(Box::new(finish)));
        }
        let Some(session) = progress.launched else {
            // A shim that was started a moment ago and has not come to its lock finds nothing to do.
            placement.withdraw_order()?;
            return Ok(Found::Nothing);
        };
        let outcome = Outcome::Lost { why: lost(&process::kill_orphans(&session, placement.dir())) };
        end(placement, &lock, outcome)?;
        Ok(Found::Vanished)
    }

    fn leave(&self, placement: &Placement) {
        self.watched().remove(placement.dir());
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Notify>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket on which shims say that they have written an event; without it the watchers look now and then.
fn listen(site_dir: &Path) -> Option<(PathBuf, UnixDatagram)> {
    let path = site_dir.join("wake.sock");
    let bound = if path.as_os_str().len() > SOCKET_PATH_MAX {
        Err(io::Error::other("its path is too long"))
    } else {
        // Left by an agent that is gone; one that is alive has the site's lock.
        let _ = fs::remove_file(&path);
        UnixDatagram::bind(&path)
    };
    match bound {
        Ok(socket) => Some((path, socket)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no wake socket; placements are looked at now and then");
            None
        }
    }
}

async fn pass_wakes_on(socket: UnixDatagram, inner: std::sync::Weak<Inner>) {
    let mut dir = vec![0; 4096];
    while let Ok(length) = socket.recv(&mut dir).await {
        let Some(inner) = inner.upgrade() else { return };
        let dir = Path::new(std::ffi::OsStr::from_bytes(&dir[..length]));
        if let Some(wake) = inner.watched().get(dir) {
            wake.notify_one();
        }
    }
}

/// Writes down the end of a placement in place of its shim.
fn end(placement: &Placement, lock: &placement::Lock, outcome: Outcome) -> io::Result<Finish> {
    placement.withdraw_order()?;
    let finish = Finish::without_running(outcome, now());
    placement.append(&Event::Finished { finish: Box::new(finish.clone()) }, lock, Durable::Yes)?;
    Ok(finish)
}
