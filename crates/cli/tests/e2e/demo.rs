//! The demo as a newcomer runs it. It installs Python packages, so it runs only where that was asked for.

use std::process::Stdio;

use serde_json::Value;

use super::world::{Done, World, left_out, may_install, processes_of};

#[test]
fn the_demo_ends_with_a_prediction_and_leaves_nothing() {
    if !may_install() {
        return left_out("the demo installs Python packages; TOMBOLO_E2E=1 runs it, as `cargo xtask test` does");
    }
    let world = World::empty();
    let mut command = world.program();
    command.args(["demo", "--once"]).stdin(Stdio::null());
    let done = Done::of(command.output().unwrap());
    assert_eq!(done.code, 0, "{done}");
    for (stage, site) in [("features", "onprem"), ("train", "cloud"), ("test", "prod"), ("predict", "prod")] {
        assert!(done.err.contains(&format!("{stage}: running at {site}")), "{stage} at {site}: {done}");
        assert!(done.err.contains(&format!("{stage} -> {site}")), "{stage} at {site} by plan: {done}");
    }
    assert!(done.err.contains("a prediction from prod"), "{done}");
    let answer: Value = serde_json::from_str(done.out.trim().lines().last().unwrap()).unwrap();
    let probabilities = numbers(&answer);
    assert!(!probabilities.is_empty() && probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{answer}");
    let left = processes_of(&world.path(""));
    assert!(left.is_empty(), "{left:?}");
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
