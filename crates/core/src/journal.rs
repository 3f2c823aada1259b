//! The agent's mind: which placements a site has, and what to do about them.
//!
//! The journal is the agent's only durable state. The edge saves it after every call that changed it and
//! before it performs the actions that the call returned; then a kill at any instant leaves either nothing
//! or an entry from which [`Journal::recover`] goes on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, WorkloadId};
use crate::sync::{Assignment, Desired, Finish, Intent, Observed, Order, Outcome, Phase};
use crate::time::{Millis, Timestamp};

/// Placements that one site may have at once, finished ones included until they are settled.
pub const ENTRIES_MAX: usize = 20_000;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Journal {
    pub entries: BTreeMap<WorkloadId, Entry>,
    /// Whose entries differ from what was saved; see [`Journal::take_changed`].
    #[serde(skip)]
    changed: BTreeSet<WorkloadId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub epoch: Epoch,
    /// None for the memory of a placement that was stopped before it was seen.
    pub order: Option<Order>,
    pub phase: Phase,
    /// Stop was asked for; never taken back within an epoch.
    pub stopping: bool,
    /// It is to be made ready, and not to be run yet.
    #[serde(default)]
    pub held: bool,
    /// A newer placement of the same workload that waits for this one to be over.
    #[serde(default)]
    pub next: Option<(Epoch, Intent)>,
}

/// What the edge shall do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Bring and make what the order names, the state too, and tell when all is there.
    Prepare { workload: WorkloadId, epoch: Epoch },
    /// It is no more held to the lease that it was started under: no other site will start it.
    Unlease { workload: WorkloadId, epoch: Epoch },
    /// Bring what the order names, then start the shim. Doing so twice is harmless: a shim runs an epoch's
    /// command at most once.
    Start { workload: WorkloadId, epoch: Epoch },
    /// SIGTERM, grace, SIGKILL; where the shim was not started, don't start it.
    Stop { workload: WorkloadId, epoch: Epoch },
    /// The same, at once and whatever it is answering: somebody may be about to start it elsewhere.
    StopNow { workload: WorkloadId, epoch: Epoch },
    /// Remove the placement's directory.
    Discard { workload: WorkloadId, epoch: Epoch },
}

/// What an agent that has just started finds of a placement that its journal names.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// No sign that a shim was ever started.
    Nothing,
    /// The shim is alive; it will be watched as if it had just been started.
    Alive,
    /// The shim has ended and left its result.
    Ended(Box<Finish>),
    /// The command was started and its shim is gone without a result.
    Vanished,
}

impl Journal {
    /// One that holds what was saved.
    pub fn saved(entries: BTreeMap<WorkloadId, Entry>) -> Journal {
        Journal { entries, changed: BTreeSet::new() }
    }

    /// Whose entries were made, changed or removed since the last call: all that the edge has to save. So it costs what
    /// has changed, however much else there is.
    pub fn take_changed(&mut self) -> BTreeSet<WorkloadId> {
        std::mem::take(&mut self.changed)
    }

    /// Takes in what the control plane wants.
    pub fn desired(&mut self, desired: &Desired, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        for (workload, epoch) in &desired.settled {
            self.settle(workload, *epoch, &mut actions);
        }
        for assignment in &desired.assignments {
            self.assign(assignment, now, &mut actions);
        }
        actions
    }

    fn settle(&mut self, workload: &WorkloadId, epoch: Epoch, actions: &mut Vec<Action>) {
        let over = |entry: &&mut Entry| entry.epoch == epoch && matches!(entry.phase, Phase::Finished(_));
        if self.entries.get_mut(workload).filter(over).is_some() {
            self.remove(workload);
            actions.push(Action::Discard { workload: workload.clone(), epoch });
        }
    }

