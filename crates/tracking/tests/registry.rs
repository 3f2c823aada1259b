//! The model registry as a client sees it; answers and refusals are those that MLflow's own server gives, where
//! `docs/mlflow.md` doesn't say otherwise.

mod common;

use serde_json::{Value, json};
use tombolo_tracking::{Access, Own};

use common::{Api, person, workload};

const MISSING: (u16, &str) = (404, "RESOURCE_DOES_NOT_EXIST");
const INVALID: (u16, &str) = (400, "INVALID_PARAMETER_VALUE");
const DENIED: (u16, &str) = (403, "PERMISSION_DENIED");

/// A run of a person's, with where its artifacts are.
async fn run(api: &Api) -> (String, String) {
    let made = api.post("runs/create", json!({ "experiment_id": "0" })).await;
    let info = &made["run"]["info"];
    (info["run_id"].as_str().unwrap().to_owned(), info["artifact_uri"].as_str().unwrap().to_owned())
}

async fn registered(api: &Api, name: &str) {
    api.post("registered-models/create", json!({ "name": name })).await;
}

/// A version of a model, from a run of its own. Returns its number.
async fn version(api: &Api, name: &str) -> String {
    let (run, artifacts) = run(api).await;
    let asked = json!({ "name": name, "source": format!("{artifacts}/m"), "run_id": run });
    api.post("model-versions/create", asked).await["model_version"]["version"].as_str().unwrap().to_owned()
}

async fn ok(api: &Api, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = api.send(method, path, &body.to_string()).await;
    assert_eq!(status, 200, "{method} {path} {body}: {answer}");
    answer
}

async fn refused(api: &Api, method: &str, path: &str, body: Value, expected: (u16, &str), words: &str) {
    let (status, code, message) = api.refused(method, path, body.clone()).await;
    assert_eq!((status, code.as_str()), expected, "{method} {path} {body}: {message}");
    assert!(message.contains(words), "{method} {path} {body}: {message}");
}

/// Without times, which differ.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("_timestamp"));
            fields.values_mut().for_each(|field| *field = timeless(field.take()));
        }
        Value::Array(all) => all.iter_mut().for_each(|one| *one = timeless(one.take())),
        _ => {}
    }
    value
}

#[tokio::test]
async fn models_are_made_described_renamed_and_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    let made = api.post("registered-models/create", json!({ "name": "a" })).await;
    let model = &made["registered_model"];
    assert_eq!(model["creation_timestamp"], model["last_updated_timestamp"]);
    assert_eq!(timeless(made), json!({ "registered_model": { "name": "a" } }), "what is empty is left out");
    let twice = json!([{ "key": "k", "value": "v" }, { "key": "k", "value": "w" }]);
    let made = api.post("registered-models/create", json!({ "name": "b", "description": "d", "tags": twice })).await;
    let expected = json!({ "name": "b", "description": "d", "tags": [{ "key": "k", "value": "w" }] });
    assert_eq!(timeless(made)["registered_model"], expected);
    refused(
        &api,
        "POST",
        "registered-models/create",
        json!({ "name": "a" }),
        (400, "RESOURCE_ALREADY_EXISTS"),
        "(name=a)",
    )
    .await;

    let described = ok(&api, "PATCH", "registered-models/update", json!({ "name": "a", "description": "about" })).await;
    assert_eq!(described["registered_model"]["description"], "about");
    let described = ok(&api, "PATCH", "registered-models/update", json!({ "name": "a" })).await;
    assert!(described["registered_model"]["description"].is_null());

    let number = version(&api, "a").await;
    let renamed = api.post("registered-models/rename", json!({ "name": "a", "new_name": "c" })).await;
    assert_eq!(renamed["registered_model"]["latest_versions"][0]["name"], "c");
    assert_eq!(api.get(&format!("model-versions/get?name=c&version={number}")).await["model_version"]["name"], "c");
    let taken = json!({ "name": "c", "new_name": "b" });
    refused(&api, "POST", "registered-models/rename", taken, (400, "RESOURCE_ALREADY_EXISTS"), "(name=b)").await;
    for (body, expected, words) in [
        (json!({ "name": "a", "new_name": "d" }), MISSING, "name=a not found"),
        (json!({ "name": "c" }), INVALID, "'new_name'"),
        (json!({ "name": "c", "new_name": "x/y" }), INVALID, "cannot contain"),
    ] {
        refused(&api, "POST", "registered-models/rename", body, expected, words).await;
    }

    assert_eq!(ok(&api, "DELETE", "registered-models/delete", json!({ "name": "c" })).await, json!({}));
    refused(&api, "DELETE", "registered-models/delete", json!({ "name": "c" }), MISSING, "name=c not found").await;
    refused(&api, "GET", "registered-models/get?name=c", json!({}), MISSING, "name=c not found").await;
    assert_eq!(api.get("model-versions/search?filter=name%20%3D%20'c'").await, json!({}));
    // A new one of the name has nothing of the old.
    registered(&api, "c").await;
    assert_eq!(version(&api, "c").await, "1");
}

