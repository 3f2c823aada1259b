//! The agent's one loop: takes in what it wakes up for, lets the journal decide, saves it, then acts.

mod starter;
mod states;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tombolo_api::stream::{Down, HEARTBEAT, Up};
use tombolo_core::journal::{Action, Journal};
use tombolo_core::sync::{
    Copied, Finish, Hold, Intent, Observed, Order, Outcome, Phase, Replicas, Report, StateCopy, TransferSeen,
};
use tombolo_core::{Epoch, Millis, Name, VersionId, WorkloadId};

use crate::AgentError;
use crate::clock;
use crate::config::io;
use crate::driver::Driver;
use crate::fetch::Fetcher;
use crate::gateway::Gateway;
use crate::journal::{self, JournalFile};
use crate::lease;
use starter::Starter;

/// Wakes taken in before the journal is saved, once for all of them.
const BATCH_MAX: usize = 512;
pub const WAKES_MAX: usize = 1024;
/// How often the mind looks whether there is something to tell, and after how many looks it gives a sign of life.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const BEAT_AFTER: u64 = HEARTBEAT.0 / 500;
/// How often it looks which state directories are here, and how many of them it tells.
const LEFT_EVERY: Duration = Duration::from_secs(60);
const LEFT_MAX: usize = 500;
/// Placements told of in one report, and what they may come to in bytes, far below a frame's limit; the others come with
/// the next ones.
const OBSERVED_MAX: usize = 2_000;
const OBSERVED_BYTES_MAX: usize = 4 << 20;
/// Times that a journal on a full disk is tried to be saved again, [`LOOK_EVERY`] apart: five minutes.
const FULL_TRIES_MAX: u32 = 600;

/// Why the mind looks again.
#[derive(Debug)]
pub enum Wake {
    LineUp(mpsc::Sender<Up>),
    LineLost,
    /// The control plane has closed the door for good.
    Revoked,
    Down(Box<Down>),
    Seen(WorkloadId, Epoch, Phase),
    Fetched(TransferSeen),
    Copied(Copied),
    /// A service that has to end answers nothing any more.
    Drained(WorkloadId, Epoch),
    /// What was to be held for a workload that may come: whether it is here now.
    Held(Hold, bool),
    /// State directories that are here, with the last placement that used each.
    Left(Vec<(WorkloadId, Epoch)>),
}

/// How soon what is stopped is told so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// When it has answered what it was asked.
    WhenAnswered,
    Now,
}

pub struct Mind {
    journal: Journal,
    /// Where the journal is saved.
    file: Arc<Mutex<JournalFile>>,
    path: PathBuf,
    driver: Arc<Driver>,
    fetcher: Fetcher,
    gateway: Gateway,
    wakes: mpsc::Sender<Wake>,
    /// In memory only, by design: after a restart the control plane sends them again.
    secrets: BTreeMap<WorkloadId, BTreeMap<Name, String>>,
    /// Placements that wait for their secrets, which the control plane sends again after a restart.
    without_secrets: BTreeSet<(WorkloadId, Epoch)>,
    /// Placements that are being prepared, with what stops the preparation.
    starting: BTreeMap<(WorkloadId, Epoch), CancellationToken>,
    /// Services that answer what they have been asked before they are stopped.
    draining: BTreeSet<(WorkloadId, Epoch)>,
    /// Placements that are made ready for later, with what stops that.
    preparing: BTreeMap<(WorkloadId, Epoch), CancellationToken>,
    /// The copies of state directories that were asked for last, and what became of them. They are told until their
    /// placements are gone: the control plane takes each in once.
    copies: BTreeMap<(WorkloadId, Epoch), (StateCopy, Option<Copied>)>,
    /// What is being brought for workloads that may come; of each the newest that was asked for, and whether it is under way.
    holds: BTreeMap<WorkloadId, (VersionId, bool)>,
    /// State directories without a placement here.
    left: Vec<(WorkloadId, Epoch)>,
    looked: Option<Instant>,
    line: Option<mpsc::Sender<Up>>,
    number: u64,
    /// When the reports that were not answered yet were sent.
    sent: BTreeMap<u64, u64>,
    /// The sending of the newest report that was answered, since the machine's start: leases run from here.
    contact: u64,
    lease: PathBuf,
    dirty: BTreeSet<WorkloadId>,
    /// The placement that was told last where there were too many for one report.
    told_last: Option<WorkloadId>,
    replicas: Replicas,
    transfers: Vec<TransferSeen>,
}

