//! What the API asks of a site's agent, and what it makes of the answers.

mod http_fixtures;

use http_fixtures::agent::{Agent, Line, within};
use http_fixtures::{Api, CODE, DATA, api, events, project, token};
use serde_json::{Value, json};
use tombolo_api::stream::{Call, LogLine, LogQuery, Progress, Said};
use tombolo_api::wire::Role;
use tombolo_core::sync::{Finish, Outcome, Phase};
use tombolo_core::{Epoch, Timestamp, VersionId, WorkloadId};

fn line(at: i64, text: &str) -> Said {
    Said::Log(LogLine { at: Timestamp(at), stream: "stdout".to_owned(), text: text.to_owned() })
}

fn make() -> WorkloadId {
    "flights-late-1/make".parse().unwrap()
}

/// The site `home` with its agent connected, and a run whose first stage is running there.
async fn running(residency: Value) -> (Api, Agent, Line) {
    let api = api().await;
    let home = api.agent("home", json!({ "region": "eu" })).await;
    api.version(CODE, None, json!([])).await.ok();
    api.version(DATA, Some("flights"), residency).await.ok();
    let mut at_home = home.connect(&[CODE, DATA].map(|version| version.parse().unwrap())).await;
    api.post("/v1/runs", json!({ "project": project(), "code": CODE })).await.ok();
    let down = at_home.hear().await.unwrap();
    assert_eq!(down.desired.assignments[0].workload, make());
    at_home.observe(&make(), 1, Phase::Running { since: Timestamp(5) }).await;
    (api, home, at_home)
}

const LOGS: &str = "/v1/workloads/flights-late-1/make/logs";

#[tokio::test]
async fn logs_come_from_the_site_as_it_says_them() {
    let (api, _home, at_home) = running(json!([])).await;
    let mut calls = at_home.answering(|_| vec![line(1, "one"), line(2, "two"), Said::Done(Value::Null)]);
    let answer = api.get(&format!("{LOGS}?tail=7&since=3&follow=true")).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let texts: Vec<_> = events(&answer.text).into_iter().map(|(_, event)| event["text"].clone()).collect();
    assert_eq!(texts, ["one", "two"]);
    let Some(Call::Logs { workload, epoch, query }) = within(calls.recv()).await else { panic!("another call") };
    assert_eq!((workload, epoch), (make(), Epoch(1)));
    assert_eq!(query, LogQuery { since: Some(Timestamp(3)), tail: Some(7), follow: true });

    assert_eq!(api.get(&format!("{LOGS}?epoch=9")).await.problem(404), "not-found");
    assert_eq!(api.get("/v1/workloads/flights-late-1/use/logs").await.problem(409), "not-started");
}

#[tokio::test]
async fn a_site_that_fails_or_goes_away_in_the_middle_is_a_problem_at_the_end() {
    let (api, _home, at_home) = running(json!([])).await;
    let _calls = at_home.answering(|call| match call {
        Call::Logs { query, .. } if query.follow => vec![line(1, "one")],
        _ => vec![line(1, "one"), Said::Failed("the disk is gone".to_owned())],
    });
    let failed = api.get(LOGS).await.text;
    assert!(failed.contains("\"one\"") && failed.contains("event: problem"), "{failed}");
    assert!(failed.contains("site-failed") && failed.contains("the disk is gone"), "{failed}");
    let broken = api.get(&format!("{LOGS}?follow=true")).await.text;
    assert!(broken.contains("\"one\"") && broken.contains("site-unreachable"), "{broken}");
    let gone = at_home.connection.clone();
    drop(at_home);
    gone.close(0u32.into(), b"gone");
    // The control plane sees it when its own end of the connection does.
    let away = within(async {
        loop {
            let answer = api.get(LOGS).await;
            if answer.status == 503 {
                return answer;
            }
        }
    });
    let away = away.await;
    assert_eq!(away.problem(503), "site-unreachable");
    assert!(away.text.contains("home was last heard of"), "{}", away.text);
}