#[tokio::test]
async fn names_keys_and_texts_have_limits() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    for (name, words) in [
        (Value::Null, "'name'"),
        (json!(""), "'name'"),
        (json!(" "), "'name'"),
        (json!("x/y"), "cannot contain '/' or ':'"),
        (json!("x:y"), "cannot contain '/' or ':'"),
        (json!("."), "must not resolve"),
        (json!(".."), "must not resolve"),
        (json!("n".repeat(257)), "exceeds the maximum length"),
        (json!({}), "Invalid request"),
    ] {
        refused(&api, "POST", "registered-models/create", json!({ "name": name }), INVALID, words).await;
    }
    registered(&api, &"n".repeat(256)).await;
    registered(&api, "a").await;
    version(&api, "a").await;
    for (key, value, words) in [
        ("", "x".to_owned(), "'key'"),
        ("k/", "x".to_owned(), "must not resolve"),
        (&"k".repeat(251), "x".to_owned(), "maximum length of 250"),
        ("k", "x".repeat(100_001), "maximum length of 100000"),
    ] {
        let tag = json!({ "name": "a", "version": "1", "key": key, "value": value });
        for path in ["registered-models/set-tag", "model-versions/set-tag"] {
            refused(&api, "POST", path, tag.clone(), INVALID, words).await;
        }
    }
    api.post("model-versions/set-tag", json!({ "name": "a", "version": 1, "key": "k", "value": "x".repeat(100_000) }))
        .await;
}

