//! A simulated site: the real journal, a simulated disk and simulated processes.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::journal::{Action, Found, Journal};
use tombolo_core::sync::{Copied, Finish, Made, Order, Outcome, Phase};
use tombolo_core::{Epoch, Millis, SiteId, Timestamp, VersionId, WorkloadId};

use crate::project;

pub type Placement = (WorkloadId, Epoch);

/// A shim and its command; it lives on when the agent dies, and dies with the machine.
#[derive(Debug, Clone)]
pub struct Process {
    /// When it will end by itself; a service never does.
    pub ends: Option<Timestamp>,
    /// How it will end by itself.
    pub outcome: Outcome,
    /// When SIGKILL follows, once a stop was asked for.
    pub killed: Option<Timestamp>,
    /// How far its work has got, and since when it has gone on from there.
    pub progress: u64,
    pub since: Timestamp,
    pub order: Order,
}

impl Process {
    pub fn progress_at(&self, now: Timestamp) -> u64 {
        self.progress + now.since(self.since).0
    }
}

#[derive(Debug, Default)]
pub struct Site {
    pub alive: bool,
    /// The agent's memory, and what it saved of it.
    pub journal: Journal,
    pub saved: Journal,
    /// Placements whose inputs are on their way.
    pub preparing: BTreeSet<Placement>,
    pub processes: BTreeMap<Placement, Process>,
    /// What shims left: results, durable.
    pub results: BTreeMap<Placement, Finish>,
    /// Commands that were ever started here; durable as well.
    pub launched: BTreeSet<Placement>,
    /// Copies of state directories that were taken, until their placements are gone; in memory only.
    pub copied: BTreeMap<Placement, Copied>,
    /// State directories whose state is in the store, with the last placement that used each; durable.
    pub states: BTreeMap<WorkloadId, Epoch>,
    pub store: BTreeSet<VersionId>,
    pub line: Option<Line>,
    /// The sending of the newest report that was answered, on the site's own clock. Outlives the agent: shims hold
    /// themselves to it when there is no agent to stop them.
    pub contact: Timestamp,
    /// The site's clock runs so much slow or fast, in thousandths.
    pub drift: i64,
}

/// A connection to the control plane. Messages of an older one never arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub id: u64,
}

impl Site {
    /// State directories without a placement.
    pub fn left(&self) -> Vec<Placement> {
        let states = self.states.iter().filter(|(workload, _)| !self.journal.entries.contains_key(*workload));
        states.map(|(workload, epoch)| (workload.clone(), *epoch)).collect()
    }

    /// The site's clock.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0 + now.0 * self.drift / 1000)
    }

    /// Saves what the journal says has changed, and nothing else, as the agent does.
    pub fn save(&mut self) {
        for workload in self.journal.take_changed() {
            match self.journal.entries.get(&workload) {
                Some(entry) => drop(self.saved.entries.insert(workload, entry.clone())),
                None => drop(self.saved.entries.remove(&workload)),
            }
        }
        debug_assert_eq!(self.saved.entries, self.journal.entries, "the journal has changed more than it said");
    }

    /// The agent starts again on what it saved.
    pub fn restart(&mut self, now: Timestamp) -> Vec<Action> {
        self.alive = true;
        self.journal = self.saved.clone();
        self.preparing.clear();
        let (processes, results, launched) = (&self.processes, &self.results, &self.launched);
        let actions = self.journal.recover(now, |workload, epoch| {
            let placement = (workload.clone(), epoch);
            if let Some(finish) = results.get(&placement) {
                return Found::Ended(Box::new(finish.clone()));
            }
            if processes.contains_key(&placement) {
                return Found::Alive;
            }
            if launched.contains(&placement) { Found::Vanished } else { Found::Nothing }
        });
        self.save();
        actions
    }

    /// The agent's process dies; shims live on.
    pub fn kill_agent(&mut self) {
        self.alive = false;
        self.line = None;
        self.journal = Journal::default();
        self.preparing.clear();
        self.copied.clear();
    }

    /// The machine dies: processes with it, disks stay.
    pub fn power_cut(&mut self) {
        self.kill_agent();
        self.processes.clear();
    }

    /// The shim's command ends; its result is durable before anybody hears of it.
    pub fn end(&mut self, placement: &Placement, outcome: Outcome, now: Timestamp) {
        let Some(process) = self.processes.remove(placement) else { return };
        let mut finish = Finish::without_running(outcome, self.clock(now));
        finish.ran = Some(Millis(1_000));
        if !finish.outcome.is_success() {
            let state = project::state(&placement.0, process.progress_at(now));
            finish.state = Some(state);
            self.store.insert(state);
        }
        if finish.outcome.is_success() {
            for output in process.order.spec.outputs() {
                let version = project::made(&placement.0.name, placement.0.run.project(), &process.order.inputs);
                finish.outputs.insert(
                    output.clone(),
                    Made { version, bytes: 1 << 20, files: 1, facts: Default::default(), sketch: None },
                );
                self.store.insert(version);
            }
        }
        if finish.state.is_some() {
            self.states.insert(placement.0.clone(), placement.1);
        }
        self.results.insert(placement.clone(), finish);
    }

    pub fn phase(&self, placement: &Placement, since: Timestamp) -> Phase {
        let service = self.processes.get(placement).is_some_and(|process| process.order.spec.service().is_some());
        if service { Phase::Ready { since, address: "127.0.0.1:1".to_owned() } } else { Phase::Running { since } }
    }
}

/// Names for stories.
pub fn label(site: &SiteId, placement: &Placement) -> String {
    format!("{}#{} at {site}", placement.0, placement.1)
}