#[tokio::test]
async fn a_site_keeps_what_is_needed_and_says_what_it_found() {
    let (api, _home, at_home) = running(json!([])).await;
    let mut calls = at_home.answering(|call| match call {
        Call::Gc { .. } => vec![Said::Done(json!({ "bytes_freed": 12 }))],
        Call::Verify => vec![Said::Done(json!({ "damaged": ["x"] }))],
        Call::List { .. } => vec![Said::Done(json!([{ "path": "a", "bytes": 3 }]))],
        _ => vec![Said::Failed("not asked for here".to_owned())],
    });
    let gone = api.post("/v1/sites/home/gc", json!({})).await.ok();
    assert_eq!(gone, json!({ "site": "home", "answer": { "bytes_freed": 12 } }));
    let Some(Call::Gc { keep }) = within(calls.recv()).await else { panic!("another call") };
    for needed in [CODE, DATA] {
        assert!(keep.contains(&needed.parse::<VersionId>().unwrap()), "{needed} would be collected");
    }
    let verified = api.post("/v1/sites/home/verify", json!({})).await.ok();
    assert_eq!(verified["answer"]["damaged"], json!(["x"]));
    assert!(matches!(within(calls.recv()).await, Some(Call::Verify)));
    let files = api.get(&format!("/v1/versions/{DATA}/files")).await.ok();
    assert_eq!(files, json!({ "site": "home", "answer": [{ "path": "a", "bytes": 3 }] }));
    let audit = api.get("/v1/audit").await.ok().to_string();
    for done in ["POST /v1/sites/home/gc", "POST /v1/sites/home/verify"] {
        assert!(audit.contains(done), "{audit}");
    }
}

#[tokio::test]
async fn a_version_is_brought_where_it_may_be_and_how_far_it_is_is_told() {
    let eu = json!([[{ "labels": { "region": "eu" } }]]);
    let (api, _home, _at_home) = running(eu).await;
    let near = api.agent("near", json!({ "region": "eu" })).await;
    let far = api.agent("far", json!({ "region": "us" })).await;
    let (at_near, _at_far) = (near.connect(&[]).await, far.connect(&[]).await);
    let mut calls = at_near.answering(|_| {
        let moved =
            |done_bytes| Progress { what: "version".to_owned(), done_bytes, total_bytes: 10, ..Progress::default() };
        vec![Said::Progress(moved(4)), Said::Progress(moved(10)), Said::Done(Value::Null)]
    });
    let path = format!("/v1/versions/{DATA}/replicas");
    let brought = api.post(&path, json!({ "site": "near" })).await;
    let done: Vec<_> = events(&brought.text).into_iter().map(|(_, event)| event["done_bytes"].clone()).collect();
    assert_eq!(done, [4, 10]);
    let Some(Call::Fetch { version }) = within(calls.recv()).await else { panic!("another call") };
    assert_eq!(version.to_string(), DATA);

    assert_eq!(api.post(&path, json!({ "site": "far" })).await.problem(403), "residency");
    assert_eq!(api.post(&path, json!({ "site": "nowhere" })).await.problem(404), "not-found");
    let viewer = token(Role::Viewer);
    let body = json!({ "site": "near" });
    assert_eq!(api.ask(&viewer, "POST", &path, Some(&body)).await.problem(403), "forbidden");
}

/// What is recorded of those who read logs: who, of what, by which rule.
async fn readings(api: &Api) -> Vec<(String, String, String)> {
    let audit = api.get("/v1/audit").await.ok();
    let read = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        text("what").contains("/logs").then(|| (text("who"), text("outcome"), text("detail")))
    };
    audit["items"].as_array().unwrap().iter().filter_map(read).collect()
}

#[tokio::test]
async fn who_reads_the_log_of_what_is_bound_to_sites_is_recorded() {
    let (api, _home, mut at_home) = running(json!([[{ "labels": { "region": "eu" } }]])).await;
    let _calls = at_home.answering(|_| vec![line(1, "one"), Said::Done(Value::Null)]);
    let viewer = token(Role::Viewer);
    let recorded = |times: usize| {
        let detail = "read from home; its inputs may only be at {region: eu}";
        vec![("viewer".to_owned(), "done".to_owned(), detail.to_owned()); times]
    };
    assert!(api.ask(&viewer, "GET", LOGS, None).await.text.contains("one"));
    assert_eq!(readings(&api).await, recorded(1));
    // Also when the run is over, and only the store knows it.
    api.post("/v1/runs/flights-late-1/stop", json!({})).await.ok();
    let stopped = Finish::without_running(Outcome::Stopped, Timestamp(9));
    at_home.observe(&make(), 1, Phase::Finished(Box::new(stopped))).await;
    assert!(api.engine.look(|world, _| world.runs.is_empty()).await.unwrap());
    assert!(api.ask(&viewer, "GET", LOGS, None).await.text.contains("one"));
    assert_eq!(readings(&api).await, recorded(2));
    let (free, _agent, at_free) = running(json!([])).await;
    let _calls = at_free.answering(|_| vec![line(1, "one"), Said::Done(Value::Null)]);
    assert!(free.get(LOGS).await.text.contains("one"));
    assert_eq!(readings(&free).await, []);
}

