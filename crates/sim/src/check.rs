//! DESIGN.md's invariants, as code over what the simulated world has seen.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::draining::Cause;
use tombolo_core::sync::{Outcome, Phase};
use tombolo_core::workload::State;
use tombolo_core::{Epoch, RunId, SiteId, VersionId, WorkloadId};

use crate::control::Disk;
use crate::project;
use crate::site::{Placement, Site};

/// Whether two placements of a service may both run: one of them arrives by a switch, or has to leave after it.
fn overlaps(disk: &Disk, a: &Placement, b: &Placement) -> bool {
    let Some(record) = disk.workloads.get(&a.0) else { return false };
    let arrives = |placement: &Placement| record.arrival().is_some_and(|(_, epoch)| epoch == placement.1);
    let leaves = |placement: &Placement| record.leaving.iter().any(|leaving| leaving.epoch == placement.1);
    let passes = |placement: &Placement| arrives(placement) || leaves(placement);
    record.spec.service().is_some_and(|service| !service.single) && (passes(a) || passes(b))
}

/// What is remembered beside the world, to judge it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every command that was ever started, with its site.
    pub launched: BTreeMap<Placement, SiteId>,
    /// Acknowledged to whoever submitted.
    pub acknowledged: BTreeSet<RunId>,
    /// Those of them that were held to a lease when they began.
    pub leased: BTreeSet<Placement>,
    /// Placements that their sites were about to end.
    pub ending: BTreeSet<Placement>,
    /// Somebody asked to stop or retry these.
    pub touched: BTreeSet<RunId>,
    /// Ends that a site was told to forget.
    pub settled: BTreeSet<Placement>,
    /// Bytes that arrived at a site from elsewhere.
    pub arrived: BTreeSet<(VersionId, SiteId)>,
    /// Somebody asked to move these.
    pub moved: BTreeSet<WorkloadId>,
    /// Somebody asked to leave these, from which follows that things come back as well.
    pub drained: BTreeSet<SiteId>,
    /// How far jobs had got whose ends, with the state that they left, were settled.
    pub left: BTreeMap<WorkloadId, u64>,
}

impl Ledger {
    /// Invariants 1 and 2, when a command starts.
    pub fn launch(
        &mut self,
        placement: &Placement,
        at: &SiteId,
        sites: &BTreeMap<SiteId, Site>,
        disk: &Disk,
    ) -> Result<(), String> {
        let (workload, epoch) = placement;
        let process = &sites[at].processes[placement];
        // What a person has begun again may begin anew.
        if let Some(left) = self.left.get(workload).filter(|_| !self.touched.contains(&workload.run))
            && process.progress < *left
            && process.order.spec.failover_after.is_none()
        {
            return Err(format!("{workload}#{epoch} begins at {}, and had got to {left}", process.progress));
        }
        if process.order.spec.failover_after.is_some() {
            self.leased.insert(placement.clone());
        }
        if let Some(site) = self.launched.insert(placement.clone(), at.clone()) {
            return Err(format!("{workload}#{epoch} was started at {site} and again at {at}"));
        }
        for (site, other) in sites.iter().flat_map(|(id, site)| site.processes.keys().map(move |other| (id, other))) {
            if other.0 == *workload && other != placement && !overlaps(disk, placement, other) {
                return Err(format!("{workload} acts at {site} (epoch {}) and at {at} (epoch {epoch})", other.1));
            }
        }
        let newest = self.newest(workload);
        // A service that switches while it is still being prepared where it was may start there after it has elsewhere.
        if newest > *epoch && !overlaps(disk, placement, &(workload.clone(), newest)) {
            return Err(format!("{workload}#{epoch} was started after epoch {newest} had been"));
        }
        if self.touched.contains(&workload.run) {
            return Ok(());
        }
        for (other, finish) in sites.values().flat_map(|site| &site.results) {
            // Held to a lease, as on a move's arrival: once that was over nobody waited for what had come of it.
            let leased = self.leased.contains(other);
            if other.0 == *workload && other.1 < *epoch && finish.outcome.is_success() && !leased {
                return Err(format!("{workload} had succeeded as epoch {}, and was run again as {epoch}", other.1));
            }
        }
        Ok(())
    }

    fn newest(&self, workload: &WorkloadId) -> Epoch {
        let of = self.launched.keys().filter(|(other, _)| other == workload);
        of.map(|(_, epoch)| *epoch).max().unwrap_or_default()
    }

    /// Invariant 2, when a site is about to stop a command.
    pub fn stop(&self, placement: &Placement, site: &Site, superseded: bool, disk: &Disk) -> Result<(), String> {
        let Some(process) = site.processes.get(placement) else { return Ok(()) };
        let leased = process.order.spec.failover_after.is_some();
        if leased
            || superseded
            || self.moved.contains(&placement.0)
            || self.goes(&placement.0, disk)
            || self.touched.contains(&placement.0.run)
            || self.ending.contains(placement)
        {
            return Ok(());
        }
        Err(format!("{}#{} was stopped though nobody asked for it", placement.0, placement.1))
    }

