//! kill -9 of a writer at any moment: what was acknowledged is there, and batches are whole.

mod store_fixtures;

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use store_fixtures::*;
use tombolo_control::store::sqlite::SqliteStore;
use tombolo_control::store::{Store, Write};
use tombolo_core::Timestamp;

/// Where the child writes; set only in the child.
const DIR: &str = "STORE_KILL_DIR";
/// Writes of one batch: each of it has the batch's number in its name.
const WRITES: u64 = 40;

/// Not a test by itself: the other one starts it as a process of its own, and kills it.
#[tokio::test]
async fn child_that_commits_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = SqliteStore::open(&Path::new(&dir).join("t.db")).await.unwrap();
    for number in 0.. {
        let secret = |part| Write::Secret {
            name: name(&format!("{number}-{part}")),
            sealed: vec![7; 500],
            updated: Timestamp(number),
        };
        store.commit((0..WRITES).map(secret).collect()).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nacknowledged {number}").unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    // Different moments within a commit, and of the log's folding into the database.
    for after in [1, 3, 30, 77] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_commits_until_it_is_killed", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some(number) = line.strip_prefix("acknowledged ") else { continue };
            let number: u64 = number.parse().unwrap();
            acknowledged = Some(number);
            if number == after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let acknowledged = acknowledged.expect("the child has written");
        assert!(acknowledged >= after);

        let store = SqliteStore::open(&dir.path().join("t.db")).await.unwrap();
        let mut found = std::collections::BTreeMap::<u64, u64>::new();
        let mut after = None;
        loop {
            let listed = store.secrets(&page(500, after)).await.unwrap();
            for secret in &listed.items {
                let (number, _) = secret.name.split_once('-').unwrap();
                *found.entry(number.parse().unwrap()).or_default() += 1;
            }
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        for number in 0..=acknowledged {
            assert_eq!(found.get(&number), Some(&WRITES), "batch {number} was acknowledged");
        }
        assert!(found.values().all(|writes| *writes == WRITES), "half a batch: {found:?}");
    }
}