#[tokio::test]
async fn a_version_is_what_it_was_registered_as() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    registered(&api, "a").await;
    registered(&api, "b").await;
    let (run_id, artifacts) = run(&api).await;
    let asked = json!({
        "name": "a", "source": format!("{artifacts}/m"), "run_id": run_id, "description": "first",
        "tags": [{ "key": "t", "value": "1" }]
    });
    let made = api.post("model-versions/create", asked).await;
    let expected = json!({
        "name": "a", "version": "1", "current_stage": "None", "description": "first", "source": format!("{artifacts}/m"),
        "run_id": run_id, "run_link": "", "status": "READY", "user_id": "ada", "tags": [{ "key": "t", "value": "1" }]
    });
    assert_eq!(timeless(made)["model_version"], expected);
    assert_eq!(version(&api, "a").await, "2");
    let uri = async |name: &str, version: &str| {
        let found = api.get(&format!("model-versions/get-download-uri?name={name}&version={version}")).await;
        found["artifact_uri"].as_str().unwrap().to_owned()
    };
    assert_eq!(uri("a", "1").await, format!("{artifacts}/m"));

    // From another version it has its bytes and its run; from a logged model too, which says so itself.
    let copied = api.post("model-versions/create", json!({ "name": "b", "source": "models:/a/1" })).await;
    assert_eq!(copied["model_version"]["run_id"], run_id.as_str());
    assert_eq!(uri("b", "1").await, format!("{artifacts}/m"));
    let logged = api.post("logged-models", json!({ "experiment_id": "0", "name": "l", "source_run_id": run_id })).await;
    let (id, kept) = (&logged["model"]["info"]["model_id"], &logged["model"]["info"]["artifact_uri"]);
    let id = id.as_str().unwrap();
    for source in [format!("models:/{id}"), kept.as_str().unwrap().to_owned()] {
        let asked = json!({ "name": "b", "source": source, "model_id": id });
        let made = api.post("model-versions/create", asked).await["model_version"].clone();
        assert_eq!((&made["run_id"], &made["model_id"]), (&json!(run_id), &json!(id)));
        assert_eq!(uri("b", made["version"].as_str().unwrap()).await, kept.as_str().unwrap());
    }
    let tags = api.get(&format!("logged-models/{id}")).await["model"]["info"]["tags"].clone();
    let said: Value = serde_json::from_str(tags[0]["value"].as_str().unwrap()).unwrap();
    assert_eq!(tags[0]["key"], "mlflow.modelVersions");
    assert_eq!(said, json!([{ "name": "b", "version": 2 }, { "name": "b", "version": 3 }]));
    // Elsewhere it may be anywhere.
    let made = api.post("model-versions/create", json!({ "name": "a", "source": "s3://bucket/m" })).await;
    assert_eq!(made["model_version"]["run_id"], "");

    for (body, expected, words) in [
        (json!({ "name": "a" }), INVALID, "'source'"),
        (json!({ "name": "a", "source": "" }), INVALID, "'source'"),
        (json!({ "name": "zz", "source": "s3://b/m" }), MISSING, "name=zz not found"),
        (json!({ "name": "a", "source": "/etc/passwd" }), INVALID, "local path"),
        (json!({ "name": "a", "source": "file:///etc/passwd", "run_id": run_id }), INVALID, "local path"),
        (json!({ "name": "a", "source": "mlflow-artifacts:/0/../x" }), INVALID, "relative path"),
        (json!({ "name": "a", "source": "s3://b/%2e%2e/m" }), INVALID, "relative path"),
        (json!({ "name": "a", "source": format!("{artifacts}/m") }), INVALID, "The run_id request parameter"),
        (json!({ "name": "a", "source": format!("runs:/{run_id}/m") }), INVALID, "The run_id request parameter"),
        (json!({ "name": "a", "source": format!("{artifacts}er/m"), "run_id": run_id }), INVALID, "The run_id"),
        (json!({ "name": "a", "source": format!("models:/{id}") }), INVALID, "The model_id request parameter"),
        (json!({ "name": "a", "source": "models:/m-none", "model_id": "m-none" }), MISSING, "m-none"),
        (json!({ "name": "a", "source": "models:/a/99" }), MISSING, "(name=a, version=99)"),
        (json!({ "name": "a", "source": "models:/zz/1" }), MISSING, "name=zz"),
        (json!({ "name": "a", "source": "models:/a/1", "run_id": "other" }), INVALID, "must match"),
        (
            json!({ "name": "a", "source": "http://h/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts/m" }),
            INVALID,
            "scheme",
        ),
    ] {
        refused(&api, "POST", "model-versions/create", body, expected, words).await;
    }
    let runs = json!({ "name": "a", "source": format!("runs:/{run_id}/m"), "run_id": run_id });
    assert_eq!(
        api.post("model-versions/create", runs).await["model_version"]["version"],
        "4",
        "refusals use up no number"
    );

    for (query, expected, words) in [
        ("name=a&version=77", MISSING, "(name=a, version=77)"),
        ("name=zz&version=1", MISSING, "(name=zz, version=1)"),
        ("name=a&version=x", INVALID, "must be an integer"),
        ("name=a", INVALID, "'version'"),
    ] {
        refused(&api, "GET", &format!("model-versions/get?{query}"), json!({}), expected, words).await;
    }

    // Taken away it takes its aliases with it, and nothing comes under its number again.
    api.post("registered-models/alias", json!({ "name": "a", "alias": "champion", "version": "4" })).await;
    ok(&api, "DELETE", "model-versions/delete", json!({ "name": "a", "version": "4" })).await;
    refused(&api, "DELETE", "model-versions/delete", json!({ "name": "a", "version": "4" }), MISSING, "version=4")
        .await;
    refused(&api, "GET", "registered-models/alias?name=a&alias=champion", json!({}), INVALID, "champion not found")
        .await;
    assert_eq!(version(&api, "a").await, "5");
}

