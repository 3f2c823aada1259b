//! The routes as a client sees them, without one: answers, refusals, limits and what is durable.

mod common;

use std::sync::Arc;

use serde_json::{Value, json};
use tombolo_tracking::{End, Tracking};

use common::{Api, asked, newest, person, workload};

#[tokio::test]
async fn a_run_keeps_what_is_logged_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let experiment = api.experiment("first").await;
    assert_eq!(experiment, "1");
    let run = api.run(&experiment, "one").await;
    // Integers as protobuf's JSON says them, and as Python does.
    api.post("runs/log-metric", json!({ "run_id": run, "key": "m", "value": 0.5, "timestamp": "7", "step": 2 })).await;
    api.post("runs/log-metric", json!({ "run_id": run, "key": "m", "value": 0.25, "timestamp": 9, "step": 1 })).await;
    for (key, value) in
        [("nan", json!("NaN")), ("inf", json!("Infinity")), ("low", json!("-Infinity")), ("tiny", json!(5e-324))]
    {
        api.post("runs/log-metric", json!({ "run_id": run, "key": key, "value": value, "timestamp": 1 })).await;
    }
    let batch = json!({
        "run_id": run, "unknown": [1],
        "metrics": [{ "key": "b", "value": 1, "timestamp": 1, "step": 0 }],
        "params": [{ "key": "p", "value": "1" }, { "key": "q", "value": 2 }],
        "tags": [{ "key": "t", "value": "x" }, { "key": "mlflow.runName", "value": "renamed" }],
    });
    api.post("runs/log-batch", batch.clone()).await;
    // The same again is the same.
    api.post("runs/log-batch", batch).await;
    api.post("runs/update", json!({ "run_id": run, "status": "FINISHED", "end_time": 2000 })).await;
    drop(api);
    let api = Api::new(&dir).await;
    let found = api.get(&format!("runs/get?run_id={run}")).await["run"].clone();
    let info = &found["info"];
    assert_eq!(
        (&info["run_name"], &info["status"], &info["end_time"]),
        (&json!("renamed"), &json!("FINISHED"), &json!(2000))
    );
    assert_eq!(info["artifact_uri"], format!("mlflow-artifacts:/1/{run}/artifacts"));
    let metric = |key: &str| {
        let metrics = found["data"]["metrics"].as_array().unwrap();
        metrics.iter().find(|metric| metric["key"] == key).unwrap()["value"].clone()
    };
    assert_eq!(metric("m"), 0.5, "the latest is that of the highest step");
    assert_eq!(
        [metric("nan"), metric("inf"), metric("low"), metric("tiny")],
        [json!("NaN"), json!("Infinity"), json!("-Infinity"), json!(5e-324)]
    );
    assert_eq!(found["data"]["params"], json!([{ "key": "p", "value": "1" }, { "key": "q", "value": "2" }]));
    let history = api.get(&format!("metrics/get-history?run_id={run}&metric_key=m")).await;
    let steps: Vec<_> =
        history["metrics"].as_array().unwrap().iter().map(|point| point["step"].as_i64().unwrap()).collect();
    assert_eq!(steps, [1, 2]);
    let page = api.get(&format!("metrics/get-history?run_id={run}&metric_key=m&max_results=1")).await;
    let token = page["next_page_token"].as_str().unwrap();
    let rest =
        api.get(&format!("metrics/get-history?run_id={run}&metric_key=m&max_results=1&page_token={token}")).await;
    assert_eq!((rest["metrics"][0]["step"].as_i64(), rest.get("next_page_token")), (Some(2), None));
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let run = api.run("0", "one").await;
    api.post("runs/log-parameter", json!({ "run_id": run, "key": "p", "value": "1" })).await;
    let batch = json!({
        "run_id": run,
        "metrics": [{ "key": "m", "value": 1, "timestamp": 1 }],
        "params": [{ "key": "new", "value": "1" }, { "key": "p", "value": "2" }],
    });
    let (status, code, why) = api.refused("POST", "runs/log-batch", batch).await;
    assert_eq!((status, code.as_str()), (400, "INVALID_PARAMETER_VALUE"));
    assert!(why.contains("already logged with value='1'") && why.contains("new value '2'"), "{why}");
    let data = api.get(&format!("runs/get?run_id={run}")).await["run"]["data"].clone();
    assert_eq!((&data["metrics"], data["params"].as_array().unwrap().len()), (&json!([]), 1));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_mlflows_words() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let run = api.run("0", "one").await;
    api.experiment("taken").await;
    let many = |what: &str, count: usize| {
        let each: Vec<_> = (0..count).map(|i| json!({ "key": format!("k{i}"), "value": 1, "timestamp": 1 })).collect();
        json!({ "run_id": run, what: each })
    };
    let metric = |key: &str, value: Value| json!({ "run_id": run, "key": key, "value": value, "timestamp": 1 });
    for (path, body, status, code, words) in [
        ("runs/log-metric", metric("", json!(1)), 400, "INVALID_PARAMETER_VALUE", "key"),
        ("runs/log-metric", metric("../x", json!(1)), 400, "INVALID_PARAMETER_VALUE", "Names may be treated as files"),
        ("runs/log-metric", metric("a*", json!(1)), 400, "INVALID_PARAMETER_VALUE", "alphanumerics"),
        ("runs/log-metric", metric("m", json!("much")), 400, "INVALID_PARAMETER_VALUE", "no number"),
        ("runs/log-metric", metric("m", Value::Null), 400, "INVALID_PARAMETER_VALUE", "value"),
        (
            "runs/log-metric",
            json!({ "run_id": run, "key": "m", "value": 1 }),
            400,
            "INVALID_PARAMETER_VALUE",
            "timestamp",
        ),
        (
            "runs/log-metric",
            json!({ "run_id": "nobody", "key": "m", "value": 1, "timestamp": 1 }),
            404,
            "RESOURCE_DOES_NOT_EXIST",
            "Run with id=nobody not found",
        ),
        ("runs/log-batch", many("metrics", 1001), 400, "INVALID_PARAMETER_VALUE", "at most 1000 metrics"),
        ("runs/log-batch", many("params", 101), 400, "INVALID_PARAMETER_VALUE", "at most 100 params"),
        (
            "runs/log-batch",
            json!({ "run_id": run, "params": [{ "key": "a", "value": "1" }, { "key": "a", "value": "2" }] }),
            400,
            "INVALID_PARAMETER_VALUE",
            "Duplicate parameter keys",
        ),
        (
            "runs/update",
            json!({ "run_id": run, "status": "GONE" }),
            400,
            "INVALID_PARAMETER_VALUE",
            "Invalid run status",
        ),
        ("runs/create", json!({ "experiment_id": "77" }), 404, "RESOURCE_DOES_NOT_EXIST", "No Experiment with id=77"),
        ("runs/create", json!({ "experiment_id": "x" }), 400, "INVALID_PARAMETER_VALUE", "must be a valid integer"),
        (
            "runs/search",
            json!({ "experiment_ids": ["0"], "filter": "metrics.m >" }),
            400,
            "INVALID_PARAMETER_VALUE",
            "position 12",
        ),
        (
            "runs/search",
            json!({ "experiment_ids": ["0"], "filter": "colour = 'x'" }),
            400,
            "INVALID_PARAMETER_VALUE",
            "Invalid attribute key 'colour'",
        ),
        (
            "runs/search",
            json!({ "experiment_ids": ["0"], "max_results": 50001 }),
            400,
            "INVALID_PARAMETER_VALUE",
            "max_results",
        ),
        (
            "runs/search",
            json!({ "experiment_ids": ["0"], "page_token": "!" }),
            400,
            "INVALID_PARAMETER_VALUE",
            "page token",
        ),
        (
            "experiments/create",
            json!({ "name": "taken" }),
            400,
            "RESOURCE_ALREADY_EXISTS",
            "Experiment(name=taken) already exists.",
        ),
        ("experiments/create", json!({ "name": "" }), 400, "INVALID_PARAMETER_VALUE", "name"),
        (
            "experiments/create",
            json!({ "name": "x", "artifact_location": "s3://elsewhere" }),
            400,
            "INVALID_PARAMETER_VALUE",
            "artifact_location",
        ),
        (
            "experiments/create",
            json!({ "name": "x", "artifact_location": "mlflow-artifacts://127.0.0.1:1/x" }),
            400,
            "INVALID_PARAMETER_VALUE",
            "artifact_location",
        ),
        ("experiments/delete", json!({ "experiment_id": "0" }), 400, "INVALID_PARAMETER_VALUE", "default experiment"),
        ("webhooks", json!({ "name": "m" }), 404, "ENDPOINT_NOT_FOUND", "docs/mlflow.md"),
    ] {
        let (got, said, why) = api.refused("POST", path, body.clone()).await;
        assert_eq!((got, said.as_str()), (status, code), "{path} {body}: {why}");
        assert!(why.contains(words), "{path} {body}: {why}");
    }
    for body in ["[]", "{", "\"x\""] {
        assert_eq!(api.send("POST", "runs/log-metric", body).await.0, 400, "{body}");
    }
    let (status, _, why) = api.refused("GET", "experiments/get-by-name?experiment_name=nope", Value::Null).await;
    assert_eq!((status, why.as_str()), (400, "The body must be a JSON object"));
    assert_eq!(api.send("GET", "experiments/get-by-name?experiment_name=nope", "").await.0, 404);
    // Values that are too long are cut, as MLflow's server does.
    api.post("runs/log-parameter", json!({ "run_id": run, "key": "long", "value": "x".repeat(7000) })).await;
    let found = api.get(&format!("runs/get?run_id={run}")).await;
    assert_eq!(found["run"]["data"]["params"][0]["value"].as_str().unwrap().len(), 6000);
}

