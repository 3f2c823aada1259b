//! A newcomer's wrong moves, each answered with what happened, why and what to do next.

use std::fs;

use super::world::World;

/// Golden sessions as in `tests/cli.rs`, though with a control plane that answers.
#[test]
fn golden_sessions_with_a_control_plane() {
    let world = World::start();
    let token = fs::read_to_string(world.path("server/admin.token")).unwrap();
    trycmd::TestCases::new()
        .case("tests/cmd/served/*.trycmd")
        .env("COLUMNS", "110")
        .env("TOMBOLO_HOME", "nobody")
        .env("TOMBOLO_SERVER", format!("http://{}", world.address()))
        .env("TOMBOLO_TOKEN", token.trim())
        .env("TOMBOLO_LOG", "off");
}

#[test]
fn code_that_is_mostly_something_else_is_pointed_at() {
    let world = World::with_sites(&[("here", &[])]);
    let yaml = "project: junk\nstages: { a: { run: 'ls > outputs/names/names', out: [names] } }\n";
    let dir = world.project("junk", yaml, &[]);
    fs::File::create(format!("{dir}/old.bin")).unwrap().set_len(300 << 20).unwrap();
    let ran = world.cli(&["run", &dir]);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(ran.err.contains("hint:") && ran.err.contains(".tomboloignore"), "{ran}");
    fs::write(format!("{dir}/.tomboloignore"), "old.bin\n").unwrap();
    let ran = world.cli(&["run", &dir]);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(!ran.err.contains("hint:"), "{ran}");
    let got = world.path("got");
    world.ok(&["data", "get", "names", got.to_str().unwrap()]);
    let names = fs::read_to_string(got.join("names")).unwrap();
    assert!(!names.contains("old.bin"), "{names}");
}
