//! Files that are printed while they come from another site.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};

use super::world::{World, noise};

const BYTES: usize = 4 << 20;
/// So that most of it is still to come when the first is read.
const LIMIT: &str = "1MiB/s";

fn cat(world: &World, args: &[&str]) -> Child {
    let mut command = world.program();
    command.args(["data", "cat"]).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_file_is_printed_while_it_comes() {
    let world = World::with_sites(&[("here", &[]), ("there", &[])]);
    world.ok(&["site", "link", "here", "there", "--limit", LIMIT]);
    let data = world.path("data.bin");
    let bytes = noise(5, BYTES);
    fs::write(&data, &bytes).unwrap();
    let add = |name: &str, more: &[&str]| {
        world.ok(&[&["data", "add", name, data.to_str().unwrap(), "--site", "here"], more].concat());
    };
    add("d", &[]);
    let mut printing = cat(&world, &["d", "--site", "there"]);
    let mut stdout = printing.stdout.take().unwrap();
    let mut first = vec![0; 64 << 10];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(world.json(&["data", "where", "d"]), serde_json::json!(["here"]), "it had all come before");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert!([first, rest].concat() == bytes, "other bytes were printed");
    assert!(printing.wait().unwrap().success());
    world.ok(&["site", "link", "here", "there", "--limit", "none"]);
    // The site has it now, and it is read there.
    let done = cat(&world, &["d", "data.bin", "--site", "there"]).wait_with_output().unwrap();
    assert!(done.status.success() && done.stdout == bytes);

    // Whoever reads only the beginning is no failure.
    let mut cut = cat(&world, &["d"]);
    cut.stdout.take().unwrap().read_exact(&mut [0; 100]).unwrap();
    let cut = cut.wait_with_output().unwrap();
    assert_eq!((cut.status.code(), String::from_utf8_lossy(&cut.stderr).as_ref()), (Some(0), ""));

    // What may not be there isn't brought there, and the rule is named.
    fs::write(&data, noise(6, BYTES)).unwrap();
    add("kept", &["--keep-at", "here"]);
    let refused = cat(&world, &["kept", "--site", "there"]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{said}");
    assert!(said.contains("may only be at here"), "{said}");
    let none = cat(&world, &["d", "nothing.bin"]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&none.stderr);
    assert!(none.status.code() == Some(2) && said.contains("has no file"), "{said}");
}