#[tokio::test]
async fn every_kind_of_clause_finds_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let experiment = api.experiment("search").await;
    for (name, accuracy, depth, stage) in
        [("a", json!(0.9), "3", "prod"), ("b", json!(0.5), "4", "dev"), ("c", json!("NaN"), "x%y", "")]
    {
        let run = api.run(&experiment, name).await;
        let mut tags = vec![json!({ "key": "kind", "value": "Test" })];
        if !stage.is_empty() {
            tags.push(json!({ "key": "stage", "value": stage }));
        }
        let metrics = json!([{ "key": "acc", "value": accuracy, "timestamp": 1 }]);
        api.post(
            "runs/log-batch",
            json!({ "run_id": run, "metrics": metrics, "params": [{ "key": "depth", "value": depth }], "tags": tags }),
        )
        .await;
        let dataset = json!({ "name": format!("data-{name}"), "digest": "d1", "source_type": "local", "source": "{}" });
        let tags = json!([{ "key": "mlflow.data.context", "value": "train" }]);
        api.post("runs/log-inputs", json!({ "run_id": run, "datasets": [{ "tags": tags, "dataset": dataset }] })).await;
    }
    let d = api.run(&experiment, "d").await;
    for (filter, expected) in [
        ("", "a b c d"),
        ("metrics.acc > 0.6", "a"),
        ("metrics.acc != 0.9", "b"),
        ("metrics.acc >= 0.5 and metrics.acc <= 0.9", "a b"),
        ("params.depth = '3'", "a"),
        ("params.depth LIKE '%\u{25}y'", "c"),
        ("params.depth != '3'", "b c"),
        ("params.depth IS NULL", "d"),
        ("params.depth IS NOT NULL", "a b c"),
        ("tags.stage = 'prod' AND metrics.acc > 0", "a"),
        ("tags.kind LIKE 'te%'", ""),
        ("tags.kind ILIKE 'te%'", "a b c"),
        ("tags.kind LIKE 'T_st'", "a b c"),
        ("tags.stage IS NULL", "c d"),
        ("run_name = 'a'", "a"),
        ("attributes.status = 'RUNNING' and start_time >= 1000", "a b c d"),
        ("attributes.start_time > 1000", ""),
        ("datasets.name = 'data-b'", "b"),
        ("datasets.name IN ('data-a', 'data-c')", "a c"),
        ("datasets.context = 'train'", "a b c"),
        ("dataset.digest LIKE 'd%' and metric.acc < 0.6", "b"),
    ] {
        let mut found = api.names(&experiment, filter, &[]).await;
        found.sort();
        assert_eq!(found.join(" "), expected, "{filter}");
    }
    assert_eq!(api.names(&experiment, &format!("run_id IN ('{d}')"), &[]).await, ["d"]);
    assert_eq!(
        api.names(&experiment, "", &["metrics.acc DESC"]).await,
        ["a", "b", "c", "d"],
        "no number, then none, last"
    );
    assert_eq!(api.names(&experiment, "", &["metrics.acc"]).await, ["b", "a", "c", "d"]);
    assert_eq!(api.names(&experiment, "", &["tags.stage ASC", "run_name DESC"]).await, ["b", "a", "d", "c"]);
    // A value is a value, whatever it looks like.
    assert!(api.names(&experiment, "run_name = ''') OR 1=1 --'", &[]).await.is_empty());
    // Pages tile what is found.
    let mut token = Value::Null;
    let mut paged = Vec::new();
    loop {
        let asked =
            json!({ "experiment_ids": [experiment], "max_results": 3, "page_token": token, "order_by": ["run_name"] });
        let page = api.post("runs/search", asked).await;
        paged.extend(page["runs"].as_array().unwrap().iter().map(|run| run["info"]["run_name"].clone()));
        token = page["next_page_token"].clone();
        if token.is_null() {
            break;
        }
    }
    assert_eq!(paged, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_workload_writes_its_own_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let other = api.run("0", "other").await;
    let train = api.by(workload("train"));
    let own = train.access.run.clone().unwrap().run_id;
    // It is there as soon as it is asked for, under the project's experiment.
    let found = train.get(&format!("runs/get?run_id={own}")).await["run"]["info"].clone();
    assert_eq!((&found["run_name"], &found["experiment_id"]), (&json!("train"), &json!("1")));
    train.post("runs/log-metric", json!({ "run_id": own, "key": "m", "value": 1, "timestamp": 1 })).await;
    let nested = train.run("1", "child").await;
    train.post("runs/set-tag", json!({ "run_id": nested, "key": "k", "value": "v" })).await;
    let metric = |run: &str| json!({ "run_id": run, "key": "m", "value": 2, "timestamp": 2 });
    for run in [&other, &own, &nested] {
        let test = api.by(workload("test"));
        let (status, code, _) = test.refused("POST", "runs/log-metric", metric(run)).await;
        assert_eq!((status, code.as_str()), (403, "PERMISSION_DENIED"), "{run}");
        assert_eq!(test.refused("POST", "runs/delete", json!({ "run_id": run })).await.0, 403);
    }
    assert_eq!(train.refused("POST", "experiments/delete", json!({ "experiment_id": "1" })).await.0, 403);
    let elsewhere = api.experiment("elsewhere").await;
    let tag = json!({ "experiment_id": elsewhere, "key": "k", "value": "v" });
    assert_eq!(train.refused("POST", "experiments/set-experiment-tag", tag.clone()).await.0, 403);
    // A script that sets an experiment takes its run there.
    train.get("experiments/get-by-name?experiment_name=elsewhere").await;
    assert_eq!(train.get(&format!("runs/get?run_id={own}")).await["run"]["info"]["experiment_id"], elsewhere);
    train.post("experiments/set-experiment-tag", tag).await;
    let fresh = train.experiment("fresh").await;
    assert_eq!(train.get(&format!("runs/get?run_id={own}")).await["run"]["info"]["experiment_id"], fresh);
    // A person may all of it.
    api.post("runs/log-metric", metric(&own)).await;
}

