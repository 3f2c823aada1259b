//! Which run's services serve: those of the newest of a project that answers.

use std::ops::Bound;

use super::{RunRecord, RunState, WorkloadRecord, World};
use crate::ids::{Name, RunId, WorkloadId};
use crate::time::Timestamp;
use crate::workload::State;

impl World {
    /// A service that answers takes the place of the same project's same service of earlier runs, with those of its
    /// replicas that the newer run has no more. Where a newer one serves already it has to go itself.
    pub(super) fn supersede(&mut self, id: &WorkloadId, now: Timestamp) {
        if self.has_heir(id) {
            let _ = self.stop_workload(id, now);
            return;
        }
        let Some(run) = self.runs.get(&id.run) else { return };
        let service = service_of(run, &id.name).clone();
        let here = |name: &Name| self.workloads.contains_key(&WorkloadId::new(id.run.clone(), name.clone()));
        let mut older = Vec::new();
        for earlier in self.earlier(&id.run) {
            let same = |record: &&WorkloadRecord| {
                let name = &record.id.name;
                *name == id.name || (*service_of(earlier, name) == service && !here(name))
            };
            older.extend(self.serving_in(&earlier.id).filter(same).map(|record| record.id.clone()));
        }
        for other in older {
            let _ = self.stop_workload(&other, now);
        }
    }

    /// A service that has all it needs but its port: the older one at its site, which serves from that port, goes now and
    /// no sooner. One that is at no site for the moment, as between two tries, must not come back to the port either.
    pub(super) fn clear_port(&mut self, id: &WorkloadId, now: Timestamp) {
        let Some(record) = self.workloads.get(id).filter(|record| !record.stopping) else { return };
        let Some((port, site)) = record.spec.service().and_then(|s| s.port).zip(record.state.site()) else { return };
        let Some(run) = self.runs.get(&id.run) else { return };
        let service = service_of(run, &id.name);
        let mut older = Vec::new();
        for earlier in self.earlier(&id.run) {
            let in_the_way = |record: &&WorkloadRecord| {
                let same_port = record.spec.service().is_some_and(|service| service.port == Some(port));
                let may_be_here = record.state.site().is_none_or(|at| at == site);
                same_port && may_be_here && service_of(earlier, &record.id.name) == service
            };
            older.extend(self.serving_in(&earlier.id).filter(in_the_way).map(|record| record.id.clone()));
        }
        for other in older {
            let _ = self.stop_workload(&other, now);
        }
    }

    /// A run that serves, whole, is the project's: every service of an earlier one ends.
    pub(super) fn succeed_earlier(&mut self, run: &RunId, now: Timestamp) {
        let of = |earlier: &RunRecord| self.serving_in(&earlier.id).map(|record| record.id.clone()).collect::<Vec<_>>();
        let older: Vec<WorkloadId> = self.earlier(run).flat_map(of).collect();
        for id in older {
            let _ = self.stop_workload(&id, now);
        }
    }

    /// Whether a newer run serves, or has a replica of the same service that answers.
    fn has_heir(&self, id: &WorkloadId) -> bool {
        let Some(run) = self.runs.get(&id.run) else { return false };
        let service = service_of(run, &id.name);
        self.later(&id.run).any(|later| {
            let answers = |record: &WorkloadRecord| matches!(record.state, State::Ready { .. }) && !record.stopping;
            let takes_over = |record: &WorkloadRecord| {
                let name = &record.id.name;
                let gone = || !self.workloads.contains_key(&WorkloadId::new(later.id.clone(), id.name.clone()));
                answers(record) && (*name == id.name || (service_of(later, name) == service && gone()))
            };
            later.state == RunState::Serving && self.serving_in(&later.id).any(answers)
                || self.serving_in(&later.id).any(takes_over)
        })
    }

    /// The services of a run that have not ended.
    fn serving_in<'a>(&'a self, run: &RunId) -> impl Iterator<Item = &'a WorkloadRecord> + use<'a> {
        self.workloads_of(run).filter(|record| record.spec.service().is_some() && !record.state.is_final())
    }

    fn earlier(&self, run: &RunId) -> impl Iterator<Item = &RunRecord> {
        let first = RunId::new(run.project().clone(), 0);
        self.runs.range(first..run.clone()).map(|(_, run)| run)
    }

    fn later(&self, run: &RunId) -> impl Iterator<Item = &RunRecord> {
        let last = RunId::new(run.project().clone(), u64::MAX);
        self.runs.range((Bound::Excluded(run.clone()), Bound::Included(last))).map(|(_, run)| run)
    }
}

/// The service whose replica a workload is: `predict` of `predict-2`.
pub(super) fn service_of<'a>(run: &'a RunRecord, name: &'a Name) -> &'a Name {
    if let Some((name, _)) = run.spec.workloads.get_key_value(name) {
        return name;
    }
    let base = name.as_str().rsplit_once('-').and_then(|(base, _)| Name::new(base).ok());
    base.and_then(|base| run.spec.workloads.get_key_value(&base)).map_or(name, |(name, _)| name)
}
