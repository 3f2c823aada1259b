//! A site with fifty workloads of all kinds is drained, and one destination dies in the middle.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tombolo_core::draining::Drain;
use tombolo_core::spec::{Command, DataSpec, Kind, Objective, ProjectSpec, Service, WorkloadSpec};
use tombolo_core::world::{SiteRecord, Submission, VersionRecord, WorkloadRecord};
use tombolo_core::{Digest, Millis, Residency, Resources, SiteId, VersionId};

use crate::control::Control;
use crate::project::{self, name, site_id};
use crate::rng::Rng;
use crate::run::{Event, Failure, Sim};
use crate::setup::STARTED;
use crate::site::Site;

const SERVICES: usize = 18;
const SINGLE: usize = 12;
const JOBS: usize = 20;
/// All workloads of it.
pub const WORKLOADS: usize = SERVICES + SINGLE + JOBS;
/// Moves that are done when the destination dies.
const MOVED_BEFORE: usize = 8;
const ENDS_WITHIN: Millis = Millis::from_secs(3_600);

/// What came of it, as the simulated control plane and sites have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Running or answering, somewhere else.
    pub placed: usize,
    pub lost: usize,
    /// Moves that were done, and those that were undone as their destination died or a copy failed.
    pub moved: usize,
    pub undone: usize,
    /// Of the simulation's clock, from its being asked until the site was empty and all went on.
    pub took: Millis,
}

/// Drains a site with [`WORKLOADS`] on it, kills one of three destinations in the middle (it is back after some
/// minutes, and what ran there is gone), and sees what came of it. Whatever acts twice, or begins again behind where it had
/// got to, is a failure.
pub fn drain(seed: u64) -> Result<Drained, Failure> {
    let mut sim = Sim::drained(seed);
    let drained = sim.play_drain();
    drained.map_err(|what| {
        let skip = sim.story.len().saturating_sub(400);
        Failure { seed, what, story: sim.story.split_off(skip) }
    })
}

impl Sim {
    fn drained(seed: u64) -> Sim {
        let mut sim = Sim::empty(Rng::new(seed));
        for index in 0..4 {
            let mut info = project::site(&mut sim.rng, index);
            // Any two of the destinations hold all of it.
            info.capacity.cpus_milli = if index == 0 { 64_000 } else { 30_000 };
            info.capacity.memory_bytes = 64 << 30;
            let id = info.id.clone();
            sim.sites.insert(id.clone(), Site { alive: true, ..Site::default() });
            let mut record = SiteRecord::new(info, id.to_string(), sim.now);
            // So that all begins at the first.
            record.draining = index > 0;
            sim.disk.sites.insert(id, record);
        }
        let mut control = Control::start(&sim.disk, sim.now);
        let home = site_id(0);
        for byte in [1, 2] {
            let version = VersionId(Digest([byte; 32]));
            let record = VersionRecord {
                bytes: 64 << 20,
                files: 1,
                residency: Residency::anywhere(),
                made_by: None,
                given: Default::default(),
                facts: Default::default(),
                at: sim.now,
                replicas: [home.clone()].into(),
            };
            let add = |world: &mut tombolo_core::world::World| world.add_version(version, record, &home);
            control.change(&mut sim.disk, sim.now, false, add);
            sim.sites.get_mut(&home).expect("a site").store.insert(version);
        }
        for (project, kinds) in
            [("services", vec![(SERVICES, Some(false)), (SINGLE, Some(true))]), ("jobs", vec![(JOBS, None)])]
        {
            let id = control.world.next_run(&name(project));
            let data = BTreeMap::from([(name("raw"), VersionId(Digest([1; 32])))]);
            let (code, by) = (VersionId(Digest([2; 32])), "ada".to_owned());
            sim.submissions.push(Submission { id, spec: spec(project, &kinds), code, data, by, force: true });
        }
        sim.control = Some(control);
        for id in sim.sites.keys().cloned().collect::<Vec<_>>() {
            sim.after(Millis(10), Event::Beat(id));
        }
        sim.after(Millis(500), Event::Tick);
        sim.after(Millis(100), Event::Submit(0));
        sim.after(Millis(100), Event::Submit(1));
        sim
    }

