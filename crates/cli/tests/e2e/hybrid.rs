//! Data that must stay at home, training elsewhere, a gated test, and a service that answers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::world::{World, noise, outputs, states, tree, workload};

const SITES: [(&str, &[&str]); 3] = [
    ("onprem", &["--label", "visibility=private", "--price", "cpu_hour=0.12", "--price", "egress_gib=0.02"]),
    ("cloud", &["--label", "visibility=public", "--price", "cpu_hour=0.04", "--price", "egress_gib=0.09"]),
    ("prod", &["--label", "visibility=public", "--price", "cpu_hour=0.10", "--price", "egress_gib=0.09"]),
];

const PROJECT: &str = r#"
project: hybrid
objective: cost
data:
  raw: { path: data/raw.bin, keep_at: onprem }
stages:
  features:
    run: head -c 100000 "$TOMBOLO_INPUT_RAW/raw.bin" | sha256sum > "$TOMBOLO_OUTPUT_FEATURES/table"; echo "features $TOMBOLO_EPOCH" >> $MARKS
    in: [raw]
    out: [features]
    release: [features]
    duration: 1m
    resources: { cpus: 1 }
  train:
    run: mkdir "$TOMBOLO_OUTPUT_MODEL/parts"; tr a-f A-F < inputs/features/table | tee outputs/model/parts/0 > outputs/model/weights; echo "train $TOMBOLO_EPOCH" >> $MARKS
    in: [features]
    out: [model]
    duration: 1h
    resources: { cpus: 1 }
  test:
    run: test -s inputs/model/weights && echo '{"auc":0.75}' > outputs/evaluation/metrics.json; echo "test $TOMBOLO_EPOCH" >> $MARKS
    in: [features, model]
    out: [evaluation]
    site: prod
    duration: 1m
    resources: { cpus: 1 }
    gate: { output: evaluation, file: metrics.json, metric: auc, at_least: 0.6 }
services:
  predict:
    run: exec python3 -m http.server "$PORT" --bind 127.0.0.1 --directory inputs/model
    in: [model]
    site: prod
    ready: /weights
    resources: { cpus: 0.5 }
"#;

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn holds(dir: &std::path::Path, bytes: &[u8]) -> bool {
    tree(dir).values().any(|file| file.windows(bytes.len()).any(|window| window == bytes))
}

#[test]
fn private_data_public_training_and_an_endpoint() {
    let world = World::with_sites(&SITES);
    let dir = world.project("hybrid", PROJECT, &[]);
    let raw = noise(1, 300_000);
    fs::create_dir_all(format!("{dir}/data")).unwrap();
    fs::write(format!("{dir}/data/raw.bin"), &raw).unwrap();

    explained(&world.json(&["plan", &dir]));

    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
    let view: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(view["state"], "serving", "{view:#}");
    assert_eq!(states(&view), "features succeeded, predict ready, test succeeded, train succeeded");
    for (stage, site) in [("features", "onprem"), ("train", "cloud"), ("test", "prod"), ("predict", "prod")] {
        assert_eq!(workload(&view, stage)["attempts"][0]["site"], site, "{stage}");
        assert_eq!(workload(&view, stage)["attempts"].as_array().unwrap().len(), 1, "{stage}");
    }
    // What crossed: the table and the code for training, model and table for the test.
    let moved = |stage: &str| workload(&view, stage)["attempts"][0]["bytes_in"].as_u64().unwrap();
    assert!(moved("train") > 0 && moved("test") > 0, "{view:#}");
    assert!(moved("features") == 0, "its data and code were there: {}", moved("features"));

    let address = workload(&view, "predict")["address"].as_str().unwrap().to_owned();
    let answer = get(&address, "/weights");
    let got = world.path("got");
    world.ok(&["data", "get", "model", got.to_str().unwrap()]);
    let model = tree(&got);
    assert_eq!(model.keys().collect::<Vec<_>>(), ["parts/0", "weights"]);
    assert!(answer.ends_with(std::str::from_utf8(&model["weights"]).unwrap()), "{answer}");
    assert_eq!(model["weights"], model["parts/0"]);

    let got = world.path("got-raw");
    world.ok(&["data", "get", "raw", got.to_str().unwrap()]);
    assert!(tree(&got)["raw.bin"] == raw, "other bytes came back");

    stays_home(&world, &raw);
    again(&world, &dir, &view);
}

