//! Datasets over the API: numbers that stay, tags, and what may lose its name.

mod http_fixtures;

use http_fixtures::{Answer, Api, CODE, DATA, api, run_body, token};
use serde_json::{Value, json};
use tombolo_api::wire::Role;

const THIRD: &str = "3333333333333333333333333333333333333333333333333333333333333333";

async fn as_member(api: &Api, method: &str, path: &str, body: Value) -> Answer {
    api.ask(&token(Role::Member), method, path, Some(&body)).await
}

/// `v3 da7a prod, v2 c0de`: newest first.
async fn shown(api: &Api) -> String {
    let page = api.get("/v1/datasets/raw/versions").await.ok();
    let one = |info: &Value| {
        let tags = info["tags"].as_array().cloned().unwrap_or_default();
        let tags: String = tags.iter().map(|tag| format!(" {}", tag.as_str().unwrap())).collect();
        format!("v{} {}{tags}", info["number"], &info["version"].as_str().unwrap()[..4])
    };
    page["items"].as_array().unwrap().iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A site, and the dataset `raw` with three versions.
async fn filled() -> Api {
    let api = api().await;
    api.site("home", json!({})).await;
    for version in [CODE, DATA, THIRD] {
        api.version(version, Some("raw"), json!([])).await.ok();
    }
    api
}

#[tokio::test]
async fn numbers_stay_and_are_not_given_twice() {
    let api = filled().await;
    assert_eq!(shown(&api).await, "v3 3333, v2 da7a, v1 c0de");
    // What is the newest already is no new version; what was is one.
    let again = api.version(THIRD, Some("raw"), json!([])).await.ok();
    assert_eq!((&again["number"], &again["by"]), (&json!(3), &json!("admin")));
    assert_eq!(api.version(CODE, Some("raw"), json!([])).await.ok()["number"], 4);
    assert_eq!(shown(&api).await, "v4 c0de, v3 3333, v2 da7a, v1 c0de");

    let removed = async |which: &str| {
        let path = format!("/v1/datasets/raw/versions/{which}");
        as_member(&api, "DELETE", &path, json!({})).await
    };
    assert_eq!(removed("v4").await.status, 204);
    assert_eq!(removed("v4").await.problem(404), "not-found");
    assert_eq!(removed("v04").await.problem(400), "bad-path");
    // Its other number keeps the version.
    assert_eq!(shown(&api).await, "v3 3333, v2 da7a, v1 c0de");
    assert_eq!(api.get(&format!("/v1/versions/{CODE}")).await.status, 200);
    assert_eq!(api.version(CODE, Some("raw"), json!([])).await.ok()["number"], 5);
    assert_eq!(removed(CODE).await.status, 204);
    assert_eq!(shown(&api).await, "v3 3333, v2 da7a");
    assert_eq!(api.get(&format!("/v1/versions/{CODE}")).await.problem(404), "not-found");
    let page = api.get("/v1/datasets/raw/versions?limit=1").await.ok();
    assert_eq!(page["next"], "3");
    let rest = api.get("/v1/datasets/raw/versions?limit=1&after=3").await.ok();
    assert_eq!((&rest["items"][0]["number"], rest.get("next")), (&json!(2), None));
    assert_eq!(api.get("/v1/datasets/raw/versions?after=x").await.problem(400), "bad-page");
}

#[tokio::test]
async fn a_tag_moves_only_where_that_is_said() {
    let api = filled().await;
    let put = async |tag: &str, body: Value| {
        let path = format!("/v1/datasets/raw/tags/{tag}");
        as_member(&api, "PUT", &path, body).await
    };
    let info = put("prod", json!({ "version": DATA })).await.ok();
    assert_eq!((&info["tag"], &info["number"], &info["by"]), (&json!("prod"), &json!(2), &json!("member")));
    put("prod", json!({ "version": DATA })).await.ok();
    put("gold", json!({ "version": DATA })).await.ok();
    assert_eq!(shown(&api).await, "v3 3333, v2 da7a gold prod, v1 c0de");
    let elsewhere = put("prod", json!({ "version": THIRD })).await;
    assert_eq!(elsewhere.problem(409), "tag-elsewhere");
    assert!(elsewhere.text.contains("da7ada7ada7a") && elsewhere.text.contains("--move"), "{}", elsewhere.text);
    put("prod", json!({ "version": THIRD, "move": true })).await.ok();
    assert_eq!(shown(&api).await, "v3 3333 prod, v2 da7a gold, v1 c0de");
    assert_eq!(api.get("/v1/datasets/raw").await.ok()["tags"], json!({ "gold": DATA, "prod": THIRD }));
    let listed = api.get("/v1/datasets").await.ok();
    assert_eq!(listed["items"][0]["tags"]["gold"], DATA);

    for (bad, why) in [("v3", "of that number"), ("beef", "mean a version"), ("flights-7", "a run")] {
        let refused = put(bad, json!({ "version": DATA })).await;
        assert_eq!(refused.problem(422), "bad-tag");
        assert!(refused.text.contains(why) && refused.text.contains("hint"), "{}", refused.text);
    }
    let unknown = json!({ "version": "ab".repeat(32) });
    assert_eq!(put("new", unknown.clone()).await.problem(404), "not-found");
    let path = "/v1/datasets/nope/tags/new";
    assert_eq!(as_member(&api, "PUT", path, unknown).await.problem(404), "not-found");
    let viewer =
        api.ask(&token(Role::Viewer), "PUT", "/v1/datasets/raw/tags/x", Some(&json!({ "version": DATA }))).await;
    assert_eq!(viewer.problem(403), "forbidden");

    let path = "/v1/datasets/raw/tags/gold";
    assert_eq!(as_member(&api, "DELETE", path, json!({})).await.status, 204);
    assert_eq!(as_member(&api, "DELETE", path, json!({})).await.problem(404), "not-found");
    let audit = api.get("/v1/audit").await.ok().to_string();
    let moved = format!("raw@prod {THIRD}");
    for told in [
        "PUT /v1/datasets/raw/tags/prod",
        &moved,
        &format!("before, it was on {DATA}"),
        "DELETE /v1/datasets/raw/tags/gold",
    ] {
        assert!(audit.contains(told), "{told}: {audit}");
    }
}

#[tokio::test]
async fn what_has_a_tag_or_a_live_reader_keeps_its_name() {
    let api = filled().await;
    let tag = "/v1/datasets/raw/tags/prod";
    as_member(&api, "PUT", tag, json!({ "version": DATA })).await.ok();
    let remove = async |path: &str| as_member(&api, "DELETE", path, json!({})).await;
    let refused = remove("/v1/datasets/raw/versions/v2").await;
    assert_eq!(refused.problem(409), "tagged");
    assert!(refused.text.contains("the tag prod") && refused.text.contains("--force"), "{}", refused.text);
    // A second number of the same version lets the first go.
    api.version(DATA, Some("raw"), json!([])).await.ok();
    assert_eq!(remove("/v1/datasets/raw/versions/v2").await.status, 204);
    assert_eq!(remove(&format!("/v1/datasets/raw/versions/{DATA}")).await.problem(409), "tagged");
    assert_eq!(remove(&format!("/v1/datasets/raw/versions/{DATA}?force=true")).await.status, 204);
    assert_eq!(shown(&api).await, "v3 3333, v1 c0de");
    assert_eq!(remove(tag).await.problem(404), "not-found", "the tag went too");

    let mut body = run_body();
    body["project"]["data"] = json!({ "raw": { "path": null, "residency": [] } });
    body["project"]["workloads"]["make"]["inputs"] = json!({ "x": "raw" });
    body["code"] = json!(CODE);
    api.post("/v1/runs", body).await.ok();
    for path in ["/v1/datasets/raw/versions/v3", "/v1/datasets/raw/versions/v3?force=true"] {
        assert_eq!(remove(path).await.problem(409), "in-use");
    }
}

#[tokio::test]
async fn what_no_rule_keeps_is_shown_and_then_loses_its_name() {
    let api = filled().await;
    as_member(&api, "PUT", "/v1/datasets/raw/tags/prod", json!({ "version": CODE })).await.ok();
    let prune = async |body: Value| as_member(&api, "POST", "/v1/datasets/raw/prune", body).await;
    // Nobody has said which stay.
    let none = prune(json!({})).await.ok();
    assert_eq!((none["rules"].clone(), none["versions"][2]["goes"].clone()), (Value::Null, json!(false)));
    let dry = prune(json!({ "keep": "last 1", "dry_run": true })).await.ok();
    let seen = |pruned: &Value| -> Vec<(u64, bool, String)> {
        let words = |version: &Value| {
            version["because"]
                .as_array()
                .unwrap()
                .iter()
                .map(|word| word.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let one =
            |version: &Value| (version["number"].as_u64().unwrap(), version["goes"].as_bool().unwrap(), words(version));
        pruned["versions"].as_array().unwrap().iter().map(one).collect()
    };
    let expected = [(3, false, "the newest, last 1"), (2, true, ""), (1, false, "tag prod")];
    assert_eq!(seen(&dry), expected.map(|(number, goes, because)| (number, goes, because.to_owned())));
    assert_eq!((&dry["done"], &dry["rules"]), (&json!(false), &json!("last 1")));
    assert_eq!(shown(&api).await, "v3 3333, v2 da7a, v1 c0de prod");
    let done = prune(json!({ "keep": "Keep last 1" })).await.ok();
    assert_eq!((seen(&done), &done["done"]), (seen(&dry), &json!(true)));
    assert_eq!(shown(&api).await, "v3 3333, v1 c0de prod");
    assert_eq!(api.get(&format!("/v1/versions/{DATA}")).await.problem(404), "not-found");
    let removed = api.get("/v1/datasets/raw/removed").await.ok();
    assert_eq!(removed["items"][0]["why"], "pruned by hand, by last 1");
    let audit = api.get("/v1/audit").await.ok().to_string();
    assert!(audit.contains("1 lost their names by last 1: v2"), "{audit}");

    let bad = prune(json!({ "keep": "last ten" })).await;
    assert_eq!(bad.problem(422), "bad-body");
    assert!(bad.text.contains("expected how many, found `ten`, at character 6"), "{}", bad.text);
    let viewer = api.ask(&token(Role::Viewer), "POST", "/v1/datasets/raw/prune", Some(&json!({}))).await;
    assert_eq!(viewer.problem(403), "forbidden");
    assert_eq!(as_member(&api, "POST", "/v1/datasets/nope/prune", json!({})).await.problem(404), "not-found");
}

#[tokio::test]
async fn a_projects_rule_is_applied_when_a_version_comes_and_is_on_the_record() {
    let api = filled().await;
    let old = |world: &mut tombolo_core::world::World| {
        let raw = "raw".parse().unwrap();
        let dataset = world.datasets.get_mut(&raw).unwrap();
        dataset.versions.values_mut().for_each(|named| named.seen = tombolo_core::Timestamp(1));
    };
    let mut body = run_body();
    body["project"]["data"] = json!({ "raw": { "path": null, "residency": [], "retain": "last 2" } });
    body["project"]["workloads"]["make"]["inputs"] = json!({ "x": "raw" });
    body["code"] = json!(CODE);
    // As if they had come long ago.
    api.world(move |world, _| old(world)).await;
    let run = as_member(&api, "POST", "/v1/runs", body.clone()).await.ok()["id"].as_str().unwrap().to_owned();
    // Its code is the first version's bytes, and its data the third.
    assert_eq!(shown(&api).await, "v3 3333, v2 da7a, v1 c0de");
    assert_eq!(api.get("/v1/datasets/raw").await.ok()["retain"], json!({ "flights-late": "last 2" }));
    let fourth = "44".repeat(32);
    api.world(move |world, _| old(world)).await;
    api.version(&fourth, Some("raw"), json!([])).await.ok();
    assert_eq!(shown(&api).await, "v4 4444, v3 3333, v1 c0de");
    let audit = api.get("/v1/audit").await.ok();
    let told = audit["items"].as_array().unwrap().iter().find(|entry| entry["what"] == "retention").unwrap();
    assert_eq!((&told["who"], &told["on"]), (&json!("admin"), &json!(format!("raw v2 {DATA}"))));
    assert!(told["detail"].as_str().unwrap().contains("last 2 (project flights-late)"), "{told}");
    let removed = api.get("/v1/datasets/raw/removed").await.ok();
    assert_eq!(removed["items"][0]["why"], "kept by none of the rules last 2 (project flights-late)");
    assert_eq!(api.get(&format!("/v1/versions/{DATA}")).await.problem(404), "not-found");
    // A plan is no run: it says nothing.
    body["project"]["data"]["raw"]["retain"] = json!("last 1");
    let plan = json!({ "project": body["project"], "expected": {} });
    api.post("/v1/plan", plan).await.ok();
    assert_eq!(api.get("/v1/datasets/raw").await.ok()["retain"], json!({ "flights-late": "last 2" }));
    assert_eq!(api.get(&format!("/v1/runs/{run}")).await.ok()["state"], "active");
}