#[tokio::test]
async fn aliases_and_stages_say_which_version_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    registered(&api, "a").await;
    for expected in ["1", "2", "3"] {
        assert_eq!(version(&api, "a").await, expected);
    }
    let set = |alias: &str, version: &str| json!({ "name": "a", "alias": alias, "version": version });
    for (alias, version) in [("champion", "1"), ("Champion", "2"), ("champion", "2"), ("7", "1")] {
        api.post("registered-models/alias", set(alias, version)).await;
    }
    let found = api.get("registered-models/alias?name=a&alias=champion").await;
    assert_eq!(
        (&found["model_version"]["version"], &found["model_version"]["aliases"]),
        (&json!("2"), &json!(["Champion", "champion"]))
    );
    let model = api.get("registered-models/get?name=a").await["registered_model"].clone();
    let aliases = json!([
        { "alias": "7", "version": "1" }, { "alias": "Champion", "version": "2" }, { "alias": "champion", "version": "2" }
    ]);
    assert_eq!(model["aliases"], aliases);
    for (alias, words) in [
        ("", "'alias'"),
        ("v1", "'v1' is reserved"),
        ("V12", "'V12' is reserved"),
        ("LATEST", "is reserved"),
        ("a b", "Invalid alias name"),
        ("a.b", "Invalid alias name"),
        (&"x".repeat(256), "maximum length of 255"),
    ] {
        refused(&api, "POST", "registered-models/alias", set(alias, "1"), INVALID, words).await;
    }
    refused(&api, "POST", "registered-models/alias", set("ok", "99"), MISSING, "version=99").await;
    assert_eq!(api.get("registered-models/alias?name=a&alias=latest").await["model_version"]["version"], "3");
    registered(&api, "empty").await;
    let latest = "registered-models/alias?name=empty&alias=latest";
    refused(&api, "GET", latest, json!({}), MISSING, "Latest version not found").await;
    ok(&api, "POST", "registered-models/rename", json!({ "name": "empty", "new_name": "empty" })).await;
    refused(&api, "GET", "registered-models/alias?name=zz&alias=x", json!({}), MISSING, "name=zz").await;
    for _ in 0..2 {
        ok(&api, "DELETE", "registered-models/alias", set("Champion", "2")).await;
    }

    let to = |version: &str, stage: &str, archive: bool| json!({ "name": "a", "version": version, "stage": stage, "archive_existing_versions": archive });
    let stage = async |version: &str| {
        let found = api.get(&format!("model-versions/get?name=a&version={version}")).await;
        found["model_version"]["current_stage"].as_str().unwrap().to_owned()
    };
    api.post("model-versions/transition-stage", to("1", "production", false)).await;
    assert_eq!(stage("1").await, "Production");
    api.post("model-versions/transition-stage", to("2", "Production", true)).await;
    assert_eq!(
        (stage("1").await, stage("2").await, stage("3").await),
        ("Archived".into(), "Production".into(), "None".into())
    );
    refused(
        &api,
        "POST",
        "model-versions/transition-stage",
        to("2", "nope", false),
        INVALID,
        "None, Staging, Production",
    )
    .await;
    refused(&api, "POST", "model-versions/transition-stage", to("2", "Archived", true), INVALID, "not an Active stage")
        .await;
    refused(
        &api,
        "POST",
        "model-versions/transition-stage",
        json!({ "name": "a", "version": "2" }),
        INVALID,
        "'stage'",
    )
    .await;
    let latest = async |body: Value| {
        let found = api.post("registered-models/get-latest-versions", body).await;
        let all = found["model_versions"].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| one["version"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(latest(json!({ "name": "a" })).await, ["1", "2", "3"]);
    assert_eq!(latest(json!({ "name": "a", "stages": ["production", "Staging"] })).await, ["2"]);
    assert_eq!(
        api.get("registered-models/get-latest-versions?name=a&stages=None").await["model_versions"][0]["version"],
        "3"
    );
    refused(
        &api,
        "POST",
        "registered-models/get-latest-versions",
        json!({ "name": "a", "stages": ["zz"] }),
        INVALID,
        "zz",
    )
    .await;
}

#[tokio::test]
async fn searches_find_what_their_filter_says() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::new(&dir).await;
    for name in ["a", "b", "c"] {
        registered(&api, name).await;
    }
    api.post("registered-models/set-tag", json!({ "name": "b", "key": "k", "value": "w" })).await;
    let prompt = json!([{ "key": "mlflow.prompt.is_prompt", "value": "true" }]);
    api.post("registered-models/create", json!({ "name": "p", "tags": prompt })).await;
    for name in ["a", "a", "b"] {
        version(&api, name).await;
    }
    api.post("model-versions/set-tag", json!({ "name": "a", "version": "1", "key": "t", "value": "1" })).await;
    let run_id = api.get("model-versions/get?name=b&version=1").await["model_version"]["run_id"].clone();
    let quoted =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let models = async |query: String| {
        let found = api.get(&format!("registered-models/search?{query}")).await;
        let all = found["registered_models"].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    for (filter, expected) in [
        ("", "a b c"),
        ("name = 'a'", "a"),
        ("name != 'a'", "b c"),
        ("name LIKE 'A%'", ""),
        ("name ILIKE 'A%'", "a"),
        ("name IN ('a', 'c')", "a c"),
        ("name NOT IN ('a', 'c')", "b"),
        ("tags.k = 'w'", "b"),
        ("tags.k != 'z'", "b"),
        ("tags.k ILIKE 'W'", "b"),
        ("name = 'a' AND tags.k = 'w'", ""),
        ("tags.`mlflow.prompt.is_prompt` = 'true'", "p"),
        ("tags.`mlflow.prompt.is_prompt` != 'false' AND name = 'p'", "p"),
        ("tags.`mlflow.prompt.is_prompt` = 'false'", "a b c"),
    ] {
        assert_eq!(models(format!("filter={}", quoted(filter))).await, expected, "{filter}");
    }
    for (order, expected) in [("name DESC", "c b a"), ("last_updated_timestamp, name", ""), ("timestamp DESC", "b")] {
        let orders: Vec<String> = order.split(", ").map(|order| format!("order_by={}", quoted(order))).collect();
        let found = models(orders.join("&")).await;
        assert!(found.starts_with(expected) && found.len() == 5, "{order}: {found}");
    }
    for bad in ["description = 'd'", "name > 'a'", "nonsense", "name = a", "metrics.x > 1"] {
        refused(&api, "GET", &format!("registered-models/search?filter={}", quoted(bad)), json!({}), INVALID, "").await;
    }
    for bad in
        ["max_results=0", "max_results=-1", "max_results=1001", "max_results=x", "page_token=zz", "order_by=nope"]
    {
        refused(&api, "GET", &format!("registered-models/search?{bad}"), json!({}), INVALID, "").await;
    }
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let page = api.get(&format!("registered-models/search?max_results=2&page_token={token}")).await;
        pages.push(page["registered_models"].as_array().unwrap().len());
        match page["next_page_token"].as_str() {
            Some(next) => token = quoted(next),
            None => break,
        }
    }
    assert_eq!(pages, [2, 1]);

    let versions = async |query: String| {
        let found = api.get(&format!("model-versions/search?{query}")).await;
        let all = found["model_versions"].as_array().cloned().unwrap_or_default();
        let one = |one: &Value| format!("{}{}", one["name"].as_str().unwrap(), one["version"].as_str().unwrap());
        let mut all: Vec<String> = all.iter().map(one).collect();
        all.sort();
        all.join(" ")
    };
    let of_run = format!("run_id = {}", run_id.to_string().replace('"', "'"));
    for (filter, expected) in [
        ("", "a1 a2 b1"),
        ("name = 'a'", "a1 a2"),
        ("name ILIKE 'A'", "a1 a2"),
        ("name NOT IN ('a')", "b1"),
        (of_run.as_str(), "b1"),
        ("run_id IN ('none')", ""),
        ("source_path LIKE '%/m'", "a1 a2 b1"),
        ("version_number > 1", "a2"),
        ("version_number <= 1 AND name = 'a'", "a1"),
        ("tags.t = '1'", "a1"),
    ] {
        assert_eq!(versions(format!("filter={}", quoted(filter))).await, expected, "{filter}");
    }
    for bad in ["current_stage = 'None'", "source_path IN ('x')", "version_number LIKE '2'", "name > 'a'"] {
        refused(&api, "GET", &format!("model-versions/search?filter={}", quoted(bad)), json!({}), INVALID, "").await;
    }
    for bad in ["max_results=0", "max_results=200001", "order_by=nope"] {
        refused(&api, "GET", &format!("model-versions/search?{bad}"), json!({}), INVALID, "").await;
    }
    let ordered = api.get("model-versions/search?order_by=version_number%20DESC&order_by=name&max_results=2").await;
    let ordered = ordered["model_versions"].as_array().unwrap().clone();
    let ordered: Vec<_> = ordered.iter().map(|one| (one["name"].clone(), one["version"].clone())).collect();
    assert_eq!(ordered, [(json!("a"), json!("2")), (json!("a"), json!("1"))]);
}

