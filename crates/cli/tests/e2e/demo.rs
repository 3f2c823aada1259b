//! The demo as a newcomer runs it. It installs Python packages, so it runs only where that was asked for.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::world::{World, left_out, may_install, processes_of, wait};

/// How long the demo may take on a busy machine that has to install its packages first.
const DEMO_MAX: Duration = Duration::from_secs(600);

/// Beside another control plane, which the environment names and which it leaves alone.
#[test]
fn the_demo_ends_with_a_prediction_and_leaves_nothing() {
    if !may_install() {
        return left_out("the demo installs Python packages; TOMBOLO_E2E=1 runs it, as `cargo xtask test` does");
    }
    let other = World::with_sites(&[("here", &[])]);
    let project = other.project("other", "project: other\nstages: { wait: { run: sleep 900 } }\n", &[]);
    let run = other.submit(&project);
    other.wait_run(&run, &["active"]);

    let world = World::empty();
    let (out, err) = (world.path("demo.out"), world.path("demo.err"));
    let mut command = world.program();
    command.arg("demo").env("TOMBOLO_SERVER", format!("http://{}", other.address()));
    command.env("TOMBOLO_TOKEN", fs::read_to_string(other.path("server/admin.token")).unwrap().trim());
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut demo = command.spawn().unwrap();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    wait(DEMO_MAX, "the demo has come to its end", || {
        let over = demo.try_wait().unwrap();
        assert!(over.is_none(), "{over:?}: {}", read(&err));
        read(&err).contains("Everything keeps running").then_some(())
    });
    let said = read(&err);
    for (stage, site) in [("features", "onprem"), ("train", "cloud"), ("test", "prod"), ("predict", "prod")] {
        assert!(said.contains(&format!("{stage}: running at {site}")), "{stage} at {site}: {said}");
        assert!(said.contains(&format!("{stage} -> {site}")), "{stage} at {site} by plan: {said}");
    }
    assert!(said.contains("a prediction from prod"), "{said}");
    let printed = read(&out);
    let answer = printed.lines().find(|line| line.starts_with("{\"late_probability\"")).expect(&printed);
    let answer: Value = serde_json::from_str(answer).unwrap();
    let probabilities = numbers(&answer);
    assert!(!probabilities.is_empty() && probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{answer}");

    // It was moved there and back meanwhile, and nobody noticed: a request that fails ends the demo.
    for phase in ["at prod ", "moving to onprem ", "at onprem ", "moving back ", "at prod again "] {
        let row = printed.lines().find(|line| line.starts_with(phase)).expect(&printed);
        let counts: Vec<u64> =
            row[phase.len()..].split_whitespace().take(2).map(|word| word.parse().unwrap()).collect();
        assert!(counts[0] > 0 && counts[1] == 0, "{row}");
    }
    let moves = world.json(&["move", "ls", "predict"]);
    assert!(moves.as_array().unwrap().iter().all(|one| one["stage"] == "done" && one["method"] == "switch"), "{moves}");

    // A second terminal needs no setting.
    for (args, word) in [
        (&["ps"][..], "flights-1"),
        (&["logs", "train"], "training on"),
        (&["plan", "flights-1"], "train -> cloud"),
        (&["data", "ls"], "raw"),
        (&["site", "ls"], "onprem"),
    ] {
        let shown = world.ok(args);
        assert!(shown.contains(word), "{args:?}: {shown}");
    }
    kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).unwrap();
    let ended = wait(DEMO_MAX, "the demo has stopped", || demo.try_wait().unwrap());
    assert!(ended.success(), "{ended}: {}", read(&err));
    let left = processes_of(&world.path(""));
    assert!(left.is_empty(), "{left:?}");
    let context = world.cli(&["ps"]);
    assert!(context.err.contains("no control plane is known"), "{context}");
    assert_eq!(other.view(&run)["state"], "active", "the other control plane's run was stopped");
    other.ok(&["stop", &run]);
}

/// Every number in it.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Number(number) => number.as_f64().into_iter().collect(),
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Object(fields) => fields.values().flat_map(numbers).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => Vec::new(),
    }
}
