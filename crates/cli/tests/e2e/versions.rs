//! Versions of a dataset: numbered, tagged, looked at as they were, brought back after their name was taken away.

use std::fs;

use super::world::World;

/// A site, and `raw` with three versions.
fn filled() -> World {
    let world = World::with_sites(&[("here", &[])]);
    for text in ["one", "two", "three"] {
        add(&world, text);
    }
    world
}

fn add(world: &World, text: &str) {
    let file = world.path("raw.txt");
    fs::write(&file, text).unwrap();
    world.ok(&["data", "add", "raw", file.to_str().unwrap()]);
}

/// What `data get` writes, with more arguments.
fn got(world: &World, reference: &str, args: &[&str]) -> String {
    let dest = world.path("got");
    let _ = fs::remove_dir_all(&dest);
    world.ok(&[&["data", "get", reference, dest.to_str().unwrap()], args].concat());
    fs::read_to_string(dest.join("raw.txt")).unwrap()
}

#[test]
fn a_version_is_found_by_its_number_and_by_its_tag() {
    let world = filled();
    assert_eq!(got(&world, "raw@v1", &[]), "one");
    world.ok(&["data", "tag", "raw@v2", "prod"]);
    assert_eq!(got(&world, "raw@prod", &[]), "two");
    assert_eq!(got(&world, "raw", &["--at", "prod"]), "two");
    let moved = world.cli(&["data", "tag", "raw", "prod"]);
    assert!(moved.code == 2 && moved.err.contains("--move"), "{moved}");
    world.ok(&["data", "tag", "raw", "prod", "--move"]);
    assert_eq!(got(&world, "raw@prod", &[]), "three");
    let listed = world.ok(&["data", "ls"]);
    assert!(listed.contains("TAGS") && listed.contains("prod"), "{listed}");
    let shown = world.ok(&["data", "show", "raw"]);
    assert!(shown.contains("v3") && shown.contains("v1") && shown.contains("prod"), "{shown}");
    let refused = world.cli(&["data", "rm", "raw@prod"]);
    assert!(refused.code == 2 && refused.err.contains("--force"), "{refused}");
    let unknown = world.cli(&["data", "get", "raw@gold", "x"]);
    assert!(
        unknown.code == 2 && unknown.err.contains("raw has no tag gold") && unknown.err.contains("prod"),
        "{unknown}"
    );
    world.ok(&["data", "tag", "--delete", "raw", "prod"]);
    assert_eq!(world.json(&["data", "ls"])[0]["tags"], serde_json::json!({}));
    let changed = world.ok(&["data", "diff", "raw", "--at", "v1"]);
    assert!(changed.contains("~ raw.txt (3 B -> 5 B)"), "{changed}");
}

#[test]
fn what_lost_its_name_comes_back_until_it_is_collected() {
    let world = filled();
    let digest = world.json(&["data", "show", "raw@v1"])["version"]["version"].as_str().unwrap().to_owned();
    world.ok(&["data", "rm", "raw@v1"]);
    assert_eq!(world.cli(&["data", "get", "raw@v1", "x"]).code, 2);
    let removed = world.ok(&["data", "show", "raw", "--removed"]);
    assert!(removed.contains("v1") && removed.contains("removed by hand"), "{removed}");
    // By its first digits, as by its number.
    let restored = world.json(&["data", "restore", &format!("raw@{}", &digest[..8]), "--reason", "it was right"]);
    assert_eq!((&restored["number"], &restored["version"]), (&serde_json::json!(4), &serde_json::json!(digest)));
    assert_eq!(got(&world, "raw", &[]), "one");
    assert_eq!(got(&world, "raw@v4", &[]), "one");
    let shown = world.cli(&["data", "show", "raw@v4"]);
    assert!(shown.code == 0 && shown.err.contains("brought back from v1: it was right"), "{shown}");
    world.ok(&["data", "rm", "raw@v4"]);
    world.ok(&["data", "restore", "raw@v4"]);
    // It has its name again, so a collection leaves it.
    world.ok(&["data", "gc"]);
    assert_eq!(got(&world, "raw@v5", &[]), "one");
}

#[test]
fn what_no_rule_keeps_is_shown_goes_and_can_come_back() {
    let world = filled();
    world.ok(&["data", "tag", "raw@v1", "prod"]);
    let keep = ["data", "prune", "raw", "--keep", "last 1"];
    let dry = world.cli(&[&keep[..], &["--dry-run"]].concat());
    assert!(dry.code == 0 && dry.err.contains("1 of raw would lose their names, by last 1"), "{dry}");
    assert!(
        dry.out.contains("goes") && dry.out.contains("tag prod") && dry.out.contains("the newest, last 1"),
        "{dry}"
    );
    assert_eq!(world.json(&["data", "show", "raw"]).as_array().unwrap().len(), 3);
    world.ok(&keep);
    assert_eq!(world.cli(&["data", "get", "raw@v2", "x"]).code, 2);
    assert_eq!(got(&world, "raw@prod", &[]), "one");
    let removed = world.ok(&["data", "show", "raw", "--removed"]);
    assert!(removed.contains("pruned by hand, by last 1"), "{removed}");
    world.ok(&["data", "restore", "raw@v2"]);
    assert_eq!(got(&world, "raw", &[]), "two");

    // A project's rule is known once a run of it was submitted.
    let yaml = "project: p\ndata: { raw: { retain: 'last 2, daily for 30 days' } }\nstages: { a: { run: 'cat inputs/raw/raw.txt', in: [raw] } }\n";
    world.ok(&["run", &world.project("p", yaml, &[])]);
    assert_eq!(world.json(&["data", "ls"])[0]["retain"]["p"], "last 2, daily for 30 days");
    let all = world.cli(&["data", "prune", "raw", "--dry-run"]);
    assert!(all.code == 0 && all.err.contains("every version of raw stays"), "{all}");
}