async fn api_alias(api: &Api, body: Value, refusal: Option<&str>) {
    match refusal {
        None => drop(ok(api, "POST", "registered-models/alias", body).await),
        Some(words) => refused(api, "POST", "registered-models/alias", body, DENIED, words).await,
    }
}

/// A stage registers what it has made itself, under names that nobody else's project has taken, and changes nothing that
/// others have registered.
#[tokio::test]
async fn a_workload_registers_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let people = Api::new(&dir).await;
    let (train, other) = (people.by(workload("train")), people.by(workload("other")));
    let stranger =
        Own { project: "nights".to_owned(), workload: "nights-1/train".to_owned(), ..workload("x").run.unwrap() };
    let stranger = people.by(Access { who: stranger.workload.clone(), run: Some(stranger) });
    registered(&people, "shared").await;
    registered(&train, "flights").await;
    let (theirs, at) = run(&people).await;

    let own = |api: &Api| api.access.run.clone().unwrap().run_id;
    // Its run is there once it has logged something.
    for api in [&train, &other, &stranger] {
        api.post("runs/log-metric", json!({ "run_id": own(api), "key": "m", "value": 1, "timestamp": 1 })).await;
    }
    let register = async |api: &Api, name: &str| {
        let info = people.get(&format!("runs/get?run_id={}", own(api))).await["run"]["info"].clone();
        let source = format!("{}/m", info["artifact_uri"].as_str().unwrap());
        api.send(
            "POST",
            "model-versions/create",
            &json!({ "name": name, "source": source, "run_id": own(api) }).to_string(),
        )
        .await
    };
    for name in ["flights", "shared"] {
        let (status, made) = register(&train, name).await;
        assert_eq!((status, &made["model_version"]["user_id"]), (200, &json!("flights-1/train")), "{made}");
        assert_eq!(register(&other, name).await.0, 200, "of the same project");
    }
    assert_eq!(register(&stranger, "flights").await.0, 403, "the name is another project's");
    assert_eq!(register(&stranger, "shared").await.0, 200);
    let foreign = json!({ "name": "flights", "source": format!("{at}/m"), "run_id": theirs });
    refused(&train, "POST", "model-versions/create", foreign, DENIED, "its own runs only").await;

    // Version 1 of both is train's.
    let of = |version: &str| json!({ "name": "flights", "version": version, "alias": "best", "stage": "Staging", "key": "k", "value": "v", "description": "d" });
    for (method, path) in [
        ("POST", "registered-models/alias"),
        ("POST", "model-versions/transition-stage"),
        ("POST", "model-versions/set-tag"),
        ("PATCH", "model-versions/update"),
        ("DELETE", "model-versions/delete-tag"),
    ] {
        ok(&train, method, path, of("1")).await;
        refused(&train, method, path, of("2"), DENIED, "none of them").await;
        refused(&stranger, method, path, of("1"), DENIED, "none of them").await;
        ok(&people, method, path, of("2")).await;
    }
    // Of the same project it may move what others have registered, of people and other projects it may not.
    let alias = |name: &str, alias: &str, version: &str| json!({ "name": name, "alias": alias, "version": version });
    api_alias(&other, alias("flights", "best", "2"), None).await;
    api_alias(&people, alias("shared", "champion", "3"), None).await;
    api_alias(&train, alias("shared", "champion", "1"), Some("registered by nights-1/train")).await;
    let mine = version(&people, "shared").await;
    api_alias(&people, alias("shared", "gold", &mine), None).await;
    api_alias(&train, alias("shared", "gold", "1"), Some("registered by a person")).await;
    ok(
        &people,
        "POST",
        "model-versions/transition-stage",
        json!({ "name": "shared", "version": mine, "stage": "Production" }),
    )
    .await;
    let archive = json!({ "name": "shared", "version": "1", "stage": "Production", "archive_existing_versions": true });
    refused(&train, "POST", "model-versions/transition-stage", archive, DENIED, "registered by a person").await;
    for (method, path, body) in [
        ("POST", "registered-models/rename", json!({ "name": "flights", "new_name": "x" })),
        ("DELETE", "registered-models/delete", json!({ "name": "flights" })),
        ("DELETE", "model-versions/delete", of("1")),
        ("DELETE", "registered-models/alias", of("1")),
    ] {
        refused(&train, method, path, body, DENIED, "is no person's").await;
    }
    refused(&stranger, "POST", "registered-models/set-tag", of("1"), DENIED, "the project flights's").await;
    ok(&train, "POST", "registered-models/set-tag", of("1")).await;

    // One that was started anew elsewhere says nothing more.
    let stale = Own { epoch: 0, ..train.access.run.clone().unwrap() };
    let stale = people.by(Access { who: stale.workload.clone(), run: Some(stale) });
    for (path, body) in [
        ("registered-models/create", json!({ "name": "late" })),
        ("registered-models/alias", of("1")),
        ("model-versions/set-tag", of("1")),
    ] {
        refused(&stale, "POST", path, body, DENIED, "was started anew").await;
    }
    refused(&people, "GET", "registered-models/get?name=late", json!({}), MISSING, "late").await;
    assert_eq!(person().who, "ada");
}

#[tokio::test]
async fn what_was_registered_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let api = Api::new(&dir).await;
        registered(&api, "a").await;
        version(&api, "a").await;
        api.post("registered-models/alias", json!({ "name": "a", "alias": "champion", "version": "1" })).await;
        api.get("registered-models/get?name=a").await
    };
    let api = Api::new(&dir).await;
    assert_eq!(api.get("registered-models/get?name=a").await, before);
    assert_eq!(before["registered_model"]["aliases"][0]["alias"], "champion");
}
