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
    for (byte, names) in [(1, 2), (2, 1), (9, 0)] {
        assert_eq!(store.names(&version_id(byte)).await.unwrap(), names, "{byte}");
    }
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

    let at = Timestamp(1);
    let also = Write::Dataset { name: name("copy"), version: version_id(2), at };
    store.commit(vec![also]).await.unwrap();
    assert_eq!(store.names(&version_id(2)).await.unwrap(), 2);
    let drop = Write::DropOutput { project: name("p"), output: name("make-out"), number: 3 };
    store.commit(vec![drop]).await.unwrap();
    assert_eq!(store.names(&version_id(2)).await.unwrap(), 1);
    let newest = store.outputs(&OutputQuery::default()).await.unwrap().items;
    assert_eq!(newest[0], named("p", 2, 1, 13, true));
}

#[tokio::test]
async fn a_database_from_before_names_what_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = SqliteStore::open(&path).await.unwrap();
    filled(&store).await;
    store.close().await.unwrap();
    // As the first schema left it.
    let mut before = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    let undo = "DROP TABLE outputs; DROP INDEX datasets_by_version; DROP TABLE sketches; DROP TABLE forgotten; \
                PRAGMA user_version = 1;";
    sqlx::raw_sql(undo).execute(&mut before).await.unwrap();
    before.close().await.unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    check(&store).await;
}
