//! The simulated control plane: the real world in memory, a simulated disk that survives it.

use std::collections::BTreeMap;

use tombolo_core::site::Link;
use tombolo_core::sync::{Desired, Made, Report};
use tombolo_core::world::{PastRuns, RunRecord, SiteRecord, VersionRecord, WorkloadRecord, World};
use tombolo_core::{Name, RunId, SiteId, Timestamp, VersionId, WorkloadId};

/// What is durable. Runs that are over stay here when the world has forgotten them.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub sites: BTreeMap<SiteId, SiteRecord>,
    pub links: BTreeMap<(SiteId, SiteId), Link>,
    pub runs: BTreeMap<RunId, RunRecord>,
    pub workloads: BTreeMap<WorkloadId, WorkloadRecord>,
    pub versions: BTreeMap<VersionId, VersionRecord>,
    pub history: BTreeMap<(Name, Name), PastRuns>,
    pub counters: BTreeMap<Name, u64>,
    pub cache: BTreeMap<String, BTreeMap<Name, Made>>,
}

/// One process of the control plane.
pub struct Control {
    pub world: World,
}

/// What one change led to, once it is durable.
pub struct Committed<T> {
    pub answer: T,
    /// Sites that have to be told.
    pub wake: Vec<SiteId>,
}

impl Control {
    /// A process that has just started on a disk.
    pub fn start(disk: &Disk, now: Timestamp) -> Control {
        let mut world = World::default();
        world.awake = now;
        world.sites = disk.sites.clone();
        world.links.0 = disk.links.clone();
        world.versions = disk.versions.clone();
        world.history = disk.history.clone();
        world.counters = disk.counters.clone();
        for (id, run) in &disk.runs {
            let over =
                disk.workloads.iter().filter(|(workload, _)| workload.run == *id).all(|(_, record)| record.is_over());
            if !over {
                let of_run = disk.workloads.iter().filter(|(workload, _)| workload.run == *id);
                world.workloads.extend(of_run.map(|(workload, record)| (workload.clone(), record.clone())));
                world.runs.insert(id.clone(), run.clone());
            }
        }
        world.forget_questions();
        Control { world }
    }

    /// Applies a change as the engine does: decide, answer the cache's questions, commit, forget what is over.
    /// With `crash` the process dies before the commit: nothing of it is durable, nobody is answered.
    pub fn change<T>(
        &mut self,
        disk: &mut Disk,
        now: Timestamp,
        crash: bool,
        change: impl FnOnce(&mut World) -> T,
    ) -> Option<Committed<T>> {
        let answer = change(&mut self.world);
        self.world.decide(now);
        let mut changes = self.world.take_changes();
        loop {
            let lookups = std::mem::take(&mut changes.lookups);
            if lookups.is_empty() {
                break;
            }
            for (workload, key) in lookups {
                let found = disk.cache.get(&key).cloned();
                self.world.cache_answer(&workload, found, now);
            }
            self.world.decide(now);
            changes.merge(self.world.take_changes());
        }
        if crash {
            return None;
        }
        for id in &changes.sites {
            disk.sites.insert(id.clone(), self.world.sites[id].clone());
        }
        for link in &changes.links {
            disk.links.insert(link.clone(), self.world.links.0[link]);
        }
        for id in &changes.runs {
            disk.runs.insert(id.clone(), self.world.runs[id].clone());
        }
        for id in &changes.workloads {
            disk.workloads.insert(id.clone(), self.world.workloads[id].clone());
        }
        for id in &changes.versions {
            disk.versions.insert(*id, self.world.versions[id].clone());
        }
        for key in &changes.history {
            disk.history.insert(key.clone(), self.world.history[key].clone());
        }
        for (key, workload) in &changes.cached {
            disk.cache.insert(key.clone(), self.world.workloads[workload].outputs.clone());
        }
        // Here only states are ever let go of, and nothing else has their names.
        for version in &changes.unnamed {
            if self.world.forget_version(version) {
                disk.versions.remove(version);
            }
        }
        disk.counters = self.world.counters.clone();
        self.world.retire();
        Some(Committed { answer, wake: changes.wake.into_iter().collect() })
    }

    /// A report, and what the site is told in answer.
    pub fn report(
        &mut self,
        disk: &mut Disk,
        now: Timestamp,
        crash: bool,
        site: &SiteId,
        report: &Report,
    ) -> Option<Committed<Desired>> {
        let committed = self.change(disk, now, crash, |world| world.report(site, report, now))?;
        let mut desired = self.world.desired(site, &report.observed);
        // Of runs that the world has forgotten, the disk knows.
        for seen in &report.observed {
            let past = disk.workloads.get(&seen.workload).is_some_and(|record| {
                let live = record.epoch == seen.epoch && record.state.site().is_some();
                !live && seen.epoch <= record.newest_epoch() && record.arrival().is_none()
            });
            let over = matches!(seen.phase, tombolo_core::sync::Phase::Finished(_));
            let told = desired.settled.iter().any(|(workload, _)| *workload == seen.workload);
            if past && over && !told {
                desired.settled.push((seen.workload.clone(), seen.epoch));
            }
        }
        Some(Committed { answer: desired, wake: committed.wake })
    }
}
