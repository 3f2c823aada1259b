//! Limits of links: transfers stay within them, and go on as fast as they can once they are lifted.

use std::fs;

use super::world::{SOON, World, wait, workload};

const BYTES: usize = 3 << 20;
/// A third of a second's worth is read ahead, and clocks are read at different moments.
const LEAST_MS: i64 = 2_000;

#[test]
fn a_transfer_stays_within_the_limit_of_its_link() {
    let world = World::with_sites(&[("here", &[]), ("there", &[])]);
    world.ok(&["site", "link", "here", "there", "--limit", "1MiB/s"]);
    let shown = world.json(&["site", "show", "there"]);
    assert_eq!(shown["links"][0]["limit_bytes_per_s"], 1 << 20, "{shown}");
    let data = world.path("data");
    let run = |seed: u8| {
        let mut bytes = vec![0; BYTES];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        fs::write(&data, bytes).unwrap();
        world.ok(&["data", "add", "d", data.to_str().unwrap(), "--site", "here"]);
        let yaml = "project: p\ndata: { d: {} }\nstages: { a: { run: 'wc -c inputs/d/*', in: [d], site: there } }\n";
        let id = world.submit(&world.project("p", yaml, &[]));
        world.wait_run(&id, &["succeeded"]);
        assert!(workload(&world.view(&id), "a")["attempts"][0]["bytes_in"].as_u64() > Some(BYTES as u64 / 2));
        let lines = world.ok(&["events", &id, "--output", "json"]);
        let events: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let at = |state: &str| {
            let mut events = events.iter();
            events.find(|event| event["workload"] == "a" && event["state"] == state).unwrap()["at"].as_i64().unwrap()
        };
        at("running") - at("placed")
    };
    let limited = run(1);
    assert!(limited >= LEAST_MS, "{limited} ms for {BYTES} bytes at 1 MiB/s");
    world.ok(&["site", "link", "here", "there", "--limit", "none"]);
    let free = run(2);
    assert!(free < limited, "{free} ms without a limit, {limited} ms with it");
}

/// Somebody who waits for data is told how much has come, how fast, and for how long still.
#[test]
fn what_comes_is_told_with_its_rate_and_the_time_left() {
    let world = World::with_sites(&[("here", &[]), ("there", &[])]);
    world.ok(&["site", "link", "here", "there", "--limit", "256KiB/s"]);
    let data = world.path("data");
    let mut bytes = vec![0; 32 << 20];
    blake3::Hasher::new().update(&[9]).finalize_xof().fill(&mut bytes);
    fs::write(&data, bytes).unwrap();
    world.ok(&["data", "add", "d", data.to_str().unwrap(), "--site", "here"]);
    let yaml = "project: p\ndata: { d: {} }\nstages: { a: { run: 'true', in: [d], site: there } }\n";
    let id = world.submit(&world.project("p", yaml, &[]));
    let moving = wait(SOON, "the transfer is seen", || {
        let shown = world.json(&["ps", &id]);
        let moving = &shown[0]["workloads"][0]["moving"];
        moving["left_ms"].is_u64().then(|| moving.clone())
    });
    let number = |name: &str| moving[name].as_u64().unwrap();
    assert_eq!(number("total_bytes"), 32 << 20);
    assert!(number("done_bytes") < 32 << 20 && number("bytes_per_s") > 0, "{moving:#}");
    // Two minutes at that rate; the first seconds take what the limit allows ahead.
    assert!(number("left_ms") > 1_000, "{moving:#}");
    let text = world.ok(&["ps", &id]);
    assert!(text.contains("comes: ") && text.contains(" of 32 MiB, ") && text.contains("/s, "), "{text}");
    assert!(text.contains(" left"), "{text}");
    world.ok(&["stop", &id]);
    world.wait_run(&id, &["stopped"]);
    let over = world.json(&["ps", &id]);
    assert!(over[0]["workloads"][0]["moving"].is_null(), "{over:#}");
}