impl Mind {
    /// Reads the journal; an unreadable one is refused, since what it names may be running.
    pub fn load(
        path: PathBuf,
        driver: Arc<Driver>,
        fetcher: Fetcher,
        wakes: mpsc::Sender<Wake>,
        gateway: Gateway,
    ) -> Result<Mind, AgentError> {
        let (file, journal) = JournalFile::open(&path)?;
        let lease = lease::path(path.parent().unwrap_or(&path));
        let elsewhere = driver.spans_machines();
        Ok(Mind {
            journal,
            file: Arc::new(Mutex::new(file)),
            path,
            driver,
            fetcher,
            gateway,
            wakes,
            secrets: BTreeMap::new(),
            without_secrets: BTreeSet::new(),
            starting: BTreeMap::new(),
            draining: BTreeSet::new(),
            preparing: BTreeMap::new(),
            copies: BTreeMap::new(),
            holds: BTreeMap::new(),
            left: Vec::new(),
            looked: None,
            line: None,
            number: 0,
            sent: BTreeMap::new(),
            contact: match elsewhere {
                true => lease::contact_elsewhere(&lease, lease.parent().unwrap_or(&lease)),
                false => lease::contact(&lease),
            }
            .unwrap_or(0),
            lease,
            dirty: BTreeSet::new(),
            told_last: None,
            replicas: Replicas::default(),
            transfers: Vec::new(),
        })
    }

    /// Finds again what runs, then goes on until nobody can wake it any more.
    pub async fn run(mut self, mut woken: mpsc::Receiver<Wake>) -> Result<(), AgentError> {
        let driver = self.driver.clone();
        let actions = self.journal.recover(clock::now(), |workload, epoch| driver.find(workload, epoch));
        for (workload, entry) in &self.journal.entries {
            if !matches!(entry.phase, Phase::Finished(_)) {
                self.driver.watch(workload, entry.epoch);
            }
        }
        for (workload, entry) in &self.journal.entries {
            self.gateway.note(workload, Some(entry));
        }
        self.save().await?;
        self.act(actions);
        let mut heartbeat = tokio::time::interval(LOOK_EVERY);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut quiet = 0;
        loop {
            let mut beat = false;
            let mut batch = Vec::new();
            tokio::select! {
                taken = woken.recv_many(&mut batch, BATCH_MAX) => if taken == 0 { return Ok(()) },
                _ = heartbeat.tick() => {
                    // A heartbeat is due, or somebody may be watching what moves.
                    quiet += 1;
                    beat = quiet >= BEAT_AFTER || !self.fetcher.moving().is_empty();
                }
            }
            if beat {
                quiet = 0;
            }
            let mut actions = Vec::new();
            for wake in batch {
                self.take(wake, &mut actions).await;
            }
            if beat {
                let silence = lease::since_boot().saturating_sub(self.contact);
                actions.extend(self.journal.expire(Millis(silence)));
            }
            if beat {
                self.look_for_left();
            }
            self.save().await?;
            self.act(actions);
            self.report(beat);
        }
    }

