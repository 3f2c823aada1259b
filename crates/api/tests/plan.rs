//! How plans are written: one object for each outcome and verdict, which says its status.

use serde_json::json;
use tombolo_api::wire::PlanView;
use tombolo_core::placement::{
    Decided, Margin, Outcome, Placement, Reason, Source, Terms, Transfer, Unplaceable, Verdict,
};
use tombolo_core::residency::Selector;
use tombolo_core::{Millis, Name, SiteId};

fn site(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const TERMS: Terms = Terms {
    wait: Millis(0),
    transfer: Millis(20),
    transfer_bytes: 804,
    egress_price: 0.25,
    run: Millis(30_000),
    run_source: Source::Declared,
    compute_price: 0.5,
    score: 0.75,
};

fn plan() -> PlanView {
    let transfer = Transfer {
        input: name("features"),
        from: site("onprem"),
        to: site("cloud"),
        bytes: 804,
        whole_bytes: 0,
        time: Millis(20),
        egress_price: 0.25,
    };
    let margin = Margin { decided: Decided::Cost, slower_ms: -20, dearer: 1.5, cause: None };
    let train = Placement {
        task: name("train"),
        outcome: Ok(Outcome { site: site("cloud"), start: Millis(5), terms: TERMS, transfers: vec![transfer] }),
        others: vec![
            (site("onprem"), Verdict::Lost { terms: TERMS, by: margin }),
            (site("prod"), Verdict::Refused(Reason::Selector { wanted: Selector::site(site("cloud")) })),
        ],
    };
    let kept = Reason::Residency { input: name("raw"), rule: Selector::site(site("onprem")), through: None };
    let others = vec![(site("cloud"), Verdict::Refused(kept)), (site("prod"), Verdict::Refused(Reason::Draining))];
    let test = Placement { task: name("test"), outcome: Err(Unplaceable::NoSite), others };
    let wait = Unplaceable::Upstream { task: name("test") };
    let last = Placement { task: name("last"), outcome: Err(wait), others: vec![] };
    PlanView { makespan_ms: 30_025, cost: 0.75, exact: true, placements: vec![train, test, last] }
}

#[test]
fn outcomes_and_verdicts_say_their_status() {
    let terms = json!({
        "wait": 0, "transfer": 20, "transfer_bytes": 804, "egress_price": 0.25, "run": 30_000,
        "run_source": "declared", "compute_price": 0.5, "score": 0.75,
    });
    let transfer = json!({
        "input": "features", "from": "onprem", "to": "cloud", "bytes": 804, "whole_bytes": 0, "time": 20,
        "egress_price": 0.25,
    });
    let lost_by = json!({ "decided": "cost", "slower_ms": -20, "dearer": 1.5, "cause": null });
    let written = json!({
        "makespan_ms": 30_025,
        "cost": 0.75,
        "exact": true,
        "placements": [
            {
                "task": "train",
                "outcome": {
                    "status": "planned", "site": "cloud", "start": 5, "terms": terms, "transfers": [transfer],
                },
                "others": [
                    { "site": "onprem", "status": "lost", "terms": terms, "by": lost_by },
                    { "site": "prod", "status": "refused", "reason": "selector", "wanted": [{ "site": "cloud" }] },
                ],
            },
            {
                "task": "test",
                "outcome": { "status": "refused", "why": "no_site" },
                "others": [
                    {
                        "site": "cloud", "status": "refused", "reason": "residency", "input": "raw",
                        "rule": [{ "site": "onprem" }], "through": null,
                    },
                    { "site": "prod", "status": "refused", "reason": "draining" },
                ],
            },
            { "task": "last", "outcome": { "status": "refused", "why": "upstream", "task": "test" }, "others": [] },
        ],
    });
    assert_eq!(serde_json::to_value(plan()).unwrap(), written);
    assert_eq!(serde_json::from_value::<PlanView>(written).unwrap(), plan());
}

/// Records that hold an explanation in the form before are still read.
#[test]
fn a_record_with_an_explanation_in_an_older_form_is_read_without_it() {
    let spec = tombolo_api::project::parse(
        "project: p\nstages: { a: { run: 'true' } }\n",
        "tombolo.yaml",
        &tombolo_api::project::Directory(".".into()),
    );
    let mut world = tombolo_core::world::World::default();
    let (id, code) = ("p-1".parse().unwrap(), tombolo_core::VersionId(tombolo_core::Digest([1; 32])));
    let record = tombolo_core::world::VersionRecord {
        bytes: 0,
        files: 0,
        residency: tombolo_core::Residency::anywhere(),
        made_by: None,
        given: Default::default(),
        facts: Default::default(),
        at: tombolo_core::Timestamp(0),
        replicas: Default::default(),
    };
    world.versions.insert(code, record);
    let submission = tombolo_core::world::Submission {
        id,
        spec: spec.unwrap(),
        code,
        data: Default::default(),
        by: "ada".into(),
        force: false,
    };
    world.submit(submission, tombolo_core::Timestamp(0)).unwrap();
    let mut record = world.workloads.values().next().unwrap().clone();
    record.placement = plan().placements.pop();
    let mut written = serde_json::to_value(&record).unwrap();
    let read = |written: &serde_json::Value| serde_json::from_value(written.clone()).unwrap();
    assert_eq!(record, read(&written));
    written["placement"] = json!({ "task": "a", "outcome": { "Err": { "why": "no_site" } }, "others": [] });
    assert_eq!(tombolo_core::world::WorkloadRecord { placement: None, ..record }, read(&written));
}
