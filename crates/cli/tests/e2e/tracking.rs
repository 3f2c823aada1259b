//! What stages log with MLflow: its unmodified client, from PyPI, finds the control plane by the environment alone.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::world::{SOON, World, left_out, may_install, states, wait};

/// The client alone, without what it models with.
const CLIENT: &str = "mlflow-skinny==3.17.2";

const TRAIN: &str = r#"
import math, mlflow, os
own = os.environ["MLFLOW_RUN_ID"]
mlflow.set_experiment("night shift")
with mlflow.start_run() as run:
    assert run.info.run_id == own, (run.info.run_id, own)
    mlflow.log_params({"depth": 3, "rate": 0.1})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metric("odd", math.nan)
    mlflow.set_tag("colour", "blue")
    open("note.txt", "w").write("from " + os.environ["TOMBOLO_SITE"])
    mlflow.log_artifact("note.txt", "notes")
    with mlflow.start_run(nested=True, run_name="child"):
        mlflow.log_metric("inner", 1)
    mlflow.log_dict({"a": 1}, "extra/a.json")
client = mlflow.MlflowClient()
assert [p.value for p in client.get_metric_history(own, "loss")] == [1, 1/2, 1/3, 1/4, 1/5]
assert math.isnan(client.get_run(own).data.metrics["odd"])
assert sorted(a.path for a in client.list_artifacts(own)) == ["extra", "notes"], client.list_artifacts(own)
assert mlflow.artifacts.load_text(f"runs:/{own}/notes/note.txt") == "from here"
found = client.search_runs([run.info.experiment_id], "params.depth = '3' and metrics.loss < 0.5 and tags.colour ILIKE 'BL%'")
assert [r.info.run_id for r in found] == [own]
children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{own}'")
assert [r.info.run_name for r in children] == ["child"]
try:
    client.log_metric(os.environ["OTHER"], "x", 1)
except mlflow.exceptions.MlflowException as error:
    assert error.error_code == "PERMISSION_DENIED", error
else:
    raise AssertionError("another's run was written to")
print("token", os.environ["MLFLOW_TRACKING_TOKEN"])
open("outputs/model/id", "w").write(own)
"#;

const LOG: &str = r#"
import json, os, urllib.request
point = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "m", "value": int(os.environ["TOMBOLO_EPOCH"]), "timestamp": 1}
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
assert urllib.request.urlopen(urllib.request.Request(url, json.dumps(point).encode(), headers)).status == 200
"#;

const REGISTER: &str = r#"
import mlflow, os
client = mlflow.MlflowClient()
with mlflow.start_run() as run:
    os.makedirs("model/data", exist_ok=True)
    open("model/MLmodel", "w").write("flavors: {}\n")
    open("model/data/weights.bin", "wb").write(bytes(range(256)) * 2000)
    mlflow.log_artifacts("model", "model")
for expected in ["1", "2"]:
    version = mlflow.register_model(f"runs:/{run.info.run_id}/model", "flights", tags={"by": "train"})
    assert version.version in (expected, int(expected)), version
client.set_registered_model_alias("flights", "champion", "2")
client.set_model_version_tag("flights", "2", "checked", "yes")
client.update_registered_model("flights", "delays")
found = client.get_model_version_by_alias("flights", "champion")
assert (str(found.version), found.run_id, found.tags) == ("2", run.info.run_id, {"by": "train", "checked": "yes"}), found
assert [str(one.version) for one in client.search_model_versions("name = 'flights' and tags.checked = 'yes'")] == ["2"]
assert [one.name for one in client.search_registered_models("name ILIKE 'FL%'")] == ["flights"]
assert client.get_latest_versions("flights")[0].current_stage == "None"
client.transition_model_version_stage("flights", "2", "Production", archive_existing_versions=True)
for wrong in [lambda: client.create_registered_model("flights"), lambda: client.delete_model_version("flights", "1"),
              lambda: client.get_model_version_by_alias("flights", "none"), lambda: client.get_model_version("flights", "9")]:
    try:
        wrong()
    except mlflow.exceptions.MlflowException as error:
        print("refused", error.error_code)
    else:
        raise AssertionError("it was taken")
