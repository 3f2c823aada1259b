//! The Helm chart, which makes what `site add --kubernetes --print` writes.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::world::{World, left_out};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/tombolo");

/// Objects by kind and name, with the site file in them read.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for text in yaml.split("\n---").filter(|text| text.lines().any(|line| line.starts_with("kind:"))) {
        let mut object: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        if let Some(file) = object["data"]["site.yaml"].as_str() {
            object["data"]["site.yaml"] = serde_saphyr::from_str(file).unwrap();
        }
        // Of a text that differs by its white space.
        let annotations = &mut object["spec"]["template"]["metadata"]["annotations"];
        if let Some(hash) = annotations.get_mut("tombolo.dev/site-file") {
            assert_eq!(hash.as_str().map(str::len), Some(16));
            *hash = Value::Null;
        }
        let name = format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        all.insert(name, plain(object));
    }
    all
}

/// What YAML and JSON write differently: 8 and 8.0, and fields that are empty.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(all) => all.into_iter().map(plain).collect(),
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, plain(value))).collect(),
        other => other,
    }
}

fn same(helm: &str, name: &str, print: &[&str], file: &Value, values: &Value) {
    let world = World::start();
    let (site_file, values_file) = (world.path("site.yaml"), world.path("values.yaml"));
    fs::write(&site_file, file.to_string()).unwrap();
    fs::write(&values_file, values.to_string()).unwrap();
    let site_file = site_file.display().to_string();
    let args =
        ["site", "add", "cloud", "--kubernetes", "--print", "--control", "https://control.example", "--site-file"];
    let printed = world.ok(&[&args[..], &[&site_file], print].concat());
    let mut command = Command::new(helm);
    command.args(["template", "tombolo-cloud", CHART, "--kube-version=1.36", "--namespace", "ml", "--values"]);
    command.arg(values_file);
    if file["kubernetes"]["workloads"] == true {
        command.arg("--include-crds");
    }
    let rendered = command.output().unwrap();
    assert!(rendered.status.success(), "{name}: {}", String::from_utf8_lossy(&rendered.stderr));
    let (ours, chart) = (objects(&printed), objects(&String::from_utf8(rendered.stdout).unwrap()));
    assert_eq!(ours.keys().collect::<Vec<_>>(), chart.keys().collect::<Vec<_>>(), "{name}");
    for (object, ours) in &ours {
        assert_eq!(ours, &chart[object], "{name}: {object}, ours first");
    }
    assert!(ours.len() >= 7);
}

#[test]
fn the_chart_makes_what_print_writes() {
    let Ok(helm) = std::env::var("TOMBOLO_E2E_HELM") else {
        return left_out("it needs Helm: cargo xtask test --kubernetes brings it");
    };
    let base = json!({"site": "cloud", "control": "https://control.example"});
    same(&helm, "as little as can be said", &["--namespace", "ml"], &json!({}), &base);
    let kubernetes = json!({
        "queue": "ml", "pull_policy": "Never", "pull_secrets": ["registry"], "node_selector": {"pool": "ml"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "env": {"HTTPS_PROXY": "http://proxy"}, "any_user": true,
        "workloads": true,
        "accelerators": {"a100": {"resource": "nvidia.com/gpu", "node_selector": {"gpu": "a100"}}},
        "mounts": [{"path": "/data", "read_only": true, "volume": {"nfs": {"server": "files", "path": "/x"}}}]
    });
    let file = json!({
        "labels": {"visibility": "public"}, "prices": {"cpu_hour": 0.04, "gpu_hour": {"a100": 2}}, "cpus": 8, "gpus": {"a100": 4},
        "kubernetes": kubernetes
    });
    let mut values = base.clone();
    for (name, value) in [
        ("labels", json!({"visibility": "public"})),
        ("prices", json!({"cpu_hour": 0.04, "gpu_hour": {"a100": 2}})),
        ("cpus", json!(8)),
        ("gpus", json!({"a100": 4})),
        ("kubernetes", kubernetes),
        ("image", json!("registry.example/tombolo:1")),
        ("claim", json!({"storageClass": "", "size": "1Ti", "access": "ReadWriteOnce"})),
        ("store", json!({"url": "s3://bucket/prefix", "secret": "bucket"})),
    ] {
        values[name] = value;
    }
    let more =
        ["--namespace", "ml", "--image", "registry.example/tombolo:1", "--storage-class", "", "--volume-size", "1Ti"];
    let more =
        [&more[..], &["--volume-access", "ReadWriteOnce", "--store", "s3://bucket/prefix", "--store-secret", "bucket"]]
            .concat();
    same(&helm, "all that can be said", &more, &file, &values);
    let mut values = base;
    values["claim"] = json!({"name": "there"});
    same(&helm, "a claim that is there", &["--namespace", "ml", "--claim", "there"], &json!({}), &values);
}
