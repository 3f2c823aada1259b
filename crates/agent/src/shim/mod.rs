//! The shim: one process for each placement, which makes a workload behave the same everywhere.
//!
//! It takes the placement's lock, brings code, inputs and environment, runs the command at most once for its epoch,
//! captures what it prints, leaves nothing of it alive, commits the outputs and writes down how it ended. It needs
//! the agent only to be started and goes on without it.

mod commit;
mod files;
mod forward;
mod import;
mod inner;
mod inspect;
pub mod placement;
mod prepare;
pub mod process;
mod ready;
mod run;
mod sql;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tombolo_core::ids::Name;
use tombolo_core::sync::{Finish, Outcome};

pub use files::remove_tree;
pub(crate) use prepare::read_note;

use crate::clock::now;
use crate::logs::{LogWriter, Redactor};
use crate::tracking;
use placement::{Durable, Event, Lack, Lock, Placement, Session, ShimOrder};
use prepare::Unprepared;

/// How long a shim waits for the lock: somebody may be looking whether it is held, which takes microseconds.
const LOCK_WAIT: Duration = Duration::from_millis(50);
/// How often a wish to stop is looked for at a site whose scheduler may not pass it on.
const WISH_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest line of secrets, in bytes.
const SECRETS_BYTES_MAX: u64 = 16 << 20;

/// What the command's supervision wakes up for.
#[derive(Debug)]
enum Wake {
    /// Stop was asked for.
    Stop,
    /// A signal came that Tombolo did not send.
    Evicted,
    Exited {
        pid: i32,
        status: nix::sys::wait::WaitStatus,
    },
    /// No child is left, also none that was adopted.
    AllGone,
    Ready,
    NeverReady,
}

/// How far the shim is, as the thread that takes signals needs to know it.
enum Stage {
    /// Nothing has run: a stop ends the shim at once.
    Preparing,
    Launched(Sender<Wake>),
    /// The command is gone; its outputs are being committed, and a stop changes nothing any more.
    Ending,
}

/// How often what a placement lacks is brought again; a disk that damages more than that is broken.
const LACKS_MAX: usize = 5;
/// With less room than this a disk counts as full, in bytes.
const FULL_BELOW_BYTES: u64 = 64 << 10;

/// What all threads of a shim share.
struct Shim {
    placement: Placement,
    order: ShimOrder,
    secrets: BTreeMap<Name, String>,
    log: LogWriter,
    lock: Lock,
    stage: Mutex<Stage>,
}

/// Runs the placement in `dir`; the whole of the process `tombolo shim <dir>`. Secrets are read from stdin, one JSON
/// object on one line. Exits silently where another shim of the placement is alive or where there is nothing to do.
pub fn main(dir: &Path) -> ExitCode {
    match enter(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::logs::mutter(&format!("the shim of {} failed: {error}", dir.display()));
            ExitCode::FAILURE
        }
    }
}

fn enter(dir: &Path) -> io::Result<()> {
    // Before the lock is signed: from then on a stop may come as a signal.
    let signals = Signals::catch()?;
    // Fails where this process leads a session already, which is as good.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true)?;

    let placement = Placement::at(dir);
    let Some(mut lock) = take_lock(&placement)? else { return Ok(()) };
    let pid = std::process::id().cast_signed();
    let start = process::stat(pid).map_or(0, |stat| stat.start);
    lock.sign(pid, start)?;
    let Some(order) = placement.read_order()? else { return Ok(()) };
    let progress = placement.progress()?;
    if progress.finish.is_some() {
        return Ok(());
    }
    let secrets = match placement.take_secrets()? {
        Some(file) => read_secrets(file, &order)?,
        None => read_secrets(io::stdin().lock(), &order)?,
    };
    let Some(secrets) = secrets else { return Ok(()) };
    let private = secrets.values().chain(order.env.get(tracking::TOKEN_VARIABLE)).map(String::as_str);
    let log = LogWriter::open(dir, order.logs, Redactor::new(private))?;
    let shim = Arc::new(Shim { placement, order, secrets, log, lock, stage: Mutex::new(Stage::Preparing) });
    if let Some(session) = progress.launched {
        let why = lost(&process::kill_orphans(&session, dir));
        return shim.finish(Finish::without_running(Outcome::Lost { why }, now()));
    }
    let listening = shim.clone();
    std::thread::spawn(move || signals.each(|| listening.stop()));
    if shim.order.limited {
        shim.look_for_the_wish();
    }
    if shim.placement.stop_was_asked() {
        return shim.finish(Finish::without_running(Outcome::Stopped, now()));
    }
    let session = Session { shim_pid: pid, shim_start: start, boot_id: process::boot_id(), cgroups: Vec::new() };
    match shim.work(session) {
        Ok(finish) => shim.finish(finish),
        Err(lack) if progress.lacks.len() < LACKS_MAX => shim.lacks(lack),
        Err(lack) => {
            let why = format!(
                "{}; what it lacked was brought {LACKS_MAX} times before\nhint: look after the disk of {}",
                lack.why,
                shim.order.store_dir.display()
            );
            shim.finish(Finish::without_running(Outcome::Unprepared { why }, now()))
        }
    }
}