    /// Whether a workload moves, or has moved, since a site was drained.
    fn goes(&self, workload: &WorkloadId, disk: &Disk) -> bool {
        let Some(record) = disk.workloads.get(workload) else { return false };
        let under_way = record.moving.iter().map(|moving| (moving.cause, &moving.from, &moving.to));
        let over = record.moves.iter().map(|moved| (moved.cause, &moved.from, &moved.to));
        under_way.chain(over).any(|(cause, from, to)| match cause {
            Cause::Asked => false,
            Cause::Drain => self.drained.contains(from),
            Cause::Home => self.drained.contains(to),
            Cause::Back => record.spec.leaning.is_some(),
        })
    }

    /// Invariant 4, when bytes arrive at a site.
    pub fn arrive(&mut self, version: VersionId, at: &SiteId, disk: &Disk) -> Result<(), String> {
        self.arrived.insert((version, at.clone()));
        let Some(record) = disk.versions.get(&version) else {
            return Err(format!("version {version:?} came to {at} and nobody knows it"));
        };
        let labels = &disk.sites[at].info.labels;
        match record.residency.forbids(at, labels) {
            None => Ok(()),
            Some(rule) => Err(format!("version {version:?} may only be at {rule}, and came to {at}")),
        }
    }

    /// Invariant 5, and what else must hold of a disk at any time.
    pub fn disk(&self, disk: &Disk) -> Result<(), String> {
        if let Some(lost) = self.acknowledged.iter().find(|run| !disk.runs.contains_key(*run)) {
            return Err(format!("run {lost} was acknowledged and is lost"));
        }
        for placement in &self.settled {
            let known = disk.workloads.get(&placement.0).is_some_and(|record| {
                let live = record.epoch == placement.1 && record.state.site().is_some();
                !live && placement.1 <= record.newest_epoch()
            });
            if !known {
                return Err(format!("the end of {}#{} was settled, and is not recorded", placement.0, placement.1));
            }
        }
        for record in disk.workloads.values() {
            if let (State::Succeeded { .. }, Some(run)) = (&record.state, disk.runs.get(&record.id.run)) {
                let mut inputs = BTreeMap::new();
                for (alias, source) in &record.spec.inputs {
                    let made_by = run.spec.producer(source);
                    let upstream = made_by.map(|name| WorkloadId::new(run.id.clone(), name.clone()));
                    let version = match upstream {
                        None => run.data.get(source).copied(),
                        Some(id) => disk.workloads[&id].outputs.get(source).map(|made| made.version),
                    };
                    let Some(version) = version else {
                        return Err(format!("{} succeeded before its input {source} was there", record.id));
                    };
                    inputs.insert(alias.clone(), version);
                }
                let expected = project::made(&record.id.name, record.id.run.project(), &inputs);
                if record.outputs.values().any(|made| made.version != expected) {
                    return Err(format!("{} has outputs of something else", record.id));
                }
            }
        }
        Ok(())
    }

    /// What holds when faults have stopped and time has passed: nothing is stuck, sites and disk agree.
    pub fn at_rest(&self, disk: &Disk, sites: &BTreeMap<SiteId, Site>) -> Result<(), String> {
        for site in disk.sites.values().filter(|site| site.is_left()) {
            let id = &site.info.id;
            for record in disk.workloads.values().filter(|record| record.sites().any(|at| at == id)) {
                let stays = site.drain.as_ref().is_some_and(|drain| drain.stays.contains_key(&record.id));
                if !stays {
                    return Err(format!("{} is still at {id}, which is left, and nothing says why", record.id));
                }
            }
        }
        for record in disk.workloads.values() {
            let stuck = match &record.state {
                State::Placed { .. } | State::Preparing { .. } | State::Backoff { .. } => true,
                State::Running { .. } => true,
                State::Queued { .. } => !record
                    .why
                    .as_ref()
                    .is_some_and(|why| why.contains("no site can have it") || why.contains("waits for room")),
                State::Waiting | State::Ready { .. } => false,
                State::Succeeded { .. } | State::Failed { .. } | State::Stopped { .. } | State::Skipped { .. } => false,
            };
            if let Some(moving) = &record.moving {
                return Err(format!("{} still moves: {moving:?}", record.id));
            }
            if stuck || !record.leaving.is_empty() {
                return Err(format!("{} is stuck: {:?} ({:?})", record.id, record.state, record.why));
            }
            if let State::Ready { site, .. } = &record.state
                && !sites[site].processes.contains_key(&(record.id.clone(), record.epoch))
            {
                return Err(format!("{} is said to be ready at {site} and is not there", record.id));
            }
        }
        for (id, site) in sites {
            for (workload, epoch) in site.processes.keys() {
                let wanted = disk
                    .workloads
                    .get(workload)
                    .is_some_and(|record| record.epoch == *epoch && record.state.site() == Some(id));
                if !wanted {
                    return Err(format!("{workload}#{epoch} still runs at {id}, and nobody wants it"));
                }
            }
            for (workload, entry) in &site.journal.entries {
                if matches!(&entry.phase, Phase::Finished(finish) if finish.outcome != Outcome::Stopped)
                    && disk.workloads.contains_key(workload)
                {
                    return Err(format!("{workload}#{} ended at {id}, and was never settled", entry.epoch));
                }
            }
        }
        Ok(())
    }
}