#[tokio::test]
async fn deleted_things_are_kept_and_take_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let experiment = api.experiment("x").await;
    let run = api.run(&experiment, "one").await;
    api.post("runs/delete", json!({ "run_id": run })).await;
    let (_, _, why) = api.refused("POST", "runs/set-tag", json!({ "run_id": run, "key": "k", "value": "v" })).await;
    assert!(why.contains("must be in the 'active' state"), "{why}");
    assert!(api.names(&experiment, "", &[]).await.is_empty());
    let found =
        api.post("runs/search", json!({ "experiment_ids": [experiment], "run_view_type": "DELETED_ONLY" })).await;
    assert_eq!(found["runs"].as_array().unwrap().len(), 1);
    api.post("runs/restore", json!({ "run_id": run })).await;
    api.post("experiments/delete", json!({ "experiment_id": experiment })).await;
    assert_eq!(api.refused("POST", "runs/create", json!({ "experiment_id": experiment })).await.0, 400);
    assert_eq!(
        api.refused("POST", "experiments/update", json!({ "experiment_id": experiment, "new_name": "y" })).await.0,
        400
    );
    api.post("experiments/restore", json!({ "experiment_id": experiment })).await;
    api.post("experiments/update", json!({ "experiment_id": experiment, "new_name": "y" })).await;
    assert_eq!(api.names(&experiment, "", &[]).await, ["one"]);
    let found = api.post("experiments/search", json!({ "filter": "name LIKE 'y%'", "order_by": ["name"] })).await;
    assert_eq!(found["experiments"][0]["name"], "y");
    assert_eq!(api.get("experiments/search?max_results=1").await["experiments"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn models_are_logged_finalized_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let train = api.by(workload("train"));
    let own = train.access.run.clone().unwrap().run_id;
    train.get(&format!("runs/get?run_id={own}")).await;
    let asked =
        json!({ "experiment_id": "1", "name": "clf", "source_run_id": own, "params": [{ "key": "c", "value": "1" }] });
    let model = train.post("logged-models", asked).await["model"]["info"].clone();
    let id = model["model_id"].as_str().unwrap();
    assert_eq!(model["status"], "LOGGED_MODEL_PENDING");
    assert_eq!(model["artifact_uri"], format!("mlflow-artifacts:/1/models/{id}/artifacts"));
    let path = format!("logged-models/{id}");
    assert_eq!(
        api.by(workload("test")).refused("PATCH", &path, json!({ "status": "LOGGED_MODEL_READY" })).await.0,
        403
    );
    let (status, done) = train.send("PATCH", &path, r#"{"status": "LOGGED_MODEL_READY"}"#).await;
    assert_eq!((status, &done["model"]["info"]["status"]), (200, &json!("LOGGED_MODEL_READY")));
    let metric =
        json!({ "run_id": own, "key": "acc", "value": 0.5, "timestamp": 1, "model_id": id, "dataset_name": "d" });
    train.post("runs/log-metric", metric).await;
    train.post("runs/outputs", json!({ "run_id": own, "models": [{ "model_id": id, "step": 3 }] })).await;
    train.send("PATCH", &format!("{path}/tags"), r#"{"tags": [{"key": "a b", "value": "c"}]}"#).await;
    let found = train.get(&path).await["model"].clone();
    assert_eq!(found["data"]["metrics"][0]["dataset_name"], "d");
    assert_eq!(found["info"]["tags"], json!([{ "key": "a b", "value": "c" }]));
    assert_eq!(train.send("DELETE", &format!("{path}/tags/a%20b"), "").await.0, 200);
    let filter = format!("name = 'clf' AND source_run_id = '{own}' AND metrics.acc > 0.4 AND params.c = '1'");
    let search = json!({ "experiment_ids": ["1"], "filter": filter, "order_by": [{ "field_name": "creation_timestamp", "ascending": false }] });
    assert_eq!(api.post("logged-models/search", search).await["models"][0]["info"]["model_id"], id);
    let run = api.get(&format!("runs/get?run_id={own}")).await["run"].clone();
    assert_eq!(run["outputs"]["model_outputs"], json!([{ "model_id": id, "step": 3 }]));
    assert_eq!(api.send("DELETE", &path, "").await.0, 200);
    assert_eq!(api.send("GET", &path, "").await.0, 404);
    assert_eq!(api.refused("POST", "logged-models", json!({ "experiment_id": "0", "name": "a/b" })).await.0, 400);
}

#[tokio::test]
async fn many_writers_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let run = api.run("0", "one").await;
    let writers = (0..8_i64).map(|writer| {
        let (api, run) = (api.by(person()), run.clone());
        tokio::spawn(async move {
            for step in 0..25 {
                let point = json!({ "run_id": run, "key": "m", "value": writer, "timestamp": step, "step": writer * 25 + step });
                api.post("runs/log-metric", point).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let history = api.get(&format!("metrics/get-history?run_id={run}&metric_key=m")).await;
    assert_eq!(history["metrics"].as_array().unwrap().len(), 200);
    let path = format!("metrics/get-history-bulk-interval?run_ids={run}&metric_key=m&max_results=10");
    let thinned = api.get(&path).await["metrics"].as_array().unwrap().clone();
    let steps: Vec<_> = thinned.iter().map(|point| point["step"].as_i64().unwrap()).collect();
    assert!((10..=12).contains(&steps.len()), "{steps:?}");
    assert_eq!((steps.first(), steps.last()), (Some(&0), Some(&199)));
}

#[tokio::test]
async fn a_process_that_ended_without_a_word_has_no_run_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let train = api.by(workload("train"));
    let own = train.access.run.clone().unwrap();
    train.get(&format!("runs/get?run_id={}", own.run_id)).await;
    let done = train.run("1", "child").await;
    train.post("runs/update", json!({ "run_id": done, "status": "FINISHED", "end_time": 5 })).await;
    let end = |workload: &str, epoch| End { workload: workload.to_owned(), epoch, status: "FAILED", at: 9 };
    // Nothing of it is here, or was started anew since: that is not worth a transaction unless it is asked for.
    let follow = async |ends, event, remember| api.tracking.follow(ends, event, remember).await.unwrap();
    assert!(!follow(vec![end("flights-1/quiet", 1), end(&own.workload, 0)], 15, false).await);
    assert_eq!(api.tracking.followed().await.unwrap(), 0);
    assert!(follow(vec![end("flights-1/quiet", 1)], 16, true).await);
    assert_eq!(train.get(&format!("runs/get?run_id={}", own.run_id)).await["run"]["info"]["status"], "RUNNING");
    assert!(follow(vec![end("flights-1/quiet", 1), end(&own.workload, 1)], 17, false).await);
    assert_eq!(api.tracking.followed().await.unwrap(), 17);
    let train = &train;
    let info = |run: String| async move { train.get(&format!("runs/get?run_id={run}")).await["run"]["info"].clone() };
    let killed = info(own.run_id).await;
    assert_eq!((&killed["status"], &killed["end_time"]), (&json!("FAILED"), &json!(9)));
    assert_eq!(info(done).await["status"], "FINISHED");
}

/// The door was passed while the placement was the newest; the change's turn comes after.
#[tokio::test]
async fn a_placement_that_was_replaced_or_is_over_writes_no_more_however_long_its_change_waited() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let train = api.by(workload("train"));
    let own = train.access.run.clone().unwrap();
    let point = json!({ "run_id": own.run_id, "key": "m", "value": 1, "timestamp": 1 });
    let stands = |standing| api.stand.lock().unwrap().insert(own.workload.clone(), standing);
    stands(newest(2));
    let (status, code, why) = train.refused("POST", "runs/log-metric", point.clone()).await;
    assert_eq!((status, code.as_str()), (403, "PERMISSION_DENIED"));
    assert_eq!(why, "flights-1/train was started anew as epoch 2; epoch 1 may write no more");
    // Not even its run was made, which nobody would end.
    assert_eq!(api.send("GET", &format!("runs/get?run_id={}", own.run_id), "").await.0, 404);
    stands(newest(0));
    for (method, path, body) in [
        ("POST", "runs/log-metric", point),
        ("POST", "runs/create", json!({ "experiment_id": "0" })),
        ("POST", "experiments/create", json!({ "name": "late" })),
        ("POST", "logged-models", json!({ "experiment_id": "0", "name": "late" })),
    ] {
        let (status, _, why) = train.refused(method, path, body).await;
        assert_eq!((status, why.as_str()), (403, "flights-1/train is over; its token has ended with it"), "{path}");
    }
    assert_eq!(train.send("GET", &format!("runs/get?run_id={}", own.run_id), "").await.0, 403);
    assert!(api.names("0", "", &[]).await.is_empty());
}

#[tokio::test]
async fn a_run_stays_in_its_experiment_once_it_has_begun() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let (first, second) = (api.experiment("first").await, api.experiment("second").await);
    let train = api.by(workload("train"));
    let own = train.access.run.clone().unwrap().run_id;
    let experiment = async || {
        api.get(&format!("runs/get?run_id={own}")).await["run"]["info"]["experiment_id"].as_str().unwrap().to_owned()
    };
    // `set_experiment`, and again, for the script may change its mind.
    train.get("experiments/get-by-name?experiment_name=second").await;
    train.get("experiments/get-by-name?experiment_name=first").await;
    assert_eq!(experiment().await, first);
    // `start_run`; from then on experiments are looked at, and made for runs inside.
    train.post("runs/update", json!({ "run_id": own, "status": "RUNNING" })).await;
    assert_eq!(
        train.get("experiments/get-by-name?experiment_name=second").await["experiment"]["experiment_id"],
        second
    );
    train.experiment("third").await;
    assert_eq!(experiment().await, first);
}

#[tokio::test]
async fn equal_points_of_two_models_are_each_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let run = api.run("0", "one").await;
    let mut models = Vec::new();
    for name in ["a", "b"] {
        let made = api.post("logged-models", json!({ "experiment_id": "0", "name": name, "source_run_id": run })).await;
        models.push(made["model"]["info"]["model_id"].as_str().unwrap().to_owned());
    }
    let point = |model: &String| json!({ "key": "acc", "value": 0.5, "timestamp": 1, "step": 2, "model_id": model });
    let batch = json!({ "run_id": run, "metrics": models.iter().map(point).collect::<Vec<_>>() });
    api.post("runs/log-batch", batch.clone()).await;
    api.post("runs/log-batch", batch).await;
    for model in &models {
        let found = api.get(&format!("logged-models/{model}")).await["model"]["data"]["metrics"].clone();
        assert_eq!((found.as_array().unwrap().len(), &found[0]["value"]), (1, &json!(0.5)), "{found}");
    }
    for history in ["get-history?run_id", "get-history-bulk-interval?run_ids"] {
        let found = api.get(&format!("metrics/{history}={run}&metric_key=acc")).await["metrics"].clone();
        assert_eq!(found.as_array().unwrap().len(), 1, "of the run it is one point: {found}");
    }
}

#[tokio::test]
async fn a_page_ends_where_it_is_long_and_a_run_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let experiment = api.experiment("x").await;
    let inputs = |run: &str, digest: &str| {
        let profile = "p".repeat(10 << 20);
        let dataset =
            json!({ "name": "d", "digest": digest, "source_type": "local", "source": "{}", "profile": profile });
        json!({ "run_id": run, "datasets": [{ "tags": [], "dataset": dataset }] })
    };
    for name in ["a", "b", "c"] {
        let run = api.run(&experiment, name).await;
        if name != "c" {
            api.post("runs/log-inputs", inputs(&run, name)).await;
        }
    }
    let mut pages = Vec::new();
    let mut token = Value::Null;
    loop {
        let asked = json!({ "experiment_ids": [experiment], "page_token": token, "order_by": ["run_name"] });
        let page = api.post("runs/search", asked).await;
        let names = page["runs"].as_array().unwrap().iter().map(|run| run["info"]["run_name"].as_str().unwrap());
        pages.push(names.collect::<Vec<_>>().join(" "));
        token = page["next_page_token"].clone();
        if token.is_null() {
            break;
        }
    }
    assert_eq!(pages, ["a", "b c"]);
    let run = api.run(&experiment, "d").await;
    for digest in ["1", "2", "3"] {
        api.post("runs/log-inputs", inputs(&run, digest)).await;
    }
    let (status, _, why) = api.refused("POST", "runs/log-inputs", inputs(&run, "4")).await;
    assert!(status == 400 && why.contains("at most 33554432 are kept for a run"), "{status} {why}");
    let kept = api.get(&format!("runs/get?run_id={run}")).await["run"]["inputs"]["dataset_inputs"].clone();
    assert_eq!(kept.as_array().unwrap().len(), 3);
    let many = format!(r#"{{"run_id": "{run}", "extra": [{}0]}}"#, "0,".repeat(500_000));
    let (status, answer) = api.send("POST", "runs/log-inputs", &many).await;
    assert_eq!((status, &answer["message"]), (400, &json!("The body has more than 500000 values")));
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tracking.db");
    std::fs::write(&path, "not a database, but a text. ".repeat(9)).unwrap();
    let error = Tracking::open(&path, asked(&Arc::default())).await.err().unwrap().to_string();
    assert!(error.contains("is not a database"), "{error}");
    std::fs::write(&path, "").unwrap();
    assert!(Tracking::open(&path, asked(&Arc::default())).await.is_err());
}