/// Whether a command could hardly have written anything more there.
fn is_full(dir: &Path) -> bool {
    nix::sys::statvfs::statvfs(dir).is_ok_and(|disk| disk.blocks_available() * disk.fragment_size() < FULL_BELOW_BYTES)
}

/// This machine's name.
pub(crate) fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Why a command that was launched and has no result is not run again.
pub fn lost(undead: &[i32]) -> String {
    let mut why = "its shim was killed while the command ran; all its processes were ended".to_owned();
    if !undead.is_empty() {
        why = format!("its shim was killed while the command ran, and the processes {undead:?} can't be ended");
    }
    why
}

fn take_lock(placement: &Placement) -> io::Result<Option<Lock>> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(lock) = placement.try_lock()? {
            return Ok(Some(lock));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(LOCK_WAIT / 20);
    }
}

/// None where secrets are due and the line never came: the agent died while it started this shim, and the next one
/// will start another.
fn read_secrets(stdin: impl Read, order: &ShimOrder) -> io::Result<Option<BTreeMap<Name, String>>> {
    let mut line = String::new();
    BufReader::new(stdin.take(SECRETS_BYTES_MAX)).read_line(&mut line)?;
    let due = !order.order.spec.secrets.is_empty();
    if !line.ends_with('\n') && due {
        return Ok(None);
    }
    if line.trim().is_empty() {
        return Ok(Some(BTreeMap::new()));
    }
    serde_json::from_str(&line).map(Some).map_err(|_| io::Error::other("the secrets on stdin are no JSON object"))
}

impl Shim {
    /// Everything between the lock and the end. Where the store lacks something nothing was launched.
    fn work(self: &Arc<Shim>, session: Session) -> Result<Finish, Lack> {
        let missing = self.order.order.spec.secrets.iter().find(|name| !self.secrets.contains_key(*name));
        if let Some(name) = missing {
            let why = format!("the secret {name} was not given\nhint: tombolo secret set {name}");
            return Ok(Finish::without_running(Outcome::Unprepared { why }, now()));
        }
        if let Some(image) = &self.order.order.spec.image
            && !self.order.contained
        {
            let why = format!("this site runs no containers, and the image {image} is asked for\nhint: use `python`");
            return Ok(Finish::without_running(Outcome::Unprepared { why }, now()));
        }
        let prepared = match prepare::prepare(self) {
            Err(Unprepared::Lacks(lack)) => return Err(lack),
            Err(Unprepared::For(outcome)) => Err(outcome),
            Ok(prepared) => Ok(prepared),
        };
        let ran = prepared.and_then(|prepared| {
            run::run(self, &prepared, session).map(|ran| {
                *self.stage() = Stage::Ending;
                commit::commit(self, &prepared, ran)
            })
        });
        Ok(ran.unwrap_or_else(|outcome| {
            self.log.say(&outcome.to_string());
            Finish::without_running(outcome, now())
        }))
    }

