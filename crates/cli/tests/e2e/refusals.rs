//! What is refused, how that reads, and that nothing else happens.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::world::{Done, World, wait, workload};

/// Joins without running.
fn join(world: &World, address: &str, token: &str, site: &str) -> Done {
    world.cli(&["agent", "join", address, "--token", token, "--name", site, "--no-run"])
}

#[test]
fn a_join_token_is_for_one_site_once_and_in_time() {
    let world = World::start();
    let address = world.address();
    let token = world.ok(&["site", "token"]).trim().to_owned();
    let first = join(&world, &address, &token, "one");
    assert_eq!(first.code, 0, "{first}");
    let second = join(&world, &address, &token, "two");
    assert_eq!(second.code, 2, "{second}");
    assert!(second.err.contains("token") && second.err.contains("hint:"), "{second}");

    let short = world.ok(&["site", "token", "--expires", "1s"]).trim().to_owned();
    let made = std::time::Instant::now();
    while made.elapsed() < std::time::Duration::from_millis(1_100) {
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
    let expired = join(&world, &address, &short, "three");
    assert_eq!(expired.code, 2, "{expired}");
    assert!(expired.err.contains("token"), "{expired}");
    let sites = world.json(&["site", "ls"]);
    assert_eq!(sites.as_array().unwrap().len(), 1, "only the first came in: {sites:#}");
    let audit = world.ok(&["audit", "--output", "json"]);
    assert!(audit.contains("refused") && !audit.contains(&token), "{audit}");
}

#[test]
fn a_port_in_use_is_named() {
    let world = World::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = world.path("other").display().to_string();
    let refused = world.cli(&["server", "--dir", &dir, "--listen", &address]);
    assert_eq!(refused.code, 3, "{refused}");
    assert!(refused.err.contains(&address) && refused.err.contains("hint:"), "{refused}");
    // The home still names the control plane that runs.
    world.ok(&["site", "ls"]);
}

#[test]
fn a_broken_database_is_refused_and_left_as_it_is() {
    let mut world = World::start();
    world.ok(&["token", "create", "ada"]);
    world.kill_server();
    let server = world.path("server");
    let files: Vec<_> = fs::read_dir(&server).unwrap().map(|entry| entry.unwrap().path()).collect();
    let database = files.iter().find(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3")));
    let database = database.unwrap_or_else(|| panic!("no database among {files:?}"));
    let garbage: Vec<u8> = (0..20_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    // The log beside it would heal the pages that it has; a disk that loses one file may lose it as well.
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with("-wal") || name.ends_with("-shm") {
            fs::remove_file(file).unwrap();
        }
    }
    fs::write(database, &garbage).unwrap();
    let refused = world.cli(&["server", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.code, 3, "{refused}");
    assert!(refused.err.contains(&database.display().to_string()), "{refused}");
    assert!(fs::read(database).unwrap() == garbage, "it was touched");
}

/// Whoever may add data may name any site, which is asked.
#[test]
fn a_site_is_not_said_to_have_what_it_denies() {
    let world = World::with_sites(&[("here", &[])]);
    let token = fs::read_to_string(world.path("server/admin.token")).unwrap();
    let claim = |version: &str| {
        let body = format!(
            "{{\"version\":\"{version}\",\"bytes\":1,\"files\":1,\"site\":\"here\",\"dataset\":\"made-up\",\"residency\":[]}}"
        );
        let mut stream = TcpStream::connect(world.address()).unwrap();
        write!(
            stream,
            "POST /v1/versions HTTP/1.0\r\nAuthorization: Bearer {}\r\nIdempotency-Key: {version}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            token.trim(),
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let denied = claim(&"ab".repeat(32));
    assert!(denied.contains(" 409 ") && denied.contains("here says that it does not have version"), "{denied}");
    assert_eq!(world.json(&["data", "ls"]), serde_json::json!([]));

    let file = world.path("rows.csv");
    fs::write(&file, "a\n1\n").unwrap();
    let added = world.json(&["data", "add", "real", file.to_str().unwrap()]);
    let believed = claim(added["version"].as_str().unwrap());
    assert!(believed.contains(" 201 "), "{believed}");
}

#[test]
fn a_viewer_looks_and_changes_nothing() {
    let world = World::with_sites(&[("here", &[])]);
    let dir = world.project("p", "project: p\nstages: { a: { run: 'echo \"a 1\" >> $MARKS' } }\n", &[]);
    let token = world.ok(&["token", "create", "eve", "--role", "viewer"]).trim().to_owned();
    world.ok(&["ps", "--token", &token]);
    let refused = world.cli(&["run", &dir, "--token", &token]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.err.contains("viewer") && refused.err.contains("hint:"), "{refused}");
    assert!(world.json(&["ps", "--all"]).as_array().unwrap().is_empty());
    let nobody = world.cli(&["ps", "--token", "tok-made-up"]);
    assert_eq!(nobody.code, 2, "{nobody}");
    let unknown = world.cli(&["site", "show", "mars"]);
    assert_eq!(unknown.code, 2, "{unknown}");
    assert!(unknown.err.contains("mars"), "{unknown}");
    let audit = world.ok(&["audit", "--output", "json"]);
    assert!(audit.contains("eve") && audit.contains("refused"), "{audit}");
}

#[test]
fn a_stage_for_an_unknown_site_says_so() {
    let world = World::with_sites(&[("here", &[])]);
    let dir = world.project("p", "project: p\nstages: { a: { run: 'true', site: mars } }\n", &[]);
    let told = world.cli(&["plan", &dir]);
    assert!(told.code == 2 && told.out.contains("a has no place") && told.err.contains("mars"), "{told}");
    let refused = world.cli(&["run", &dir, "--detach"]);
    assert!(refused.code == 2 && refused.err.contains("no site can run a"), "{refused}");
    assert!(refused.err.contains("here:") && refused.err.contains("--wait-for-site"), "{refused}");
    assert_eq!(world.json(&["ps"]), serde_json::json!([]), "nothing was submitted");
    let run = world.ok(&["run", &dir, "--detach", "--wait-for-site"]).trim().to_owned();
    let stage = world.wait_stage(&run, "a", &["queued"]);
    let why = wait(super::world::SOON, "the reason is told", || {
        workload(&world.view(&run), "a")["why"].as_str().map(str::to_owned)
    });
    assert!(why.contains("mars"), "{why}: {stage:#}");
    world.ok(&["stop", &run]);
    world.wait_run(&run, &["stopped"]);
}

#[test]
fn a_revoked_site_is_out_at_once() {
    let world = World::with_sites(&[("here", &[]), ("there", &[])]);
    world.ok(&["site", "revoke", "there"]);
    world.wait_site("there", "revoked");
    // Its agent hears it too, rather than knocking for ever.
    wait(super::world::SOON, "the agent knows", || {
        fs::read_to_string(world.path("there.log")).unwrap_or_default().contains("revoked").then_some(())
    });
    let yaml =
        "project: p\nstages: { a: { run: 'echo \"a $TOMBOLO_SITE\" >> $MARKS' }, b: { run: 'true', site: there } }\n";
    let dir = world.project("p", yaml, &[]);
    let run = world.submit(&dir);
    world.wait_stage(&run, "a", &["succeeded"]);
    assert_eq!(world.marks_of("a"), ["here"]);
    let why = wait(super::world::SOON, "the reason is told", || {
        workload(&world.view(&run), "b")["why"].as_str().map(str::to_owned)
    });
    assert!(why.contains("there: is "), "{why}");
}

/// What ran at a site that is revoked is ended there, and tried elsewhere.
#[test]
fn what_a_revoked_site_ran_goes_on_elsewhere() {
    let world = World::with_sites(&[("here", &[]), ("there", &[])]);
    world.ok(&["site", "set", "here", "--draining", "true"]);
    let yaml = "project: p\nstages: { a: { run: 'echo \"a $TOMBOLO_SITE\" >> $MARKS; \
                while [ $TOMBOLO_SITE = there ]; do sleep 0.05; done' } }\n";
    let dir = world.project("p", yaml, &[]);
    let run = world.ok(&["run", &dir, "--detach", "--site", "here"]).trim().to_owned();
    world.wait_mark("a", 1);
    assert_eq!(world.marks_of("a"), ["there"]);

    world.ok(&["site", "set", "here", "--draining", "false"]);
    world.ok(&["site", "revoke", "there"]);
    world.wait_run(&run, &["succeeded"]);
    assert_eq!(world.marks_of("a"), ["there", "here"]);
    wait(super::world::SOON, "the revoked site has stopped what it ran", || {
        world.shims("sleep 0.05").is_empty().then_some(())
    });
    let view = workload(&world.view(&run), "a");
    assert!(view["attempts"][0]["outcome"].as_str().unwrap().contains("was revoked"), "{view:#}");
}