/// Every stage has its site, and each other site its reason, for programs too.
fn explained(plan: &Value) {
    let placements = plan["placements"].as_array().unwrap();
    assert_eq!(placements.len(), 4, "{plan:#}");
    let of = |task: &str| placements.iter().find(|placement| placement["task"] == task).unwrap();
    let other = |task: &str, site: &str| {
        let others = of(task)["others"].as_array().unwrap();
        others.iter().find(|other| other["site"] == site).cloned().unwrap()
    };
    for (task, site) in [("features", "onprem"), ("train", "cloud"), ("test", "prod"), ("predict", "prod")] {
        assert_eq!(of(task)["outcome"]["site"], site, "{task}: {plan:#}");
        assert_eq!(of(task)["others"].as_array().unwrap().len(), 2);
    }
    assert_eq!(other("features", "cloud")["reason"], "residency", "{plan:#}");
    assert_eq!(other("features", "cloud")["input"], "raw");
    assert!(other("train", "onprem")["by"]["dearer"].as_f64().unwrap() > 0.0, "{plan:#}");
    assert_eq!(other("test", "cloud")["reason"], "selector", "{plan:#}");
}

/// Neither the version nor a piece of its bytes is anywhere but where it may be.
fn stays_home(world: &World, raw: &[u8]) {
    let info = world.json(&["data", "ls"]);
    let raw_info = info.as_array().unwrap().iter().find(|dataset| dataset["name"] == "raw").unwrap()["latest"].clone();
    assert_eq!((&raw_info["replicas"], &raw_info["residency"]), (&serde_json::json!(["onprem"]), &"onprem".into()));
    let version = raw_info["version"].as_str().unwrap();
    let piece = &raw[150_000..150_064];
    for (site, home) in [("onprem", true), ("cloud", false), ("prod", false)] {
        let dir = world.site_dir(site);
        assert_eq!(dir.join("store/manifests").join(version).exists(), home, "{site}");
        assert_eq!(holds(&dir, piece), home, "{site}");
    }
    // It can't be asked away either.
    let dest = world.path("taken");
    let refused = world.cli(&["data", "get", "raw", dest.to_str().unwrap(), "--site", "cloud"]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.err.contains("onprem"), "{refused}");
    assert!(!holds(&world.site_dir("cloud"), piece));
}

/// What is unchanged is not run again; with --force it is, to the same bytes.
fn again(world: &World, dir: &str, first: &Value) {
    world.ok(&["stop", first["id"].as_str().unwrap()]);
    world.wait_run(first["id"].as_str().unwrap(), &["stopped"]);
    let ran = world.cli(&["run", dir, "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}");
    let second: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(states(&second), "features cached, predict ready, test cached, train cached");
    assert_eq!(outputs(&second), outputs(first));
    for stage in ["features", "train", "test"] {
        assert_eq!(world.marks_of(stage).len(), 1, "{stage}");
    }
    let ran = world.cli(&["run", dir, "--force", "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}");
    let third: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(states(&third), "features succeeded, predict ready, test succeeded, train succeeded");
    assert_eq!(outputs(&third), outputs(first), "the same bytes have the same versions");
    for stage in ["features", "train", "test"] {
        assert_eq!(world.marks_of(stage).len(), 2, "{stage}");
    }
}

#[test]
fn a_stage_that_may_be_nowhere_is_refused_by_the_rule() {
    let world = World::with_sites(&SITES);
    let yaml = "
project: away
data: { raw: { path: raw.txt, keep_at: onprem } }
stages:
  features: { run: cp inputs/raw/raw.txt outputs/table/, in: [raw], out: [table] }
  train: { run: cp inputs/table/raw.txt outputs/model/, in: [table], out: [model], site: cloud }
";
    let dir = world.project("away", yaml, &[("raw.txt", "secret numbers")]);
    let refused = world.cli(&["run", &dir]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.err.contains("tombolo.yaml:6:") && refused.err.contains("onprem"), "{refused}");
    assert!(world.json(&["ps", "--all"]).as_array().unwrap().is_empty(), "nothing was submitted");

    // By labels, a rule that only the control plane can judge.
    let yaml = yaml.replace("site: cloud", "site: { visibility: public }");
    let dir = world.project("away", &yaml, &[("raw.txt", "secret numbers")]);
    let told = world.cli(&["plan", &dir, "--output", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&told.out).unwrap();
    let train = plan["placements"].as_array().unwrap().iter().find(|placement| placement["task"] == "train").unwrap();
    assert!(told.code == 2 && train["outcome"]["status"] == "refused", "{plan:#}");
    let told = world.cli(&["plan", &dir]);
    assert!(told.out.contains("train has no place") && told.out.contains("may only be at onprem"), "{told}");
    assert!(told.code == 2 && told.err.contains("no site can run train"), "{told}");
}