    /// Tells what has to be brought before the command can start; the driver starts another shim then.
    fn lacks(&self, lack: Lack) -> io::Result<()> {
        self.log.say(&format!("{}; it is brought again", lack.why));
        // A stop that comes now finds nothing to do, and the next shim finds its mark.
        let _stage = self.stage();
        self.append(&Event::Lacks(lack), Durable::No)
    }

    /// Writes down how it ended, then removes what only the command needed.
    fn finish(&self, finish: Finish) -> io::Result<()> {
        let _stage = self.stage();
        let success = finish.outcome.is_success();
        let outcome = match finish.outcome {
            Outcome::Failed { .. } | Outcome::Signalled { .. } if is_full(self.placement.dir()) => {
                Outcome::NoSpace { why: format!("{}, and the site's disk is full", finish.outcome) }
            }
            outcome => outcome,
        };
        let end = Event::Finished { finish: Box::new(Finish { outcome, ..finish }) };
        if self.append(&end, Durable::Yes).is_err() {
            // What fills the disk may be the command's own files; once they are gone, how it ended can be said.
            let _ = files::remove_tree(&self.placement.code_dir());
            self.append(&end, Durable::Yes)?;
        }
        self.clean(success);
        Ok(())
    }

    fn clean(&self, success: bool) {
        // What can't be removed goes with the whole directory when the placement is discarded.
        let _ = files::remove_tree(&self.placement.code_dir());
        if success && self.order.order.spec.job().is_some() {
            let _ = prepare::forget_state(&self.order.state_dir);
        }
    }

    fn append(&self, event: &Event, durable: Durable) -> io::Result<()> {
        self.placement.append(event, &self.lock, durable)?;
        if let Some(wake) = &self.order.wake
            && let Ok(socket) = UnixDatagram::unbound()
        {
            // The driver may be away, and looks by itself when it is back.
            let _ = socket.set_nonblocking(true);
            let _ = socket.send_to(self.placement.dir().as_os_str().as_encoded_bytes(), wake);
        }
        Ok(())
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a wish to stop may have to come by way of others, it is looked for as well.
    fn look_for_the_wish(self: &Arc<Shim>) {
        let shim = self.clone();
        std::thread::spawn(move || {
            while !shim.placement.stop_was_asked() {
                std::thread::sleep(WISH_LOOK_EVERY);
            }
            shim.stop();
        });
    }

    /// Stop was asked for, or a signal came.
    fn stop(&self) {
        match &*self.stage() {
            Stage::Preparing => {}
            Stage::Launched(wakes) => {
                // Nobody listens any more once the command is gone, and then there is nothing to stop.
                let _ = wakes.send(self.told());
                return;
            }
            Stage::Ending => return,
        }
        self.stop_preparing();
    }

    /// What a signal means: Tombolo writes its wish down before it sends one.
    fn told(&self) -> Wake {
        if self.placement.stop_was_asked() { Wake::Stop } else { Wake::Evicted }
    }

    /// Ends this process, unless the command was launched at this very moment.
    fn stop_preparing(&self) {
        let stage = self.stage();
        if let Stage::Launched(wakes) = &*stage {
            let _ = wakes.send(self.told());
            return;
        }
        while let pids = process::descendants()
            && !pids.is_empty()
        {
            process::kill_all(&pids);
        }
        let outcome = match self.told() {
            Wake::Evicted => Outcome::Evicted { why: run::EVICTED.to_owned() },
            _ => Outcome::Stopped,
        };
        let finish = Finish::without_running(outcome, now());
        if let Err(error) = self.append(&Event::Finished { finish: Box::new(finish) }, Durable::Yes) {
            crate::logs::mutter(&format!("the end can't be written down: {error}"));
        }
        self.clean(false);
        // With the stage still locked, so that the main thread can't launch.
        std::process::exit(0);
    }
}

/// SIGTERM and SIGINT of this process, caught from the moment that this is made.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(_entered);
        Ok(Signals { runtime, terminate, interrupt })
    }

    /// Calls `f` for each signal, for ever.
    fn each(mut self, f: impl Fn()) {
        self.runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = self.terminate.recv() => {}
                    _ = self.interrupt.recv() => {}
                }
                f();
            }
        });
    }
}