    /// Takes in one wake.
    async fn take(&mut self, wake: Wake, actions: &mut Vec<Action>) {
        match wake {
            Wake::LineUp(line) => {
                self.line = Some(line);
                self.sent.clear();
                self.dirty = self.journal.entries.keys().cloned().collect();
                let store = self.fetcher.store.clone();
                if let Ok(Ok(versions)) = tokio::task::spawn_blocking(move || store.versions()).await {
                    self.replicas = Replicas::All(versions.into_iter().collect());
                }
                // The first report goes out at once, also where there is nothing to tell.
                self.send();
            }
            Wake::LineLost => self.line = None,
            Wake::Revoked => actions.extend(self.journal.stop_all(clock::now())),
            Wake::Down(down) => self.take_down(*down, actions),
            Wake::Seen(workload, epoch, phase) => {
                if matches!(phase, Phase::Finished(_))
                    && let Some(starting) = self.starting.remove(&(workload.clone(), epoch))
                {
                    // Ends the task that waits to pass a stop on; there is nothing left to stop.
                    starting.cancel();
                }
                let (changed, more) = self.journal.observe(&workload, epoch, phase, clock::now());
                if changed {
                    self.dirty.insert(workload);
                }
                actions.extend(more);
            }
            Wake::Fetched(seen) => {
                self.is_here(seen.version);
                self.transfers.push(seen);
            }
            Wake::Drained(workload, epoch) => {
                self.draining.remove(&(workload.clone(), epoch));
                self.pass_stop_on(&workload, epoch);
            }
            Wake::Held(hold, is_here) => self.take_held(&hold, is_here),
            Wake::Left(left) => self.take_left(left),
            Wake::Copied(copied) => self.take_copied(copied),
        }
    }

    fn take_down(&mut self, down: Down, actions: &mut Vec<Action>) {
        if let Some(sent) = self.sent.get(&down.answers) {
            if *sent > self.contact {
                self.contact = *sent;
                // Shims read it when there is no agent; unwritten, it only makes them stop sooner.
                let _ = lease::renew(&self.lease, self.contact);
            }
            self.sent.retain(|number, _| *number > down.answers);
        }
        self.secrets.extend(down.secrets);
        for (workload, epoch) in std::mem::take(&mut self.without_secrets) {
            match self.secrets.contains_key(&workload) {
                true => actions.push(Action::Start { workload, epoch }),
                false => drop(self.without_secrets.insert((workload, epoch))),
            }
        }
        actions.extend(self.journal.desired(&down.desired, clock::now()));
        for assignment in &down.desired.assignments {
            self.dirty.insert(assignment.workload.clone());
        }
        self.look_after_states(down.desired.copies, down.desired.holds, &down.desired.forget);
        let entries = &self.journal.entries;
        self.secrets.retain(|workload, _| entries.contains_key(workload));
    }

    /// Makes durable what has changed; no action is done before.
    async fn save(&mut self) -> Result<(), AgentError> {
        let changed = self.journal.take_changed();
        if changed.is_empty() {
            return Ok(());
        }
        for workload in &changed {
            self.gateway.note(workload, self.journal.entries.get(workload));
        }
        let mut left = FULL_TRIES_MAX;
        loop {
            // On the way to the disk and back the journal is nobody else's, and nothing of it is copied.
            let (journal, changed, file) = (std::mem::take(&mut self.journal), changed.clone(), self.file.clone());
            let saving = tokio::task::spawn_blocking(move || {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let saved = file.save(&journal, &changed);
                (journal, saved)
            });
            let (journal, saved) = saving.await.expect("writing a file does not panic");
            self.journal = journal;
            match saved {
                Ok(()) => return Ok(()),
                // A workload may have filled the disk, and its shim is about to make room again.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull && left > 0 => left -= 1,
                Err(error) => return Err(io(&self.path, error)),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Prepare { workload, epoch } => self.prepare(workload, epoch),
                Action::Unlease { workload, epoch } => self.driver.unlease(&workload, epoch),
                Action::Start { workload, epoch } => self.start(workload, epoch),
                Action::Stop { workload, epoch } => self.stop(workload, epoch, Haste::WhenAnswered),
                Action::StopNow { workload, epoch } => self.stop(workload, epoch, Haste::Now),
                Action::Discard { workload, epoch } => self.driver.discard(&workload, epoch),
            }
        }
    }

