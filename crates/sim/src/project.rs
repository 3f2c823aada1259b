//! Random sites and projects, small enough that every corner is met within a few thousand seeds.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::site::{Prices, SiteInfo};
use tombolo_core::spec::{Command, DataSpec, Job, Kind, Objective, ProjectSpec, Service, StateCopies, WorkloadSpec};
use tombolo_core::{Digest, Millis, Name, Residency, Resources, Selector, SiteId, VersionId, WorkloadId};

use crate::rng::Rng;

pub fn name(text: &str) -> Name {
    Name::new(text).expect("the simulation's names are good")
}

pub fn site_id(index: usize) -> SiteId {
    SiteId(name(&format!("s{index}")))
}

pub fn site(rng: &mut Rng, index: usize) -> SiteInfo {
    let region = if rng.chance(500) { "eu" } else { "us" };
    SiteInfo {
        id: site_id(index),
        labels: BTreeMap::from([("region".to_owned(), region.to_owned())]),
        capacity: Resources { cpus_milli: rng.range(1, 5) * 1000, memory_bytes: 8 << 30, ..Resources::default() },
        prices: Prices { cpu_hour: rng.range(0, 10) as f64 / 10.0, egress_gib: 0.1, ..Prices::default() },
        containers: false,
    }
}

/// A DAG of one to five jobs over one dataset, and at times a service.
pub fn project(rng: &mut Rng, number: usize, home: &SiteId, leases: bool) -> ProjectSpec {
    let residency = match rng.range(0, 3) {
        0 => Residency::keep_at(Selector::site(home.clone())),
        1 => Residency::anywhere(),
        _ => Residency::keep_at(Selector(BTreeSet::from([
            tombolo_core::residency::Term::Site(home.clone()),
            tombolo_core::residency::Term::Labels(BTreeMap::from([("region".to_owned(), "eu".to_owned())])),
        ]))),
    };
    let mut workloads = BTreeMap::new();
    let mut sources = vec![name("raw")];
    for index in 0..rng.range(1, 6) {
        let output = name(&format!("o{index}"));
        let mut inputs = BTreeMap::new();
        for _ in 0..rng.range(1, 3) {
            let source = rng.pick(&sources).expect("raw is always there").clone();
            inputs.insert(source.clone(), source);
        }
        let release = if rng.chance(200) { BTreeSet::from([output.clone()]) } else { BTreeSet::new() };
        let job = Job {
            outputs: BTreeSet::from([output.clone()]),
            retries: rng.range(0, 3) as u32,
            release,
            ..Job::default()
        };
        workloads.insert(name(&format!("j{index}")), workload(rng, Kind::Job(job), inputs, leases));
        sources.push(output);
    }
    if rng.chance(300) {
        let source = rng.pick(&sources).expect("raw is always there").clone();
        let service = Kind::Service(Service { single: rng.chance(500), ..Service::default() });
        let inputs = BTreeMap::from([(source.clone(), source)]);
        workloads.insert(name("serve"), workload(rng, service, inputs, leases));
    }
    ProjectSpec {
        name: name(&format!("p{number}")),
        data: BTreeMap::from([(
            name("raw"),
            DataSpec { path: None, residency, logs: Default::default(), expect: None, retain: None },
        )]),
        workloads,
        objective: Objective::default(),
    }
}

fn workload(rng: &mut Rng, kind: Kind, inputs: BTreeMap<Name, Name>, leases: bool) -> WorkloadSpec {
    let lease = leases && rng.chance(400);
    WorkloadSpec {
        kind,
        command: Command::Run("work".to_owned()),
        python: None,
        image: None,
        inputs,
        env: BTreeMap::new(),
        secrets: BTreeSet::new(),
        resources: Resources { cpus_milli: rng.range(1, 3) * 1000, ..Resources::default() },
        site: None,
        grace: Millis(rng.range(0, 5_000)),
        priority: rng.range(0, 3) as i32,
        failover_after: lease.then(|| Millis(rng.range(20_000, 90_000))),
        duration: rng.chance(500).then(|| Millis(rng.range(1_000, 60_000))),
        home: None,
        leaning: None,
        state: rng
            .chance(300)
            .then(|| StateCopies { every: Millis(rng.range(5_000, 40_000)), sites: rng.range(1, 3) as u32 }),
    }
}

/// The state of a workload that has got so far.
pub fn state(workload: &WorkloadId, progress: u64) -> VersionId {
    let mut bytes = [0xff; 32];
    bytes[..8].copy_from_slice(&progress.to_be_bytes());
    let name = workload.to_string();
    let length = name.len().min(23);
    bytes[8..8 + length].copy_from_slice(&name.as_bytes()[..length]);
    VersionId(Digest(bytes))
}

/// How far a state says that its workload has got.
pub fn progress(state: Option<VersionId>) -> u64 {
    state.map_or(0, |state| u64::from_be_bytes(state.0.0[..8].try_into().expect("eight bytes")))
}

/// The version that a job makes of its inputs: the same wherever and however often it runs.
pub fn made(workload: &Name, project: &Name, inputs: &BTreeMap<Name, VersionId>) -> VersionId {
    let mut rng = Rng::new(7);
    let mut bytes = [0u8; 32];
    let mut mix = |byte: u8| {
        let stir = rng.next() ^ u64::from(byte).wrapping_mul(0x100_0000_01b3);
        for (slot, piece) in bytes.iter_mut().zip(stir.to_le_bytes().into_iter().cycle()) {
            *slot = slot.wrapping_mul(31).wrapping_add(piece).rotate_left(3);
        }
    };
    for byte in project.as_str().bytes().chain([0]).chain(workload.as_str().bytes()) {
        mix(byte);
    }
    for version in inputs.values() {
        version.0.0.iter().for_each(|byte| mix(*byte));
    }
    VersionId(Digest(bytes))
}