#[tokio::test]
async fn a_log_that_stays_is_refused_and_the_refusal_recorded() {
    let api = api().await;
    let home = api.agent("home", json!({})).await;
    api.version(CODE, None, json!([])).await.ok();
    api.version(DATA, Some("flights"), json!([])).await.ok();
    let mut at_home = home.connect(&[CODE, DATA].map(|version| version.parse().unwrap())).await;
    let mut project = project();
    project["data"]["flights"]["logs"] = json!("stay");
    api.post("/v1/runs", json!({ "project": project, "code": CODE })).await.ok();
    at_home.hear().await.unwrap();
    at_home.observe(&make(), 1, Phase::Running { since: Timestamp(5) }).await;
    let _calls = at_home.answering(|_| vec![line(1, "one"), Said::Done(Value::Null)]);
    let refused = api.get(LOGS).await;
    assert_eq!(refused.problem(403), "logs-stay");
    for told in ["stays at home", "dataset flights", "--site-dir"] {
        assert!(refused.text.contains(told), "{}", refused.text);
    }
    let recorded = readings(&api).await;
    assert_eq!(recorded.len(), 1);
    assert_eq!((recorded[0].0.as_str(), recorded[0].1.as_str()), ("admin", "refused"));
}

/// Whoever may add data may name any site: one that can be asked must have what is said of it.
#[tokio::test]
async fn a_replica_is_believed_unless_its_site_denies_it() {
    let api = api().await;
    let home = api.agent("home", json!({})).await;
    // It is away, and can't be asked.
    api.version(CODE, None, json!([])).await.ok();
    let at_home = home.connect(&[]).await;
    // Once it is back, it tells what it has.
    assert_eq!(api.get(&format!("/v1/versions/{CODE}")).await.ok()["replicas"], json!([]));
    let mut calls = at_home.answering(|call| match call {
        Call::Has { version } => vec![Said::Done(json!(version.to_string() == DATA))],
        other => vec![Said::Failed(format!("{other:?}"))],
    });
    api.version(DATA, Some("flights"), json!([])).await.ok();
    assert!(matches!(within(calls.recv()).await, Some(Call::Has { .. })));
    let other = "0f".repeat(32);
    assert_eq!(api.version(&other, Some("flights"), json!([])).await.problem(409), "no-replica");
    assert_eq!(api.get(&format!("/v1/versions/{other}")).await.problem(404), "not-found");
    assert_eq!(api.get("/v1/datasets/flights").await.ok()["versions"], 1);
}

/// Grants name how large a version is, so that it matters who says so.
#[tokio::test]
async fn a_version_is_as_large_as_its_site_says() {
    let api = api().await;
    let home = api.agent("home", json!({})).await;
    // Nobody can be asked, and the claim stands until somebody can.
    let claimed = api.version(DATA, Some("flights"), json!([])).await.ok()["bytes"].clone();
    assert_ne!(claimed, 77);
    let at_home = home.connect(&[]).await;
    let _calls = at_home.answering(|call| match call {
        Call::Has { .. } => vec![Said::Done(json!({ "bytes": 77, "files": 3 }))],
        other => vec![Said::Failed(format!("{other:?}"))],
    });
    for version in [DATA, CODE] {
        let known = api.version(version, Some("flights"), json!([])).await.ok();
        assert_eq!((&known["bytes"], &known["files"]), (&json!(77), &json!(3)));
        assert_eq!(api.get(&format!("/v1/versions/{version}")).await.ok()["bytes"], 77);
    }
}
