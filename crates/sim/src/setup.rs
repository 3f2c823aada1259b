//! How a history begins: sites, projects and their data, and when people and faults will interfere.

use std::collections::{BTreeMap, BinaryHeap};

use tombolo_core::world::{SiteRecord, Submission, VersionRecord};
use tombolo_core::{Digest, Millis, Timestamp, VersionId};

use crate::check::Ledger;
use crate::control::{Control, Disk};
use crate::project::{self, name, site_id};
use crate::rng::Rng;
use crate::run::{Event, FAULTS_FOR, Options, Sim, Summary};
use crate::site::Site;

/// When a history begins.
pub const STARTED: Timestamp = Timestamp(1_000_000);

impl Sim {
    /// Nobody and nothing, and no faults to come.
    pub(crate) fn empty(rng: Rng) -> Sim {
        Sim {
            now: STARTED,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            number: 0,
            disk: Disk::default(),
            control: None,
            sites: BTreeMap::new(),
            cut: BTreeMap::new(),
            last: BTreeMap::new(),
            ledger: Ledger::default(),
            submissions: Vec::new(),
            faults_until: STARTED,
            calm: true,
            summary: Summary::default(),
            story: Vec::new(),
            rng,
        }
    }

    pub fn new(options: &Options) -> Sim {
        let mut rng = Rng::new(options.seed);
        let mut sim = Sim::empty(rng.clone());
        sim.faults_until = STARTED + FAULTS_FOR;
        sim.calm = false;
        let sites = rng.range(1, 5) as usize;
        for index in 0..sites {
            let info = project::site(&mut rng, index);
            let id = info.id.clone();
            let drift = rng.range(0, 21) as i64 - 10;
            sim.sites.insert(id.clone(), Site { alive: true, drift, ..Site::default() });
            let key = id.to_string();
            let record = SiteRecord::new(info, key, sim.now);
            sim.disk.sites.insert(id, record);
        }
        let mut control = Control::start(&sim.disk, sim.now);
        for number in 0..rng.range(1, 5) as usize {
            sim.prepare_submission(&mut rng, &mut control, number, sites, options.leases);
        }
        sim.control = Some(control);
        sim.rng = rng;
        for id in sim.sites.keys().cloned().collect::<Vec<_>>() {
            sim.sites.get_mut(&id).expect("listed").contact = sim.sites[&id].clock(sim.now);
            let soon = Millis(sim.rng.range(0, 2000));
            sim.after(soon, Event::Beat(id));
        }
        sim.after(Millis(500), Event::Tick);
        sim.schedule_people_and_faults();
        sim
    }

    /// Data and code of a project at its home site, and the run that will be asked for.
    fn prepare_submission(&mut self, rng: &mut Rng, control: &mut Control, number: usize, sites: usize, leases: bool) {
        let home = site_id(rng.range(0, sites as u64) as usize);
        // Sometimes the same project is run again, so that caches and supersession are met.
        let project = if number > 0 && rng.chance(400) { number - 1 } else { number };
        let spec = match self.submissions.get(project).filter(|_| project < number) {
            Some(before) => before.spec.clone(),
            None => project::project(rng, project, &home, leases),
        };
        let (raw, code) = match self.submissions.get(project).filter(|_| project < number) {
            Some(before) => (before.data[&name("raw")], before.code),
            None => (VersionId(Digest([number as u8 + 1; 32])), VersionId(Digest([number as u8 + 101; 32]))),
        };
        if project == number {
            let residency = spec.data[&name("raw")].residency.clone();
            for (version, residency) in [(raw, residency), (code, Default::default())] {
                let replicas = [home.clone()].into();
                let bytes = rng.range(1 << 20, 1 << 30);
                let record = VersionRecord {
                    bytes,
                    files: 1,
                    residency,
                    made_by: None,
                    given: Default::default(),
                    facts: Default::default(),
                    at: self.now,
                    replicas,
                };
                control.change(&mut self.disk, self.now, false, |world| {
                    world.add_version(version, record, &home).expect("home may have it")
                });
                self.sites.get_mut(&home).expect("a site").store.insert(version);
            }
        }
        let id = control.world.next_run(&spec.name);
        let data = BTreeMap::from([(name("raw"), raw)]);
        let force = rng.chance(300);
        self.submissions.push(Submission { id, spec, code, data, by: "ada".to_owned(), force });
    }

    fn schedule_people_and_faults(&mut self) {
        for index in 0..self.submissions.len() {
            let at = Millis(self.rng.range(0, 60_000));
            self.after(at, Event::Submit(index));
            if self.rng.chance(150) {
                let later = Millis(self.rng.range(10_000, 300_000));
                self.after(at + later, Event::StopRun(index));
                if self.rng.chance(500) {
                    let later = later + Millis(self.rng.range(1_000, 200_000));
                    self.after(at + later, Event::Retry(index));
                }
            }
        }
        let ids: Vec<_> = self.sites.keys().cloned().collect();
        for _ in 0..4 {
            let at = Millis(self.rng.range(1_000, FAULTS_FOR.0));
            let site = self.rng.pick(&ids).expect("there is a site").clone();
            self.after(at, Event::Pry(site));
        }
        for _ in 0..self.rng.range(0, 10) {
            let at = Millis(self.rng.range(5_000, FAULTS_FOR.0));
            self.after(at, Event::Move);
        }
        for _ in 0..self.rng.range(0, 3) {
            let at = Millis(self.rng.range(5_000, FAULTS_FOR.0));
            let site = self.rng.pick(&ids).expect("there is a site").clone();
            self.after(at, Event::Drain(site.clone()));
            // Some are never opened again.
            if self.rng.chance(700) {
                let later = Millis(self.rng.range(5_000, 400_000));
                self.after(at + later, Event::Undrain(site));
            }
        }
        for _ in 0..self.rng.range(0, 12) {
            let at = Millis(self.rng.range(1_000, FAULTS_FOR.0));
            let site = self.rng.pick(&ids).expect("there is a site").clone();
            let event = match self.rng.range(0, 8) {
                0 | 1 => Event::ControlDies,
                2 | 3 => Event::AgentDies(site),
                4 => Event::PowerCut(site),
                _ => Event::Cut(site),
            };
            self.after(at, event);
        }
    }
}
