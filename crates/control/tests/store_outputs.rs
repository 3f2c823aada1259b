//! What runs have made, by name: kept with the workload, listed in pages, and found in a database from before.

mod store_fixtures;

use serde_json::json;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use store_fixtures::*;
use tombolo_api::wire::OutputQuery;
use tombolo_control::store::sqlite::SqliteStore;
use tombolo_control::store::{NamedOutput, Store, StoreError, Write};
use tombolo_core::Timestamp;
use tombolo_core::world::RunState;

/// A run whose `make` has left `make-out`, in a state.
fn made_by(project: &str, number: u64, state: serde_json::Value, byte: u8) -> [Write; 2] {
    let id = run_id(project, number);
    let mut record = workload(&id, "make", 1, state);
    record.outputs = [(name("make-out"), made(byte))].into();
    [Write::Run(Box::new(run(&id, RunState::Succeeded))), Write::Workload(Box::new(record))]
}

fn succeeded(at: i64, cached: bool) -> serde_json::Value {
    json!({ "state": "succeeded", "at": at, "cached": cached })
}

fn named(project: &str, number: u64, byte: u8, at: i64, cached: bool) -> NamedOutput {
    let (run, version) = (run_id(project, number), version_id(byte));
    NamedOutput { run, stage: name("make"), output: name("make-out"), version, at: Timestamp(at), cached }
}

async fn filled(store: &SqliteStore) {
    let failed = json!({ "state": "failed", "at": 6, "outcome": { "failed": { "code": 1 } } });
    let runs = [
        made_by("p", 1, succeeded(11, false), 1),
        made_by("q", 1, succeeded(12, false), 3),
        made_by("p", 2, succeeded(13, true), 1),
        made_by("p", 3, succeeded(14, false), 2),
        made_by("p", 4, failed, 9),
    ];
    store.commit(runs.into_iter().flatten().collect()).await.unwrap();
}

async fn check(store: &SqliteStore) {
    let ask = async |project: Option<&str>, output: Option<&str>, after: Option<&str>, limit| {
        let (project, output) = (project.map(name), output.map(name));
        store.outputs(&OutputQuery { project, output, after: after.map(str::to_owned), limit }).await
    };
    let (p, q) = (named("p", 3, 2, 14, false), named("q", 1, 3, 12, false));
    assert_eq!(ask(None, None, None, None).await.unwrap().items, [p.clone(), q.clone()]);
    let first = ask(None, None, None, Some(1)).await.unwrap();
    assert_eq!((first.items, first.next.as_deref()), (vec![p.clone()], Some("p/make-out")));
    let second = ask(None, None, Some("p/make-out"), Some(1)).await.unwrap();
    assert_eq!((second.items, second.next), (vec![q.clone()], None));
    assert_eq!(ask(Some("q"), None, None, None).await.unwrap().items, std::slice::from_ref(&q));
    assert_eq!(ask(Some("q"), Some("use-out"), None, None).await.unwrap().items, []);
    assert_eq!(ask(None, Some("make-out"), None, None).await.unwrap().items, [p.clone(), q]);
    assert_eq!(ask(None, Some("use-out"), None, None).await.unwrap().items, []);
    assert!(matches!(ask(None, None, Some("x"), None).await, Err(StoreError::BadPage(_))));

    let of = async |after, limit| store.output(&name("p"), &name("make-out"), &page(limit, after)).await.unwrap();
    let first = of(None, 2).await;
    assert_eq!((first.items, first.next.as_deref()), (vec![p, named("p", 2, 1, 13, true)], Some("2")));
    assert_eq!(of(Some("2".to_owned()), 2).await.items, [named("p", 1, 1, 11, false)]);
}

#[tokio::test]
async fn outputs_are_listed_by_name_and_by_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("t.db")).await.unwrap();
    filled(&store).await;
    check(&store).await;
    // Written again, as records are, they are there once.
    filled(&store).await;
    check(&store).await;

    // The version goes with the last of its names: first the output's, then the dataset's.
    let known = Write::Version { id: version_id(2), record: Box::new(version(&["a"])) };
    let forget = || Write::DropVersion { version: version_id(2) };
    let dropped = async |batch| store.commit(batch).await.unwrap().dropped;
    assert_eq!(dropped(vec![known, named_as("copy", 1, 2, 1), forget()]).await, []);
    let drop = Write::DropOutput { project: name("p"), output: name("make-out"), number: 3 };
    assert_eq!(dropped(vec![drop, forget()]).await, []);
    assert_eq!(dropped(vec![unnamed_as("copy", 1, 2), forget()]).await, [version_id(2)]);
    let newest = store.outputs(&OutputQuery::default()).await.unwrap().items;
    assert_eq!(newest[0], named("p", 2, 1, 13, true));
}

#[tokio::test]
async fn a_database_from_before_names_what_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = SqliteStore::open(&path).await.unwrap();
    filled(&store).await;
    let known = [0x11, 0x22, 0x33].map(|byte| Write::Version { id: version_id(byte), record: version(&["a"]).into() });
    store.commit(known.into()).await.unwrap();
    store.close().await.unwrap();
    // As the first schema left it, with a name for what is not known any more.
    let mut before = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    let undo = "DROP TABLE outputs; DROP TABLE sketches; DROP TABLE forgotten; DROP TABLE dataset_versions; \
                DROP TABLE tags; DROP TABLE removed; DROP TABLE datasets; DROP TABLE endpoint_tokens; \
                CREATE TABLE datasets (name TEXT NOT NULL, version TEXT NOT NULL, at INTEGER NOT NULL, \
                PRIMARY KEY (name, version)) STRICT; \
                INSERT INTO datasets VALUES ('raw', replace(hex(zeroblob(32)), '0', '2'), 10), \
                ('raw', replace(hex(zeroblob(32)), '0', '1'), 30), ('raw', replace(hex(zeroblob(32)), '0', '3'), 20), \
                ('also', replace(hex(zeroblob(32)), '0', '3'), 5), ('also', replace(hex(zeroblob(32)), '0', '9'), 6); \
                PRAGMA user_version = 1;";
    sqlx::raw_sql(undo).execute(&mut before).await.unwrap();
    before.close().await.unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    check(&store).await;
    // Its datasets' versions have numbers by their age now.
    let live = store.live().await.unwrap().datasets;
    let names: Vec<_> = live.iter().map(|(name, dataset)| (name.as_str(), dataset.last)).collect();
    assert_eq!(names, [("also", 1), ("raw", 3)]);
    let numbered: Vec<_> =
        live[1].1.versions.iter().map(|(number, named)| (*number, named.version, named.at)).collect();
    let expected = [(1, 0x22, 10), (2, 0x33, 20), (3, 0x11, 30)];
    assert_eq!(numbered, expected.map(|(number, byte, at)| (number, version_id(byte), Timestamp(at))));
}
