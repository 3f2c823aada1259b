//! Bytes that a disk has changed: before anybody asks for them, and in the middle of a run.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::world::{World, noise, states, tree, workload};

/// Packs from this size on hold data; what is smaller is code.
const PACK_BYTES_MIN: u64 = 100_000;

/// Changes bytes in the middle of every pack with data in a site's store, as a disk does: behind everybody's back.
fn damage(site_dir: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(site_dir.join("store/packs")).unwrap() {
        let file = fs::OpenOptions::new().read(true).write(true).open(entry.unwrap().path()).unwrap();
        let length = file.metadata().unwrap().len();
        if length < PACK_BYTES_MIN {
            continue;
        }
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, length / 2).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
        file.write_all_at(&bytes, length / 2).unwrap();
        count += 1;
    }
    count
}

#[test]
fn damaged_bytes_are_found_named_and_brought_again() {
    let world = World::with_sites(&[("a", &[]), ("b", &[])]);
    let source = world.path("numbers");
    fs::create_dir(&source).unwrap();
    let text: String = (0..40_000_u64).map(|n| format!("{}\n", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    fs::write(source.join("n.txt"), &text).unwrap();
    let added = world.json(&["data", "add", "numbers", source.to_str().unwrap(), "--site", "a"]);
    let version = added["version"].as_str().unwrap().to_owned();
    // The second replica.
    world.ok(&["data", "get", "numbers", world.path("one").to_str().unwrap(), "--site", "b"]);
    assert_eq!(world.json(&["data", "where", "numbers"]), serde_json::json!(["a", "b"]));
    world.ok(&["data", "verify"]);

    assert!(damage(&world.site_dir("a")) > 0);
    let found = world.cli(&["data", "verify", "--output", "json"]);
    assert_eq!(found.code, 3, "{found}");
    assert!(found.err.contains("damaged at a\n") || found.err.contains("damaged at a"), "{found}");
    assert!(found.out.contains("n.txt") && found.out.contains(&version), "the file and version are named: {found}");

    let got = world.path("two");
    world.ok(&["data", "get", "numbers", got.to_str().unwrap(), "--site", "a"]);
    assert!(tree(&got)["n.txt"] == text.as_bytes(), "other bytes came back");
    world.ok(&["data", "verify"]);
    assert_eq!(world.json(&["data", "where", "numbers"]), serde_json::json!(["a", "b"]));
}

/// Stages at `c` that wait before each use of what comes from elsewhere.
const USES: &str = "
project: uses
data:
  many: { path: many.bin }
stages:
  first: { run: 'echo \"first 1\" >> $MARKS; until test -e $GO-1; do sleep 0.05; done; echo 1 > outputs/one/n', out: [one], site: c }
  second: { run: 'sha256sum < inputs/many/many.bin > outputs/two/sum', in: [many, one], out: [two], site: c }
  third: { run: 'echo \"third 1\" >> $MARKS; until test -e $GO-2; do sleep 0.05; done; echo 1 > outputs/three/n', in: [two], out: [three], site: c }
  fourth: { run: 'sha256sum < inputs/many/many.bin > outputs/four/sum', in: [many, three], out: [four], site: c }
";

#[test]
fn damage_in_the_middle_of_a_run_is_made_good_from_another_replica() {
    let world = World::with_sites(&[("a", &[]), ("b", &[]), ("c", &[])]);
    let dir = world.project("uses", &USES.replace("$GO", &world.path("go").display().to_string()), &[]);
    fs::write(format!("{dir}/many.bin"), noise(11, 3_000_000)).unwrap();
    let data = format!("{dir}/many.bin");
    world.ok(&["data", "add", "many", &data, "--site", "a"]);
    world.ok(&["data", "get", "many", world.path("there").to_str().unwrap(), "--site", "b"]);
    let run = world.ok(&["run", &dir, "--detach", "--site", "a"]).trim().to_owned();
    world.wait_mark("first", 1);

    // At one of the two sources, before anybody has fetched from it.
    assert!(damage(&world.site_dir("a")) > 0);
    world.let_go("go-1");
    world.wait_mark("third", 1);
    // At the destination, after it was fetched and used once.
    assert!(damage(&world.site_dir("c")) > 0);
    world.let_go("go-2");
    let view = world.wait_run(&run, &["succeeded", "failed", "stopped"]);
    assert_eq!(
        states(&view),
        "first succeeded, fourth succeeded, second succeeded, third succeeded",
        "{view:#}\n{}",
        world.logs()
    );
    let outputs = super::world::outputs(&view);
    assert_eq!(outputs["two"], outputs["four"], "the same sum of the same bytes");
    for stage in ["second", "fourth"] {
        assert_eq!(workload(&view, stage)["attempts"].as_array().unwrap().len(), 1, "{stage}: {view:#}");
    }
    // What is damaged was named where it was, and nothing that is left is.
    let log = |site: &str| fs::read_to_string(world.path(&format!("{site}.log"))).unwrap();
    assert!(log("a").contains("damaged") || log("c").contains("damaged"), "{}", world.logs());
    assert!(world.ok(&["logs", &format!("{run}/fourth")]).contains("damaged"), "{}", world.logs());
    // The source that was damaged has it whole again when it is asked for it.
    world.ok(&["data", "get", "many", world.path("here").to_str().unwrap(), "--site", "a"]);
    world.ok(&["data", "verify"]);
}

#[test]
fn damage_of_the_only_replica_ends_red_and_names_what_is_lost() {
    let world = World::with_sites(&[("a", &[]), ("b", &[])]);
    let yaml = "
project: only
data:
  single: { path: single.bin }
stages:
  wait: { run: 'echo \"wait 1\" >> $MARKS; until test -e $GO; do sleep 0.05; done; echo 1 > outputs/one/n', out: [one], site: b }
  use: { run: 'sha256sum < inputs/single/single.bin > outputs/two/sum', in: [single, one], out: [two], site: b }
  beside: { run: 'cp inputs/one/n outputs/three/', in: [one], out: [three], site: b }
";
    let dir = world.project("only", &yaml.replace("$GO", &world.path("go").display().to_string()), &[]);
    fs::write(format!("{dir}/single.bin"), noise(12, 2_000_000)).unwrap();
    let run = world.ok(&["run", &dir, "--detach", "--site", "a"]).trim().to_owned();
    world.wait_mark("wait", 1);
    assert!(damage(&world.site_dir("a")) > 0);
    world.let_go("go");
    let view = world.wait_run(&run, &["succeeded", "failed", "stopped"]);
    assert_eq!(states(&view), "beside succeeded, use failed, wait succeeded", "{view:#}\n{}", world.logs());
    let why = workload(&view, "use")["why"].as_str().unwrap().to_owned();
    assert!(why.contains("the input single") && why.contains("chunk") && why.contains("damaged"), "{why}");
    // The rest is whole: what else was made can be had, and the store takes the data anew.
    world.ok(&["data", "get", "three", world.path("three").to_str().unwrap(), "--site", "b"]);
    world.ok(&["data", "add", "single", &format!("{dir}/single.bin"), "--site", "a"]);
    let retried = world.cli(&["retry", &run]);
    assert_eq!(retried.code, 0, "{retried}\n{}", world.logs());
}