    fn assign(&mut self, assignment: &Assignment, now: Timestamp, actions: &mut Vec<Action>) {
        let Assignment { workload, epoch, intent } = assignment;
        let Some(entry) = self.entries.get_mut(workload) else {
            if self.entries.len() < ENTRIES_MAX {
                self.admit(workload, *epoch, intent.clone(), now, actions);
            }
            return;
        };
        if *epoch < entry.epoch || entry.next.as_ref().is_some_and(|(next, _)| epoch < next) {
            return;
        }
        if *epoch == entry.epoch {
            return self.assign_again(assignment, now, actions);
        }
        if matches!(entry.phase, Phase::Finished(_)) || entry.held {
            let (old, held) = (entry.epoch, entry.held);
            self.remove(workload);
            if held {
                actions.push(Action::Stop { workload: workload.clone(), epoch: old });
            }
            actions.push(Action::Discard { workload: workload.clone(), epoch: old });
            self.admit(workload, *epoch, intent.clone(), now, actions);
        } else {
            // One live epoch: the older one ends before the newer one begins.
            let next = Some((*epoch, intent.clone()));
            if !entry.stopping || entry.next != next {
                (entry.next, entry.stopping) = (next, true);
                self.changed.insert(workload.clone());
            }
            actions.push(Action::Stop { workload: workload.clone(), epoch: entry.epoch });
        }
    }

    /// What is wanted of a placement that is here.
    fn assign_again(&mut self, assignment: &Assignment, now: Timestamp, actions: &mut Vec<Action>) {
        let Assignment { workload, epoch, intent } = assignment;
        let Some(entry) = self.entries.get_mut(workload) else { return };
        let over = matches!(entry.phase, Phase::Finished(_));
        match intent {
            _ if over => {}
            Intent::Stop => {
                // Asked again, it is passed on again: the edge may have died between saving and acting.
                if !entry.stopping {
                    entry.stopping = true;
                    self.changed.insert(workload.clone());
                }
                actions.push(Action::Stop { workload: workload.clone(), epoch: *epoch });
                if entry.held {
                    // No command was ever started, and none will be.
                    let finish = Finish::without_running(Outcome::Stopped, now);
                    actions.extend(self.observe(workload, *epoch, Phase::Finished(Box::new(finish)), now).1);
                }
            }
            _ if entry.stopping => {}
            Intent::Prepare(order) if entry.held => {
                if entry.order.as_ref() != Some(&**order) {
                    (entry.order, entry.phase) = (Some((**order).clone()), Phase::Preparing);
                    self.changed.insert(workload.clone());
                    actions.push(Action::Prepare { workload: workload.clone(), epoch: *epoch });
                }
            }
            Intent::Run(order) if entry.held => {
                (entry.order, entry.phase, entry.held) = (Some((**order).clone()), Phase::Preparing, false);
                self.changed.insert(workload.clone());
                actions.push(Action::Start { workload: workload.clone(), epoch: *epoch });
            }
            Intent::Run(order) => {
                let old = entry.order.as_mut().map(|old| &mut old.spec.failover_after);
                if let Some(lease) = old.filter(|old| old.is_some() && order.spec.failover_after.is_none()) {
                    *lease = None;
                    self.changed.insert(workload.clone());
                    actions.push(Action::Unlease { workload: workload.clone(), epoch: *epoch });
                }
            }
            // It runs; what it was prepared by came late.
            Intent::Prepare(_) => {}
        }
    }

    fn remove(&mut self, workload: &WorkloadId) {
        self.entries.remove(workload);
        self.changed.insert(workload.clone());
    }

    fn admit(
        &mut self,
        workload: &WorkloadId,
        epoch: Epoch,
        intent: Intent,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let entry = match intent {
            Intent::Run(order) => {
                actions.push(Action::Start { workload: workload.clone(), epoch });
                Entry { epoch, order: Some(*order), phase: Phase::Preparing, stopping: false, held: false, next: None }
            }
            Intent::Prepare(order) => {
                actions.push(Action::Prepare { workload: workload.clone(), epoch });
                Entry { epoch, order: Some(*order), phase: Phase::Preparing, stopping: false, held: true, next: None }
            }
            Intent::Stop => {
                let finish = Finish::without_running(Outcome::Stopped, now);
                let phase = Phase::Finished(Box::new(finish));
                Entry { epoch, order: None, phase, stopping: true, held: false, next: None }
            }
        };
        self.entries.insert(workload.clone(), entry);
        self.changed.insert(workload.clone());
    }