open("outputs/done/run", "w").write(run.info.run_id)
"#;

const LOAD: &str = r#"
import mlflow, os
at = mlflow.artifacts.download_artifacts(artifact_uri="models:/flights@champion")
assert open(os.path.join(at, "data/weights.bin"), "rb").read() == bytes(range(256)) * 2000
one = mlflow.artifacts.download_artifacts(artifact_uri="models:/flights/Production/MLmodel")
assert open(one).read() == "flavors: {}\n"
open("outputs/seen/site", "w").write(os.environ["TOMBOLO_SITE"])
"#;

/// One request as it is; its answer's status and body.
pub fn send(address: &str, method: &str, uri: &str, token: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // Who is refused isn't read to the end.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer.split_off(end + 4))
}

pub fn ask(world: &World, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let body = if method == "GET" { String::new() } else { body.to_string() };
    let (status, body) = send(&world.address(), method, &format!("/api/2.0/mlflow/{path}"), token, body.as_bytes());
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

pub fn admin(world: &World) -> String {
    std::fs::read_to_string(world.path("server/admin.token")).unwrap().trim().to_owned()
}

#[test]
fn an_unmodified_client_logs_into_the_run_of_its_stage() {
    let world = World::with_sites(&[("here", &[])]);
    let token = admin(&world);
    let (status, other) =
        ask(&world, "POST", "runs/create", &token, &json!({ "experiment_id": "0", "run_name": "mine" }));
    assert_eq!(status, 200, "{other}");
    let other = other["run"]["info"]["run_id"].as_str().unwrap();
    let yaml = format!(
        "
project: nights
stages:
  train: {{ run: python3 train.py, python: ['{CLIENT}'], env: {{ OTHER: '{other}' }}, out: [model] }}
"
    );
    let dir = world.project("nights", &yaml, &[("train.py", TRAIN)]);
    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.cli(&["logs", "train"]));
    let view: Value = serde_json::from_str(&ran.out).unwrap();
    let logs = world.ok(&["logs", &format!("{}/train", view["id"].as_str().unwrap())]);
    assert!(logs.contains("token [redacted]"), "{logs}");

    // A person sees it with a token of their own.
    let search = json!({ "experiment_ids": ["1", "2"], "filter": "run_name = 'train'" });
    let (_, found) = ask(&world, "POST", "runs/search", &token, &search);
    let info = &found["runs"][0]["info"];
    assert_eq!((&info["status"], &info["user_id"]), (&json!("FINISHED"), &json!("nights-1/train")), "{found}");
    let viewer: Value =
        serde_json::from_str(&world.ok(&["token", "create", "eve", "--role", "viewer", "--output", "json"])).unwrap();
    let viewer = viewer["token"].as_str().unwrap();
    assert_eq!(ask(&world, "POST", "runs/search", viewer, &search).0, 200);
    let delete = json!({ "run_id": info["run_id"] });
    assert_eq!(ask(&world, "POST", "runs/delete", viewer, &delete).0, 403);
    assert_eq!(ask(&world, "POST", "runs/delete", "tbr_x.y", &delete).0, 401);
    assert_eq!(ask(&world, "POST", "runs/delete", &token, &delete).0, 200);
    let audit = world.ok(&["audit", "--output", "json"]);
    assert!(audit.contains("/runs/delete"), "{audit}");
}