    fn stop(&mut self, workload: WorkloadId, epoch: Epoch, haste: Haste) {
        let key = (workload, epoch);
        if let Some(preparing) = self.preparing.remove(&key) {
            preparing.cancel();
        }
        if self.without_secrets.remove(&key) {
            let finish = Finish::without_running(Outcome::Stopped, clock::now());
            let wakes = self.wakes.clone();
            tokio::spawn(async move {
                let _ = wakes.send(Wake::Seen(key.0, key.1, Phase::Finished(Box::new(finish)))).await;
            });
            return;
        }
        if haste == Haste::Now {
            self.gateway.hurry(&key.0, epoch);
            return self.pass_stop_on(&key.0, epoch);
        }
        if self.draining.contains(&key) {
            return;
        }
        let entry = self.journal.entries.get(&key.0);
        let Some(drained) = self.gateway.drain(&key.0, epoch, entry) else { return self.pass_stop_on(&key.0, epoch) };
        self.draining.insert(key.clone());
        let wakes = self.wakes.clone();
        tokio::spawn(async move {
            drained.await;
            let _ = wakes.send(Wake::Drained(key.0, key.1)).await;
        });
    }

    fn pass_stop_on(&self, workload: &WorkloadId, epoch: Epoch) {
        match self.starting.get(&(workload.clone(), epoch)) {
            Some(starting) => starting.cancel(),
            None => self.driver.stop(workload, epoch),
        }
    }

    /// Brings and makes what a placement will need, its state too, without starting it.
    fn prepare(&mut self, workload: WorkloadId, epoch: Epoch) {
        let Some(order) = self.journal.entries.get(&workload).and_then(|entry| entry.order.clone()) else { return };
        let stop = CancellationToken::new();
        let key = (workload.clone(), epoch);
        if let Some(before) = self.preparing.insert(key, stop.clone()) {
            before.cancel();
        }
        let preparer = self.starter(workload, epoch, order, stop);
        tokio::spawn(preparer.make_ready());
    }

    fn starter(&self, workload: WorkloadId, epoch: Epoch, order: Order, stop: CancellationToken) -> Starter {
        Starter {
            driver: self.driver.clone(),
            fetcher: self.fetcher.clone(),
            wakes: self.wakes.clone(),
            secrets: self.secrets.get(&workload).cloned().unwrap_or_default(),
            stop,
            workload,
            epoch,
            order,
        }
    }

    fn start(&mut self, workload: WorkloadId, epoch: Epoch) {
        let Some(order) = self.journal.entries.get(&workload).and_then(|entry| entry.order.clone()) else { return };
        let key = (workload, epoch);
        if self.starting.contains_key(&key) {
            return;
        }
        if !order.spec.secrets.is_empty() && !self.secrets.contains_key(&key.0) {
            self.without_secrets.insert(key);
            return;
        }
        if let Some(preparing) = self.preparing.remove(&key) {
            preparing.cancel();
        }
        let stop = CancellationToken::new();
        self.starting.insert(key.clone(), stop.clone());
        let (workload, epoch) = key;
        tokio::spawn(self.starter(workload, epoch, order, stop).start());
    }

    /// Sends what is new, or a sign of life, if the line has room.
    fn report(&mut self, beat: bool) {
        let nothing_replicated = matches!(&self.replicas, Replicas::New(versions) if versions.is_empty());
        let news = !self.dirty.is_empty() || !nothing_replicated || !self.transfers.is_empty();
        if news || beat {
            self.send();
        }
    }

    fn send(&mut self) {
        let Some(line) = &self.line else { return };
        let Ok(room) = line.try_reserve() else { return };
        let news = std::mem::take(&mut self.dirty);
        // Ends are told with every report until they are settled, so that none depends on one message.
        let mut observed = self
            .journal
            .observed_where(|workload, entry| matches!(entry.phase, Phase::Finished(_)) || news.contains(workload));
        let left_out = leave_out(&mut observed, self.told_last.as_ref(), OBSERVED_MAX, OBSERVED_BYTES_MAX);
        if !left_out.is_empty() {
            self.dirty.extend(left_out);
            self.told_last = observed.last().map(|seen| seen.workload.clone());
        }
        self.number += 1;
        self.sent.insert(self.number, lease::since_boot());
        let report = Report {
            observed,
            replicas: std::mem::take(&mut self.replicas),
            transfers: std::mem::take(&mut self.transfers),
            copied: self.copies.values().filter_map(|(_, done)| done.clone()).collect(),
            left: self.left.clone(),
        };
        room.send(Up { number: self.number, report, moving: self.fetcher.moving() });
    }
}

