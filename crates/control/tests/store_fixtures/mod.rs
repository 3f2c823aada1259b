//! A small world for the tests of store and engine.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;

use serde_json::json;
use tombolo_api::wire::PageQuery;
use tombolo_control::store::Write;
use tombolo_core::sketch::Sketch;
use tombolo_core::spec::ProjectSpec;
use tombolo_core::sync::Made;
use tombolo_core::world::{
    NamedVersion, Naming, Removed, RunRecord, RunState, SiteRecord, VersionRecord, WorkloadRecord,
};
use tombolo_core::{Digest, Epoch, Name, Residency, RunId, SiteId, Timestamp, VersionId, WorkloadId};

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn site_id(text: &str) -> SiteId {
    SiteId::new(text).unwrap()
}

pub fn version_id(byte: u8) -> VersionId {
    VersionId(Digest([byte; 32]))
}

pub fn run_id(project: &str, number: u64) -> RunId {
    RunId::new(name(project), number)
}

pub fn site(text: &str) -> SiteRecord {
    let record = json!({
        "info": { "id": text, "capacity": { "cpus_milli": 64_000, "memory_bytes": 1u64 << 40 } },
        "key": format!("key-of-{text}"),
        "joined": 5,
    });
    serde_json::from_value(record).unwrap()
}

pub fn version(at: &[&str]) -> VersionRecord {
    VersionRecord {
        bytes: 10,
        files: 1,
        residency: Residency::anywhere(),
        made_by: None,
        given: Default::default(),
        facts: Default::default(),
        at: Timestamp(7),
        replicas: at.iter().map(|site| site_id(site)).collect(),
    }
}

/// Two stages, `make -> use`, each with an output of its own name and an `-out`.
pub fn project(project: &str) -> ProjectSpec {
    let job = |command: &str, output: &str| json!({ "kind": { "job": { "outputs": [output] } }, "command": { "run": command }, "grace": 30_000 });
    let mut second = job("cat inputs/x > outputs/use-out/x", "use-out");
    second["inputs"] = json!({ "x": "make-out" });
    let spec = json!({
        "name": project,
        "data": {},
        "workloads": { "make": job("echo 1 > outputs/make-out/x", "make-out"), "use": second },
    });
    serde_json::from_value(spec).unwrap()
}

pub fn run(id: &RunId, state: RunState) -> RunRecord {
    RunRecord {
        id: id.clone(),
        spec: project(id.project().as_str()),
        code: version_id(1),
        data: BTreeMap::new(),
        by: "ada".to_owned(),
        at: Timestamp(100 + i64::try_from(id.number()).unwrap()),
        force: false,
        state,
        ended: None,
        may_lift: None,
    }
}

/// A workload of a run in a state, given as JSON.
pub fn workload(run: &RunId, stage: &str, epoch: u64, state: serde_json::Value) -> WorkloadRecord {
    let id = WorkloadId::new(run.clone(), name(stage));
    let spec = project(run.project().as_str()).workloads[&id.name].clone();
    let record = json!({ "id": id, "spec": spec, "state": state, "epoch": Epoch(epoch) });
    serde_json::from_value(record).unwrap()
}

pub fn made(byte: u8) -> Made {
    Made { version: version_id(byte), bytes: 3, files: 1, facts: Default::default(), sketch: None }
}

pub fn named(byte: u8, at: i64) -> NamedVersion {
    let at = Timestamp(at);
    NamedVersion { version: version_id(byte), at, seen: at, by: "ada".to_owned(), why: None }
}

/// A version under a dataset's name.
pub fn named_as(dataset: &str, number: u64, byte: u8, at: i64) -> Write {
    Write::Naming(Box::new(Naming::Named { dataset: name(dataset), number, named: named(byte, at) }))
}

/// The name is gone.
pub fn unnamed_as(dataset: &str, number: u64, byte: u8) -> Write {
    let (by, why) = ("ada".to_owned(), "removed by hand".to_owned());
    let removed = Removed { named: named(byte, 1), at: Timestamp(50), by, why, record: Some(version(&["a"]).into()) };
    Write::Naming(Box::new(Naming::Removed { dataset: name(dataset), number, removed }))
}

pub fn page(limit: u32, after: Option<String>) -> PageQuery {
    PageQuery { after, limit: Some(limit) }
}

/// Of a version of so many chunks.
pub fn sketch(chunks: u64) -> Sketch {
    Sketch::new((1..=chunks).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15), 1000)).collect())
}
