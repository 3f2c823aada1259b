//! What is where and what is due, kept beside the workloads so that a pass looks at what changed and not at all that lives.
//!
//! Every change of a workload's state goes through [`World::touch`], which keeps this in step.

use std::collections::{BTreeMap, BTreeSet};

use super::{RunRecord, WorkloadRecord, World};
use crate::ids::{Name, RunId, SiteId, WorkloadId};
use crate::workload::State;

#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// All that was loaded has been taken in; before, nothing here is complete.
    whole: bool,
    here: BTreeMap<SiteId, BTreeSet<WorkloadId>>,
    at: BTreeMap<WorkloadId, BTreeSet<SiteId>>,
    pub queued: BTreeSet<WorkloadId>,
    /// Those that time alone may change: they pause, or their lease may end.
    pub timed: BTreeSet<WorkloadId>,
    /// Those of which a copy of the state shall be at other sites.
    pub held: BTreeSet<WorkloadId>,
    /// Runs of which a workload changed since conclusions were last drawn.
    pub changed: BTreeSet<RunId>,
    /// Runs that were seen to be over, until they are retired.
    pub over: BTreeSet<RunId>,
    /// Which stage makes an output, by run.
    makers: BTreeMap<RunId, BTreeMap<Name, Name>>,
}

impl Index {
    fn note(&mut self, id: &WorkloadId, record: Option<&WorkloadRecord>) {
        let sites: BTreeSet<SiteId> = record.into_iter().flat_map(WorkloadRecord::sites).cloned().collect();
        let before = self.at.get(id);
        if before.is_none_or(|before| *before != sites) {
            for old in before.into_iter().flatten().filter(|old| !sites.contains(*old)) {
                if let Some(here) = self.here.get_mut(old) {
                    here.remove(id);
                }
            }
            for site in &sites {
                self.here.entry(site.clone()).or_default().insert(id.clone());
            }
            match sites.is_empty() {
                true => drop(self.at.remove(id)),
                false => drop(self.at.insert(id.clone(), sites)),
            }
        }
        keep(&mut self.queued, id, record.is_some_and(|record| matches!(record.state, State::Queued { .. })));
        keep(&mut self.timed, id, record.is_some_and(timed));
        keep(&mut self.held, id, record.is_some_and(|record| !record.snapshots.standby.is_empty()));
    }
}

fn keep(set: &mut BTreeSet<WorkloadId>, id: &WorkloadId, member: bool) {
    match member {
        true if !set.contains(id) => drop(set.insert(id.clone())),
        true => {}
        false => drop(set.remove(id)),
    }
}

fn timed(record: &WorkloadRecord) -> bool {
    let leased = record.lease().is_some() && record.state.site().is_some();
    let copied = record.spec.state.is_some() && record.state.site().is_some() || record.snapshots.is_timed();
    leased || copied || record.moving.is_some() || matches!(record.state, State::Backoff { .. })
}

impl World {
    /// Takes in what a workload has become, or that it is gone.
    pub(super) fn note(&mut self, id: &WorkloadId) {
        self.index.note(id, self.workloads.get(id));
        if !self.index.changed.contains(&id.run) {
            self.index.changed.insert(id.run.clone());
        }
    }

    /// Takes in all that was put into the world before its first conclusion.
    pub(super) fn take_in(&mut self) {
        if self.index.whole {
            return;
        }
        self.index.whole = true;
        for (id, record) in &self.workloads {
            self.index.note(id, Some(record));
        }
        let runs: Vec<RunId> = self.runs.keys().cloned().collect();
        runs.iter().for_each(|run| self.note_run(run));
        self.index.changed.extend(runs);
    }

    pub(super) fn note_run(&mut self, id: &RunId) {
        let Some(run) = self.runs.get(id) else { return };
        let made = |(name, spec): (&Name, &crate::spec::WorkloadSpec)| {
            spec.outputs().map(|output| (output.clone(), name.clone())).collect::<Vec<_>>()
        };
        let makers = run.spec.workloads.iter().flat_map(made).collect();
        self.index.makers.insert(id.clone(), makers);
        self.index.changed.insert(id.clone());
    }

    pub(super) fn forget_run(&mut self, id: &RunId) {
        self.index.makers.remove(id);
        self.index.changed.remove(id);
    }

    /// The stage of a run that makes an output.
    pub(super) fn producer<'a>(&'a self, run: &'a RunRecord, output: &Name) -> Option<&'a Name> {
        match self.index.makers.get(&run.id) {
            Some(makers) => makers.get(output),
            None => run.spec.producer(output),
        }
    }

    /// What is placed at a site.
    pub(super) fn placed_at<'a>(&'a self, site: &SiteId) -> impl Iterator<Item = &'a WorkloadRecord> + use<'a> {
        let at = site.clone();
        self.present_at(site).filter(move |record| record.state.site() == Some(&at))
    }

    /// What has a placement at a site, be it one that arrives with a move or has to leave.
    pub(super) fn present_at<'a>(&'a self, site: &SiteId) -> Box<dyn Iterator<Item = &'a WorkloadRecord> + 'a> {
        if !self.index.whole {
            let site = site.clone();
            return Box::new(self.workloads.values().filter(move |record| record.sites().any(|at| *at == site)));
        }
        Box::new(self.index.here.get(site).into_iter().flatten().filter_map(|id| self.workloads.get(id)))
    }

    /// Whether what is kept beside the workloads says what they say; for tests.
    #[doc(hidden)]
    pub fn in_step(&self) -> bool {
        let mut anew = Index::default();
        self.workloads.iter().for_each(|(id, record)| anew.note(id, Some(record)));
        let here = |index: &Index| -> BTreeMap<SiteId, BTreeSet<WorkloadId>> {
            index
                .here
                .iter()
                .filter(|(_, ids)| !ids.is_empty())
                .map(|(site, ids)| (site.clone(), ids.clone()))
                .collect()
        };
        let same = here(&self.index) == here(&anew) && self.index.at == anew.at;
        same && self.index.queued == anew.queued
            && self.index.timed == anew.timed
            && self.index.held == anew.held
            && self.index.makers.keys().eq(self.runs.keys())
    }
}
