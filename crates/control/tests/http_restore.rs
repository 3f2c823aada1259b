//! Versions that are brought back: without a byte being copied, and without a rule being lifted.

mod http_fixtures;

use http_fixtures::agent::{Agent, Line, within};
use http_fixtures::{Answer, Api, CODE, DATA, api, token};
use serde_json::{Value, json};
use tombolo_api::stream::{Call, Said};
use tombolo_api::wire::Role;

const RESTORE: &str = "/v1/datasets/raw/restore";

async fn restore(api: &Api, version: &str) -> Answer {
    let body = json!({ "version": version, "reason": "the rows of November were wrong" });
    api.ask(&token(Role::Member), "POST", RESTORE, Some(&body)).await
}

async fn remove(api: &Api, which: &str) {
    let path = format!("/v1/datasets/raw/versions/{which}");
    assert_eq!(api.ask(&token(Role::Member), "DELETE", &path, None).await.status, 204);
}

/// `raw` has DATA, under a rule, and then CODE, at the connected site `home`.
async fn filled() -> (Api, Agent, Line) {
    let api = api().await;
    let home = api.agent("home", json!({ "region": "eu" })).await;
    api.version(DATA, Some("raw"), json!([[{ "labels": { "region": "eu" } }]])).await.ok();
    api.version(CODE, Some("raw"), json!([])).await.ok();
    let at_home = home.connect(&[DATA, CODE].map(|version| version.parse().unwrap())).await;
    (api, home, at_home)
}

#[tokio::test]
async fn an_earlier_version_is_the_newest_again() {
    let (api, ..) = filled().await;
    let body = json!({ "version": "v1" });
    let member = token(Role::Member);
    let first = api.ask_keyed(&member, "POST", RESTORE, Some(&body), "k").await;
    let again = api.ask_keyed(&member, "POST", RESTORE, Some(&body), "k").await;
    assert_eq!(first.text, again.text);
    let info = first.ok();
    assert_eq!((&info["number"], &info["version"], &info["by"]), (&json!(3), &json!(DATA), &json!("member")));
    assert_eq!(info["why"], "brought back from v1");
    let shown = api.get("/v1/datasets/raw").await.ok();
    assert_eq!((&shown["latest"]["version"], &shown["versions"]), (&json!(DATA), &json!(3)));
    assert_eq!(shown["latest"]["residency"], "{region: eu}");
    // What is the newest already stays what it is.
    assert_eq!(restore(&api, DATA).await.ok()["number"], 3);
    assert_eq!(restore(&api, "v9").await.problem(404), "not-found");
    assert_eq!(restore(&api, "prod").await.problem(422), "bad-version");
    let viewer = api.ask(&token(Role::Viewer), "POST", RESTORE, Some(&body)).await;
    assert_eq!(viewer.problem(403), "forbidden");
    let long = api.post(RESTORE, json!({ "version": "v1", "reason": "x".repeat(1001) })).await;
    assert_eq!(long.problem(422), "long-reason");
}

#[tokio::test]
async fn what_lost_its_name_comes_back_from_a_site_that_holds_it() {
    let (api, _home, at_home) = filled().await;
    let away = api.agent("away", json!({ "region": "us" })).await;
    let _at_away = away.connect(&[]).await;
    remove(&api, "v1").await;
    let known = async || api.get(&format!("/v1/versions/{DATA}")).await.status.as_u16();
    assert_eq!(known().await, 404);
    let gone = api.get("/v1/datasets/raw/removed").await.ok();
    let gone = &gone["items"][0];
    assert_eq!((&gone["number"], &gone["version"], &gone["by"]), (&json!(1), &json!(DATA), &json!("member")));
    assert_eq!((&gone["why"], &gone["sites"]), (&json!("removed by hand"), &json!(["home"])));

    let mut calls = at_home.answering(|call| match call {
        Call::Hold { .. } => vec![Said::Done(json!(true))],
        _ => vec![Said::Failed("not asked for here".to_owned())],
    });
    let info = restore(&api, "v1").await.ok();
    assert_eq!((&info["number"], &info["replicas"]), (&json!(3), &json!(["home"])));
    assert_eq!(info["residency"], "{region: eu}");
    assert_eq!(info["why"], "brought back from v1: the rows of November were wrong");
    let Some(Call::Hold { version }) = within(calls.recv()).await else { panic!("another call") };
    assert_eq!(version.to_string(), DATA);
    assert_eq!(known().await, 200);
    let moved = api.post(&format!("/v1/versions/{DATA}/replicas"), json!({ "site": "away" })).await;
    assert_eq!(moved.problem(403), "residency");
    let audit = api.get("/v1/audit").await.ok().to_string();
    assert!(audit.contains(&format!("raw v3 {DATA}")) && audit.contains("rows of November"), "{audit}");
    // By its digest too, though it has no number any more.
    remove(&api, "v3").await;
    assert_eq!(restore(&api, DATA).await.ok()["number"], 4);
}

#[tokio::test]
async fn what_no_site_has_any_more_stays_away() {
    let (api, _home, at_home) = filled().await;
    remove(&api, "v1").await;
    let _calls = at_home.answering(|_| vec![Said::Failed("version da7a is not here any more".to_owned())]);
    let refused = restore(&api, "v1").await;
    assert_eq!(refused.problem(409), "bytes-gone");
    assert!(refused.text.contains("home: version da7a is not here any more"), "{}", refused.text);
    assert!(refused.text.contains("hint"), "{}", refused.text);
    assert_eq!(api.get("/v1/datasets/raw").await.ok()["versions"], 1);
    assert_eq!(api.get(&format!("/v1/versions/{DATA}")).await.problem(404), "not-found");
    // A rule that came since, with the same bytes under another name, holds for whoever brings them back.
    api.site("there", json!({ "region": "us" })).await;
    let body: Value = json!({
        "version": DATA, "bytes": 1, "files": 1, "site": "home", "dataset": "also", "residency": [[{ "site": "home" }]],
    });
    api.post("/v1/versions", body).await.ok();
    let info = restore(&api, "v1").await.ok();
    assert_eq!((&info["number"], &info["residency"]), (&json!(3), &json!("home and {region: eu}")));
}