    /// Takes in what was seen of a shim. Answers whether anything changed that the control plane should
    /// hear of; facts of another epoch, or of what is already over, change nothing.
    pub fn observe(
        &mut self,
        workload: &WorkloadId,
        epoch: Epoch,
        phase: Phase,
        now: Timestamp,
    ) -> (bool, Vec<Action>) {
        let mut actions = Vec::new();
        let Some(entry) = self.entries.get_mut(workload).filter(|entry| entry.epoch == epoch) else {
            return (false, actions);
        };
        if matches!(entry.phase, Phase::Finished(_)) || entry.phase == phase {
            return (false, actions);
        }
        entry.phase = phase;
        self.changed.insert(workload.clone());
        if matches!(entry.phase, Phase::Finished(_))
            && let Some((next, intent)) = entry.next.take()
        {
            self.remove(workload);
            actions.push(Action::Discard { workload: workload.clone(), epoch });
            self.admit(workload, next, intent, now, &mut actions);
        }
        (true, actions)
    }

    /// What an agent that has just started does about what its journal names. `find` looks at the site.
    pub fn recover(&mut self, now: Timestamp, mut find: impl FnMut(&WorkloadId, Epoch) -> Found) -> Vec<Action> {
        let mut actions = Vec::new();
        let live: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| !matches!(entry.phase, Phase::Finished(_)))
            .map(|(workload, entry)| (workload.clone(), entry.epoch, entry.stopping, entry.held))
            .collect();
        for (workload, epoch, stopping, held) in live {
            let finish = match find(&workload, epoch) {
                Found::Nothing if held && !stopping => {
                    actions.push(Action::Prepare { workload, epoch });
                    continue;
                }
                Found::Alive => {
                    if stopping {
                        actions.push(Action::Stop { workload, epoch });
                    }
                    continue;
                }
                Found::Nothing if stopping => Finish::without_running(Outcome::Stopped, now),
                Found::Nothing => {
                    actions.push(Action::Start { workload, epoch });
                    continue;
                }
                Found::Ended(finish) => *finish,
                Found::Vanished => {
                    let why = "its shim ended without a result, as after a power cut".to_owned();
                    Finish::without_running(Outcome::Lost { why }, now)
                }
            };
            let (_, more) = self.observe(&workload, epoch, Phase::Finished(Box::new(finish)), now);
            actions.extend(more);
        }
        actions
    }

    /// What must stop because the control plane was silent for longer than its lease: it may be started
    /// elsewhere then. `silence` is measured on a clock that never jumps, from the sending of the last
    /// message that was answered.
    pub fn expire(&mut self, silence: Millis) -> Vec<Action> {
        let mut actions = Vec::new();
        for (workload, entry) in &mut self.entries {
            let over = matches!(entry.phase, Phase::Finished(_)) || entry.stopping || entry.held;
            let lease = entry.order.as_ref().and_then(|order| order.spec.failover_after);
            if !over && lease.is_some_and(|lease| silence >= lease) {
                entry.stopping = true;
                self.changed.insert(workload.clone());
                actions.push(Action::StopNow { workload: workload.clone(), epoch: entry.epoch });
            }
        }
        actions
    }

    /// The site is revoked: what runs here may be started elsewhere from now on.
    pub fn stop_all(&mut self, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        for (workload, entry) in &mut self.entries {
            if entry.held && !matches!(entry.phase, Phase::Finished(_)) {
                let finish = Finish::without_running(Outcome::Stopped, now);
                entry.phase = Phase::Finished(Box::new(finish));
                self.changed.insert(workload.clone());
                actions.push(Action::StopNow { workload: workload.clone(), epoch: entry.epoch });
            } else if !matches!(entry.phase, Phase::Finished(_)) {
                if !entry.stopping {
                    entry.stopping = true;
                    self.changed.insert(workload.clone());
                }
                actions.push(Action::StopNow { workload: workload.clone(), epoch: entry.epoch });
            }
        }
        actions
    }

    pub fn observed(&self) -> Vec<Observed> {
        self.observed_where(|_, _| true)
    }

    /// Those placements that are asked for; nothing of the others is copied.
    pub fn observed_where(&self, mut wanted: impl FnMut(&WorkloadId, &Entry) -> bool) -> Vec<Observed> {
        self.entries
            .iter()
            .filter(|(workload, entry)| wanted(workload, entry))
            .map(|(workload, entry)| Observed {
                workload: workload.clone(),
                epoch: entry.epoch,
                phase: entry.phase.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::ids::VersionId;
    use crate::spec::{Command, Job, Kind, WorkloadSpec};

    const NOW: Timestamp = Timestamp(1_000);

    fn workload() -> WorkloadId {
        "p-1/a".parse().unwrap()
    }

    fn run(epoch: u64) -> Assignment {
        let plain = WorkloadSpec::new(Kind::Job(Job::default()), Command::Run("true".into()));
        let spec = WorkloadSpec { failover_after: Some(Millis(60_000)), ..plain };
        let order = Order { spec, code: VersionId(Digest([0; 32])), inputs: BTreeMap::new(), state: None };
        Assignment { workload: workload(), epoch: Epoch(epoch), intent: Intent::Run(Box::new(order)) }
    }

    fn stop(epoch: u64) -> Assignment {
        Assignment { workload: workload(), epoch: Epoch(epoch), intent: Intent::Stop }
    }

    fn ended(outcome: Outcome) -> Phase {
        Phase::Finished(Box::new(Finish::without_running(outcome, NOW)))
    }

    /// Drives a journal through words and prints what it does: `run 1`, `stop 1`, `end 1`, `settle 1`.
    fn check(script: &[&str], expected: &[&str]) {
        let mut journal = Journal::default();
        let mut saved = BTreeMap::new();
        let mut seen = Vec::new();
        for line in script {
            let (word, epoch) = line.split_once(' ').unwrap();
            let epoch: u64 = epoch.parse().unwrap();
            let actions = match word {
                "prepare" | "again" => {
                    let mut prepare = run(epoch);
                    if let Intent::Run(mut order) = prepare.intent {
                        order.state = (word == "again").then_some(VersionId(Digest([1; 32])));
                        prepare.intent = Intent::Prepare(order);
                    }
                    journal.desired(&Desired { assignments: vec![prepare], ..Desired::default() }, NOW)
                }
                "arrived" => {
                    let mut arrived = run(epoch);
                    if let Intent::Run(order) = &mut arrived.intent {
                        order.spec.failover_after = None;
                    }
                    journal.desired(&Desired { assignments: vec![arrived], ..Desired::default() }, NOW)
                }
                "run" => journal.desired(&Desired { assignments: vec![run(epoch)], ..Desired::default() }, NOW),
                "stop" => journal.desired(&Desired { assignments: vec![stop(epoch)], ..Desired::default() }, NOW),
                "settle" => {
                    let settled = vec![(workload(), Epoch(epoch))];
                    journal.desired(&Desired { settled, ..Desired::default() }, NOW)
                }
                "end" => journal.observe(&workload(), Epoch(epoch), ended(Outcome::Succeeded), NOW).1,
                "silence" => journal.expire(Millis(epoch)),
                other => panic!("{other}"),
            };
            for workload in journal.take_changed() {
                match journal.entries.get(&workload) {
                    Some(entry) => drop(saved.insert(workload, entry.clone())),
                    None => drop(saved.remove(&workload)),
                }
            }
            assert_eq!(saved, journal.entries, "{script:?}: {line} changed more than it said");
            for action in actions {
                seen.push(match action {
                    Action::Start { epoch, .. } => format!("start {epoch}"),
                    Action::Stop { epoch, .. } => format!("stop {epoch}"),
                    Action::StopNow { epoch, .. } => format!("stop {epoch} now"),
                    Action::Discard { epoch, .. } => format!("discard {epoch}"),
                    Action::Prepare { epoch, .. } => format!("prepare {epoch}"),
                    Action::Unlease { epoch, .. } => format!("unlease {epoch}"),
                });
            }
        }
        assert_eq!(seen, expected, "{script:?}");
    }

    #[test]
    fn one_live_epoch() {
        check(&["run 1", "run 1"], &["start 1"]);
        check(&["run 2", "run 1", "stop 1"], &["start 2"]);
        check(&["run 1", "run 2"], &["start 1", "stop 1"]);
        check(&["run 1", "run 2", "end 1"], &["start 1", "stop 1", "discard 1", "start 2"]);
        check(&["run 1", "run 2", "stop 2", "end 1"], &["start 1", "stop 1", "stop 1", "discard 1"]);
        check(&["run 1", "end 1", "run 1"], &["start 1"]);
        check(&["run 1", "end 1", "run 2"], &["start 1", "discard 1", "start 2"]);
    }

    #[test]
    fn stop_and_settle() {
        check(&["stop 1", "run 1"], &[]);
        check(&["stop 1", "settle 1"], &["discard 1"]);
        check(&["run 1", "stop 1", "end 1", "settle 1"], &["start 1", "stop 1", "discard 1"]);
        check(&["run 1", "settle 1"], &["start 1"]);
        check(&["run 1", "end 1", "settle 2", "settle 1"], &["start 1", "discard 1"]);
    }

    #[test]
    fn a_lease_ends_by_silence_and_only_once() {
        check(&["run 1", "silence 59999", "silence 60000", "silence 70000"], &["start 1", "stop 1 now"]);
        check(&["run 1", "end 1", "silence 90000"], &["start 1"]);
    }

    #[test]
    fn what_is_held_is_prepared_and_runs_only_when_told() {
        check(&["prepare 1", "prepare 1", "again 1", "again 1"], &["prepare 1", "prepare 1"]);
        check(&["prepare 1", "run 1", "prepare 1", "run 1"], &["prepare 1", "start 1"]);
        // It is over at once, as nothing of it runs.
        check(&["prepare 1", "stop 1", "run 1", "settle 1"], &["prepare 1", "stop 1", "discard 1"]);
        check(&["run 1", "prepare 2", "end 1"], &["start 1", "stop 1", "discard 1", "prepare 2"]);
        check(&["prepare 1", "run 2"], &["prepare 1", "stop 1", "discard 1", "start 2"]);
        // Nothing of it acts, so that no lease of it ends.
        check(&["prepare 1", "silence 90000", "run 1"], &["prepare 1", "start 1"]);
        // Once it has arrived it is its own.
        check(&["run 1", "arrived 1", "arrived 1", "silence 90000"], &["start 1", "unlease 1"]);
        check(&["run 1", "silence 90000", "arrived 1"], &["start 1", "stop 1 now"]);
    }

    #[test]
    fn recovery_re_adopts_what_lives_and_starts_what_never_began() {
        let check = |found: Found, stopping: bool, actions: usize, phase: &str| {
            let mut journal = Journal::default();
            journal.desired(&Desired { assignments: vec![run(1)], ..Desired::default() }, NOW);
            journal.entries.get_mut(&workload()).unwrap().stopping = stopping;
            let text = format!("{found:?}");
            assert_eq!(journal.recover(NOW, |_, _| found.clone()).len(), actions, "{text}");
            let seen = format!("{:?}", journal.entries[&workload()].phase);
            assert!(seen.contains(phase), "{text}: {seen}");
        };
        check(Found::Alive, false, 0, "Preparing");
        check(Found::Alive, true, 1, "Preparing");
        check(Found::Nothing, false, 1, "Preparing");
        check(Found::Nothing, true, 0, "Stopped");
        check(Found::Vanished, false, 0, "Lost");
        let finish = Finish::without_running(Outcome::Failed { code: 3 }, NOW);
        check(Found::Ended(Box::new(finish)), false, 0, "code: 3");
    }
}