#[test]
fn a_model_that_is_registered_at_one_site_is_loaded_at_another() {
    let world = World::with_sites(&[("here", &[]), ("there", &[])]);
    let yaml = format!(
        "
project: flights
stages:
  train: {{ run: python3 register.py, python: ['{CLIENT}'], site: here, out: [done] }}
  load: {{ run: python3 load.py, python: ['{CLIENT}'], site: there, in: [done], out: [seen] }}
"
    );
    let dir = world.project("flights", &yaml, &[("register.py", REGISTER), ("load.py", LOAD)]);
    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}\n{}\n{}", world.cli(&["logs", "train"]), world.cli(&["logs", "load"]));
    let logs = world.ok(&["logs", "flights-1/train"]);
    for code in ["RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED", "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"] {
        assert!(logs.contains(&format!("refused {code}")), "{logs}");
    }
    let token = admin(&world);
    let (_, found) = ask(&world, "GET", "registered-models/alias?name=flights&alias=champion", &token, &Value::Null);
    assert_eq!(found["model_version"]["user_id"], "flights-1/train", "{found}");
    let audit = world.ok(&["audit", "--output", "json"]);
    assert!(audit.contains("/registered-models/alias") && audit.contains("/transition-stage"), "{audit}");
    let (status, _) = ask(&world, "DELETE", "registered-models/delete", &token, &json!({ "name": "flights" }));
    assert_eq!(status, 200);
}

/// Some 370 requests, sent to MLflow's own server as well; what differs is listed in the script, with its reason.
#[test]
fn answers_are_those_of_mlflows_own_server() {
    if !may_install() {
        return left_out("it installs MLflow's server; TOMBOLO_E2E=1 runs it");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/mlflow/replay.py");
    let program = env!("CARGO_BIN_EXE_tombolo");
    let done = std::process::Command::new("python3").args([script, "--tombolo", program]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}\n{err}");
    let counted = out.lines().last().unwrap_or_default();
    assert!(counted.ends_with(" 0 that are not"), "{out}");
}

/// Plain HTTP, as any client does it: what comes of a token when its placement is over or was replaced.
#[test]
fn a_token_ends_with_its_placement_and_the_run_with_it() {
    let mut world = World::with_sites(&[("here", &[])]);
    let yaml = "
project: p
stages:
  again:
    run: |
      python3 log.py
      env | grep ^MLFLOW_ > env.$TOMBOLO_EPOCH
      cp env.$TOMBOLO_EPOCH $(dirname $MARKS)/
      test $TOMBOLO_EPOCH -gt 1
    retries: 1
  theirs:
    run: test \"$MLFLOW_TRACKING_URI\" = http://elsewhere && test -z \"$MLFLOW_RUN_ID$MLFLOW_TRACKING_TOKEN\"
    env: { MLFLOW_TRACKING_URI: http://elsewhere }
";
    let dir = world.project("p", yaml, &[("log.py", LOG)]);
    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}");
    let view: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(states(&view), "again succeeded, theirs succeeded");
    let env = |epoch: u32| -> std::collections::BTreeMap<String, String> {
        let text = std::fs::read_to_string(world.path(&format!("env.{epoch}"))).unwrap();
        text.lines().filter_map(|line| line.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    };
    let (first, second) = (env(1), env(2));
    assert_eq!(first["MLFLOW_RUN_ID"], second["MLFLOW_RUN_ID"], "tries are one run");
    assert_ne!(first["MLFLOW_TRACKING_TOKEN"], second["MLFLOW_TRACKING_TOKEN"]);
    let token = admin(&world);
    let run = first["MLFLOW_RUN_ID"].clone();
    let read = |world: &World| ask(world, "GET", &format!("runs/get?run_id={run}"), &token, &json!({})).1;
    // Nobody ended the run itself; that its stage has ended is known all the same, and across a restart.
    let info = wait(SOON, "the run has ended", || {
        Some(read(&world)["run"].clone()).filter(|run| run["info"]["status"] == "FINISHED")
    });
    assert_eq!(info["data"]["metrics"][0]["value"], 2.0);
    let metric = json!({ "run_id": run, "key": "m", "value": 9, "timestamp": 9 });
    for old in [&first, &second] {
        let (status, said) = ask(&world, "POST", "runs/log-metric", &old["MLFLOW_TRACKING_TOKEN"], &metric);
        assert_eq!((status, &said["error_code"]), (403, &json!("PERMISSION_DENIED")), "{said}");
    }
    world.kill_server();
    world.start_server();
    assert_eq!(read(&world)["run"]["info"]["status"], "FINISHED");
}
