//! What runs have made, by name, over the API.

mod http_fixtures;

use std::collections::BTreeMap;

use http_fixtures::{CODE, api, token};
use serde_json::{Value, json};
use tombolo_api::wire::Role;
use tombolo_core::sync::{Finish, Made, Observed, Outcome, Phase, Report};
use tombolo_core::{Digest, Epoch, Timestamp, VersionId};

fn version(byte: u8) -> VersionId {
    VersionId(Digest([byte; 32]))
}

/// A run of one stage that makes `model`, and has made `byte`.
async fn made(api: &http_fixtures::Api, project: &str, number: u64, byte: u8) {
    let stage = json!({ "kind": { "job": { "outputs": ["model"] } }, "command": { "run": "true" }, "grace": 30_000 });
    let spec = json!({ "name": project, "data": {}, "workloads": { "train": stage } });
    api.post("/v1/runs", json!({ "project": spec, "code": CODE, "force": true })).await.ok();
    let made: Made = serde_json::from_value(json!({ "version": version(byte), "bytes": 7, "files": 1 })).unwrap();
    let mut finish = Finish::without_running(Outcome::Succeeded, Timestamp(9));
    finish.outputs = BTreeMap::from([("model".parse().unwrap(), made)]);
    let phase = Phase::Finished(Box::new(finish));
    let workload = format!("{project}-{number}/train").parse().unwrap();
    let observed = vec![Observed { workload, epoch: Epoch(1), phase }];
    let home = "home".parse().unwrap();
    api.world(move |world, now| world.report(&home, &Report { observed, ..Report::default() }, now)).await;
}

#[tokio::test]
async fn outputs_are_found_by_name_and_lose_it() {
    let api = api().await;
    api.site("home", json!({})).await;
    api.version(CODE, None, json!([])).await.ok();
    for (project, number, byte) in [("flights", 1, 1), ("flights", 2, 2), ("flights", 3, 2), ("taxis", 1, 1)] {
        made(&api, project, number, byte).await;
    }
    let seen = |page: Value| -> Vec<(String, String)> {
        let one = |item: &Value| {
            assert_eq!((&item["output"], &item["stage"]), (&json!("model"), &json!("train")));
            assert_eq!(item["version"]["replicas"], json!(["home"]));
            let whole = format!("{}/model", item["project"].as_str().unwrap());
            assert_eq!(item["version"]["dataset"], json!(whole));
            (item["run"].as_str().unwrap().to_owned(), item["version"]["version"].as_str().unwrap()[..2].to_owned())
        };
        page["items"].as_array().unwrap().iter().map(one).collect()
    };
    let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
        all.iter().map(|(run, version)| ((*run).to_owned(), (*version).to_owned())).collect()
    };
    let newest = seen(api.get("/v1/outputs").await.ok());
    assert_eq!(newest, pairs(&[("flights-3", "02"), ("taxis-1", "01")]));
    assert_eq!(seen(api.get("/v1/outputs?project=taxis").await.ok()), pairs(&[("taxis-1", "01")]));
    assert_eq!(seen(api.get("/v1/outputs?output=other").await.ok()), []);
    assert_eq!(api.get("/v1/outputs?after=x").await.problem(400), "bad-page");
    let all = seen(api.get("/v1/outputs/flights/model").await.ok());
    assert_eq!(all, pairs(&[("flights-3", "02"), ("flights-2", "02"), ("flights-1", "01")]));
    assert_eq!(api.get("/v1/outputs/flights/other").await.problem(404), "not-found");

    let remove = async |path: &str| api.ask(&token(Role::Member), "DELETE", path, None).await;
    for absent in ["flights-4", "flights-99999"] {
        assert_eq!(remove(&format!("/v1/outputs/flights/model/{absent}")).await.problem(404), "not-found");
    }
    // The bytes stay for as long as they have another name: of another run, of another project.
    let known = async |byte: u8| api.get(&format!("/v1/versions/{}", version(byte))).await.status.as_u16();
    for (output, byte, status) in [
        ("flights/model/flights-3", 2, 200),
        ("flights/model/flights-1", 1, 200),
        ("taxis/model/taxis-1", 1, 404),
        ("flights/model/flights-2", 2, 404),
    ] {
        assert_eq!(remove(&format!("/v1/outputs/{output}")).await.status, 204, "{output}");
        assert_eq!(known(byte).await, status, "{output}");
        assert_eq!(remove(&format!("/v1/outputs/{output}")).await.status, 404, "{output}");
    }
    assert_eq!(seen(api.get("/v1/outputs").await.ok()), []);
    let audit = api.get("/v1/audit").await.ok().to_string();
    assert!(audit.contains("taxis/model@taxis-1"), "{audit}");
}

#[tokio::test]
async fn what_a_live_run_has_made_keeps_its_name() {
    let api = api().await;
    api.site("home", json!({})).await;
    api.version(CODE, None, json!([])).await.ok();
    let stage = |outputs: Value, inputs: Value| json!({ "kind": { "job": { "outputs": outputs } }, "command": { "run": "true" }, "grace": 0, "inputs": inputs });
    let workloads = json!({
        "train": stage(json!(["model"]), json!({})), "use": stage(json!([]), json!({ "model": "model" })),
    });
    let spec = json!({ "name": "flights", "data": {}, "workloads": workloads });
    api.post("/v1/runs", json!({ "project": spec, "code": CODE })).await.ok();
    let mut finish = Finish::without_running(Outcome::Succeeded, Timestamp(9));
    let made = serde_json::from_value(json!({ "version": version(1), "bytes": 7, "files": 1 })).unwrap();
    finish.outputs = BTreeMap::from([("model".parse().unwrap(), made)]);
    let phase = Phase::Finished(Box::new(finish));
    let observed = vec![Observed { workload: "flights-1/train".parse().unwrap(), epoch: Epoch(1), phase }];
    let home = "home".parse().unwrap();
    api.world(move |world, now| world.report(&home, &Report { observed, ..Report::default() }, now)).await;
    let path = "/v1/outputs/flights/model/flights-1";
    assert_eq!(api.ask(&token(Role::Member), "DELETE", path, None).await.problem(409), "in-use");
}