/// Keeps so many of `observed`, which is in order, and one at least: where they are too many, those behind `last`, then
/// from the first again, so that all have their turn. Answers which were left out.
fn leave_out(observed: &mut Vec<Observed>, last: Option<&WorkloadId>, max: usize, bytes_max: usize) -> Vec<WorkloadId> {
    let lengths: Vec<usize> =
        observed.iter().map(|seen| serde_json::to_vec(seen).map_or(0, |text| text.len())).collect();
    if observed.len() <= max && lengths.iter().sum::<usize>() <= bytes_max {
        return Vec::new();
    }
    let told = observed.partition_point(|seen| last.is_some_and(|last| seen.workload <= *last));
    observed.rotate_left(told);
    let mut bytes = 0;
    let fits = lengths.iter().cycle().skip(told).take(observed.len().min(max)).take_while(|length| {
        bytes += **length;
        bytes <= bytes_max
    });
    let kept = fits.count().max(1);
    observed.drain(kept..).map(|seen| seen.workload).collect()
}

/// Versions that a placement of the journal still needs; garbage collection keeps them. A journal that can't be
/// read is an error: collecting without it would take what runs.
pub fn needed(path: &Path) -> Result<BTreeSet<VersionId>, AgentError> {
    let mut versions = BTreeSet::new();
    for entry in journal::read(path)?.entries.into_values() {
        versions.extend(entry.order.iter().flat_map(Order::versions));
        if let Some((_, Intent::Run(next) | Intent::Prepare(next))) = &entry.next {
            versions.extend(next.versions());
        }
        if let Phase::Finished(finish) = &entry.phase {
            versions.extend(finish.outputs.values().map(|made| made.version));
            versions.extend(finish.state);
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_placements_each_is_told_in_its_turn() {
        let id = |i: usize| format!("p-1/s{i}").parse::<WorkloadId>().unwrap();
        let all = || -> Vec<Observed> {
            (0..7).map(|i| Observed { workload: id(i), epoch: Epoch(1), phase: Phase::Preparing }).collect()
        };
        let (mut last, mut told) = (None, Vec::new());
        for _ in 0..4 {
            let mut observed = all();
            let left_out = leave_out(&mut observed, last.as_ref(), 3, usize::MAX);
            assert_eq!((observed.len(), left_out.len()), (3, 4));
            assert!(observed.iter().all(|seen| !left_out.contains(&seen.workload)));
            last = observed.last().map(|seen| seen.workload.clone());
            told.extend(observed.into_iter().map(|seen| seen.workload));
        }
        assert_eq!(told, [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4].map(id));
        // By bytes too, and always one, however long it is.
        let one = serde_json::to_vec(&all()[0]).unwrap().len();
        for (bytes_max, kept) in [(7 * one, 7), (7 * one - 1, 6), (2 * one, 2), (one - 1, 1)] {
            let mut observed = all();
            assert_eq!(leave_out(&mut observed, Some(&id(4)), 100, bytes_max).len(), 7 - kept);
            assert_eq!(observed.len(), kept);
            assert_eq!(observed[0].workload, id(if kept == 7 { 0 } else { 5 }));
        }
    }

    #[test]
    fn what_is_needed_is_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        assert!(needed(&path).unwrap().is_empty(), "no journal: nothing was ever placed here");
        std::fs::write(&path, "{ half").unwrap();
        assert!(matches!(needed(&path), Err(AgentError::Malformed { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(needed(&path), Err(AgentError::Io { .. })));
    }
}
