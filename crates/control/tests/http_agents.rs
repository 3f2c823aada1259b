//! Agents at the door: who is let in, who is out at once, and what they are told.

mod http_fixtures;

use std::collections::BTreeSet;

use http_fixtures::agent::{closed, sources};
use http_fixtures::{CODE, DATA, api};
use serde_json::json;
use tombolo_api::stream::{CLOSE_REVOKED, CLOSE_UNKNOWN, Sources};
use tombolo_core::VersionId;
use tombolo_core::sync::{Intent, Report};

fn version(text: &str) -> VersionId {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_site_that_is_revoked_while_it_connects_is_out() {
    let api = api().await;
    let agent = api.agent("home", json!({})).await;
    // Each of these connections is past the check of its key when the site is revoked, and has not said hello.
    let (greeting, asking) = (agent.dial().await, agent.dial().await);
    for connection in [&greeting, &asking] {
        assert!(matches!(sources(connection, version(DATA)).await, Ok(Sources::Refused(_))));
    }
    api.post("/v1/sites/home/revoke", json!({})).await.ok();
    if let Ok(mut line) = agent.greet(greeting.clone()).await {
        let heard = line.hear().await;
        assert!(heard.is_err(), "a revoked site was told {heard:?}");
    }
    assert_eq!(closed(&greeting).await, CLOSE_REVOKED);
    let answer = sources(&asking, version(DATA)).await;
    assert!(answer.is_err(), "a revoked site was answered {answer:?}");
    assert_eq!(closed(&asking).await, CLOSE_REVOKED);
}

#[tokio::test]
async fn a_connected_site_that_is_revoked_is_cut_off_and_the_others_hear_its_key() {
    let api = api().await;
    let (home, away) = (api.agent("home", json!({})).await, api.agent("away", json!({})).await);
    let (mut at_home, at_away) = (home.connect(&[]).await, away.connect(&[]).await);
    api.post("/v1/sites/away/revoke", json!({})).await.ok();
    assert_eq!(closed(&at_away.connection).await, CLOSE_REVOKED);
    // The next word, without a report before it.
    let keys = Some(BTreeSet::from([away.key.clone()]));
    let mut down = at_home.hear().await.unwrap();
    while down.revoked.is_none() {
        // That the other has come is said as well.
        down = at_home.hear().await.unwrap();
    }
    assert_eq!(down.revoked, keys);
    // It is not said again on this connection, and said at once on the next.
    assert!(at_home.say(Report::default()).await.iter().all(|down| down.revoked.is_none()));
    let mut again = home.greet(home.dial().await).await.unwrap();
    assert_eq!(again.say(Report::default()).await[0].revoked, keys);
}

#[tokio::test]
async fn a_key_is_what_the_connection_proves_and_not_what_is_said() {
    let api = api().await;
    let (home, away) = (api.agent("home", json!({})).await, api.agent("away", json!({})).await);
    let _at_home = home.connect(&[]).await;
    api.version(DATA, Some("flights"), json!([])).await.ok();
    let at_away = away.connect(&[]).await;
    let Ok(Sources::From(from)) = sources(&at_away.connection, version(DATA)).await else { panic!("no source") };
    assert_eq!(from.len(), 1);
    assert_eq!((from[0].site.as_str(), &from[0].address.key), ("home", &home.key));
}

#[tokio::test]
async fn who_is_turned_away_is_recorded_and_a_flood_of_it_is_not() {
    let api = api().await;
    let (stranger, out) = (api.stranger("nobody").await, api.agent("out", json!({})).await);
    api.post("/v1/sites/out/revoke", json!({})).await.ok();
    for _ in 0..3 {
        assert_eq!(closed(&stranger.dial().await).await, CLOSE_UNKNOWN);
        assert_eq!(closed(&out.dial().await).await, CLOSE_REVOKED);
    }
    let audit = api.get("/v1/audit").await.ok();
    let turned_away: Vec<_> =
        audit["items"].as_array().unwrap().iter().filter(|entry| entry["what"] == "connect").collect();
    let shown: BTreeSet<_> = turned_away
        .iter()
        .map(|entry| [&entry["who"], &entry["on"], &entry["outcome"]].map(|field| field.as_str().unwrap()))
        .collect();
    let nobody = ["nobody", stranger.key.as_str(), "refused"];
    assert_eq!(shown, BTreeSet::from([nobody, ["site out", out.key.as_str(), "refused"]]));
    assert_eq!(turned_away.len(), 2, "one for each key: {audit}");
}

#[tokio::test]
async fn a_site_with_much_to_do_is_told_in_parts() {
    const STAGES: usize = 1_001;
    let api = api().await;
    let home = api.agent("home", json!({})).await;
    api.version(CODE, None, json!([])).await.ok();
    let mut line = home.connect(&[version(CODE)]).await;
    let stage = json!({ "kind": { "job": { "outputs": [] } }, "command": { "run": "true" }, "grace": 30_000 });
    let workloads: serde_json::Map<_, _> = (0..STAGES).map(|i| (format!("s{i}"), stage.clone())).collect();
    let project = json!({ "name": "wide", "data": {}, "workloads": workloads });
    api.post("/v1/runs", json!({ "project": project, "code": CODE })).await.ok();

    let mut told = BTreeSet::new();
    while told.len() < STAGES {
        let down = line.hear().await.unwrap();
        assert!((1..=500).contains(&down.desired.assignments.len()), "{}", down.desired.assignments.len());
        for assignment in down.desired.assignments {
            assert!(matches!(assignment.intent, Intent::Run(_)));
            assert!(told.insert(assignment.workload.clone()), "{} came twice", assignment.workload);
        }
    }
}
