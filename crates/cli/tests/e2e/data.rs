//! Bytes that a disk has changed, and a disk that is full.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::world::{World, tree};

/// Changes bytes in the middle of every pack of a site's store.
fn damage(site_dir: &Path) -> usize {
    let packs = site_dir.join("store/packs");
    let mut count = 0;
    for entry in fs::read_dir(packs).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        for byte in &mut bytes[middle..middle + 8] {
            *byte ^= 0x5a;
        }
        fs::write(&path, bytes).unwrap();
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

/// A file system of its own that is gone with the test.
struct Mount(std::path::PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_as_such() {
    let mut world = World::with_sites(&[("roomy", &[])]);
    let dir = world.site_dir("tight");
    fs::create_dir_all(&dir).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&dir).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: no small file system can be mounted here: {mounted:?}");
        eprintln!("skipped: no small file system can be mounted here");
        return;
    }
    let mount = Mount(dir);
    world.join("tight", &[]);
    let yaml = "
project: big
stages:
  write: { run: 'echo \"write $TOMBOLO_EPOCH\" >> $MARKS; head -c 32000000 /dev/urandom > outputs/out/x', out: [out], site: tight }
  small: { run: 'echo 1 > outputs/ok/x', out: [ok], site: roomy }
";
    let project = world.project("big", yaml, &[]);
    let ran = world.cli(&["run", &project, "--site", "roomy"]);
    assert_eq!(ran.code, 1, "{ran}");
    assert!(ran.err.to_lowercase().contains("space"), "{ran}");
    // The site is still one: what fits runs there.
    let yaml = "project: little\nstages: { a: { run: 'echo 1 > outputs/b/x', out: [b], site: tight } }\n";
    let project = world.project("little", yaml, &[]);
    let ran = world.cli(&["run", &project, "--site", "roomy"]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
    // First, or the world's directory could not be removed.
    drop(mount);
}
