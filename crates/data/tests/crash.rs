//! kill -9 of a process that adds and collects, at any moment: what it acknowledged is there, and nothing half is.

mod help;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use help::{add, noise, open, write};
use tombolo_core::{Millis, Timestamp, VersionId};
use tombolo_data::VerifyOptions;

const STORE: &str = "TOMBOLO_TEST_CRASH_STORE";
const ROLE: &str = "TOMBOLO_TEST_CRASH_ROLE";
const ROUNDS: u64 = 24;

/// What the killed process does; without the variables it is no test.
#[test]
fn child() {
    let (Ok(store), Ok(role)) = (std::env::var(STORE), std::env::var(ROLE)) else { return };
    let store = open(Path::new(&store));
    // Within the parent's directory, which outlives a kill.
    let tree = tempfile::tempdir_in(store.dir().parent().unwrap()).unwrap();
    for round in 0.. {
        let seed = u64::from(std::process::id()) * 1000 + round;
        // Half of it is shared between rounds and processes.
        write(tree.path(), "shared.bin", &noise(round % 3, 700 << 10));
        write(tree.path(), "own.bin", &noise(seed, 700 << 10));
        let version = add(&store, tree.path()).version;
        // A single write, so that a line is there whole or not at all.
        std::io::stdout().write_all(format!("ack {version}\n").as_bytes()).unwrap();
        if role == "gc" {
            // Acknowledged versions are pinned by the parent, before the next round begins.
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            store.gc(&BTreeSet::new(), Timestamp(i64::MAX), Millis(0)).unwrap();
        }
    }
}

fn spawn(store: &Path, role: &str) -> Child {
    // These tests are a module of others too.
    let child = format!("{}::child", module_path!());
    let (_, child) = child.split_once("::").unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--nocapture"])
        .env(STORE, store)
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn acked(line: &str) -> Option<VersionId> {
    line.split_once("ack ").and_then(|(_, version)| version.trim().parse().ok())
}

/// Reads acknowledgements until the time is over, kills, and reads what is left.
fn run_and_kill(store: &Path, role: &str, after: Duration) -> Vec<VersionId> {
    let mut child = spawn(store, role);
    let (pid, began) = (nix::unistd::Pid::from_raw(child.id() as i32), Instant::now());
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after.saturating_sub(began.elapsed()));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    let mut versions = Vec::new();
    let mut go_on = child.stdin.take().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Some(version) = acked(&line.unwrap()) else { continue };
        versions.push(version);
        if role == "gc" {
            let kept = open(store);
            kept.pin("acknowledged", &versions.iter().copied().collect()).unwrap();
            // The child may be dead already.
            let _ = go_on.write_all(b"\n");
        }
    }
    killer.join().unwrap();
    child.wait().unwrap();
    versions
}

/// What a power cut may leave of the index, which nobody needs: a file of it torn, lost or left from before.
fn tear_index(store: &Path, round: u64) {
    let files = std::fs::read_dir(store.join("index")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| !path.ends_with("lock")).collect();
    files.sort();
    let Some(path) = files.get(round as usize % files.len().max(1)) else { return };
    let bytes = std::fs::read(path).unwrap();
    match round % 3 {
        0 => std::fs::remove_file(path).unwrap(),
        1 => std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
        _ => std::fs::write(path, vec![0; bytes.len()]).unwrap(),
    }
}

fn check_whole(store: &Path, versions: &[VersionId]) {
    let store = open(store);
    let report = store.verify(&VerifyOptions::default()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    for version in versions {
        assert!(store.has(*version).unwrap(), "{version} was acknowledged");
    }
}

#[test]
fn killed_while_adding() {
    let temp = tempfile::tempdir().unwrap();
    let dir = &temp.path().join("store");
    let mut versions = Vec::new();
    for round in 0..ROUNDS {
        let after = Duration::from_millis(20 + round * 37 % 240);
        versions.extend(run_and_kill(dir.as_path(), "add", after));
        if round % 2 == 1 {
            tear_index(dir.as_path(), round);
        }
        check_whole(dir.as_path(), &versions);
    }
    assert!(versions.len() >= ROUNDS as usize / 2, "only {} adds were acknowledged", versions.len());
    // What the dead left behind is removed.
    let store = open(dir.as_path());
    let keep = versions.iter().copied().collect();
    store.gc(&keep, Timestamp(i64::MAX), Millis(0)).unwrap();
    for rest in ["tmp", "leases"] {
        assert_eq!(std::fs::read_dir(dir.as_path().join(rest)).unwrap().count(), 0, "{rest}");
    }
    check_whole(dir.as_path(), &versions);
}

#[test]
fn killed_while_collecting() {
    let temp = tempfile::tempdir().unwrap();
    let dir = &temp.path().join("store");
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let after = Duration::from_millis(20 + round * 53 % 300);
        let versions = run_and_kill(dir.as_path(), "gc", after);
        acknowledged += versions.len();
        // The last one may not have been pinned when a gc of its own began; it waits for the pin, so it was.
        check_whole(dir.as_path(), &versions);
    }
    assert!(acknowledged >= ROUNDS as usize / 2, "only {acknowledged} adds were acknowledged");
}

/// Two processes add to one store while a third collects it without grace: what is pinned in time is whole.
#[test]
fn several_processes_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let dir = &temp.path().join("store");
    open(dir.as_path());
    let path = dir.as_path();
    std::thread::scope(|scope| {
        let adders: Vec<_> =
            (0..2).map(|_| scope.spawn(|| run_and_kill(path, "add", Duration::from_millis(900)))).collect();
        let store = open(path);
        for _ in 0..30 {
            // Everything that has a manifest is kept; unfinished adds and their packs are what gc may get wrong.
            let keep = store.versions().unwrap().into_iter().collect();
            store.gc(&keep, Timestamp(i64::MAX), Millis(3)).unwrap();
            let report = store.verify(&VerifyOptions::default()).unwrap();
            assert!(report.is_clean(), "{report:?}");
        }
        for adder in adders {
            assert!(!adder.join().unwrap().is_empty());
        }
    });
    let report = open(path).verify(&VerifyOptions::default()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}