    fn play_drain(&mut self) -> Result<Drained, String> {
        self.play_until("all to run", |sim| sim.going_on(|at| *at == site_id(0)) == WORKLOADS)?;
        let open = |world: &mut tombolo_core::world::World| {
            for index in 1..4 {
                let _ = world.edit_site(&site_id(index), |site| site.draining = false);
            }
        };
        self.change(open);
        let asked = self.now;
        self.ask_to_drain(&site_id(0), None);
        self.play_until("some moves", |sim| sim.moves(Option::is_none) >= MOVED_BEFORE && sim.destination().is_some())?;
        let dies = self.destination().expect("waited for just now");
        self.agent_dies(&dies, true);
        self.play_until("all to be elsewhere", |sim| {
            let over = sim.disk.sites[&site_id(0)].drain.as_ref().is_some_and(|drain: &Drain| !drain.lasts());
            over && sim.going_on(|at| *at != site_id(0)) == WORKLOADS
        })?;
        let placed = self.going_on(|at| *at != site_id(0));
        Ok(Drained {
            placed,
            lost: WORKLOADS - placed,
            moved: self.moves(Option::is_none),
            undone: self.moves(Option::is_some),
            took: self.now.since(asked),
        })
    }

    fn play_until(&mut self, what: &str, done: impl Fn(&Sim) -> bool) -> Result<(), String> {
        while !done(self) {
            let Some(Reverse((at, number))) = self.queue.pop() else {
                return Err("nothing happens any more".to_owned());
            };
            self.now = at;
            if self.now > STARTED + ENDS_WITHIN {
                return Err(format!("{what} was waited for in vain"));
            }
            let event = self.events.remove(&number).expect("queued with its number");
            self.summary.events += 1;
            self.step(event)?;
            self.ledger.disk(&self.disk)?;
        }
        Ok(())
    }

    /// Workloads that run at a site, as the control plane and the site have it.
    fn going_on(&self, at: impl Fn(&SiteId) -> bool) -> usize {
        let runs = |record: &&WorkloadRecord| {
            let site = record.state.site().filter(|site| at(site));
            site.is_some_and(|site| self.sites[site].processes.contains_key(&(record.id.clone(), record.epoch)))
        };
        self.disk.workloads.values().filter(runs).count()
    }

    /// One that something is on its way to.
    fn destination(&self) -> Option<SiteId> {
        self.disk.workloads.values().find_map(|record| Some(record.moving.as_ref()?.to.clone()))
    }

    fn moves(&self, of: impl Fn(&Option<String>) -> bool) -> usize {
        self.disk.workloads.values().flat_map(|record| &record.moves).filter(|moved| of(&moved.undone)).count()
    }
}

/// So many workloads of each kind: jobs, or services that are single or not.
fn spec(project: &str, kinds: &[(usize, Option<bool>)]) -> ProjectSpec {
    let mut workloads = BTreeMap::new();
    for (count, single) in kinds {
        for _ in 0..*count {
            let kind = match *single {
                Some(single) => Kind::Service(Service { single, ..Service::default() }),
                None => Kind::Job(Default::default()),
            };
            workloads.insert(name(&format!("w{}", workloads.len())), workload(kind));
        }
    }
    let raw =
        DataSpec { path: None, residency: Residency::anywhere(), logs: Default::default(), expect: None, retain: None };
    ProjectSpec {
        name: name(project),
        data: BTreeMap::from([(name("raw"), raw)]),
        workloads,
        objective: Objective::default(),
    }
}

fn workload(kind: Kind) -> WorkloadSpec {
    WorkloadSpec {
        inputs: BTreeMap::from([(name("raw"), name("raw"))]),
        resources: Resources { cpus_milli: 1000, ..Resources::default() },
        grace: Millis(2_000),
        ..WorkloadSpec::new(kind, Command::Run("work".to_owned()))
    }
}
