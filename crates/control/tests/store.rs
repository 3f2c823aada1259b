//! Every method of the store over a real file, and every way in which the file may be unfit.

mod store_fixtures;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use store_fixtures::*;
use tombolo_api::wire::{AuditEntry, Role, TokenInfo};
use tombolo_control::store::sqlite::SqliteStore;
use tombolo_control::store::{Idempotent, Store, StoreError, TokenRecord, Write};
use tombolo_core::site::{Limit, Link};
use tombolo_core::world::{Event, PastRuns, RunState};
use tombolo_core::{Epoch, Millis, Timestamp, WorkloadId};

async fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(&dir.join("t.db")).await.unwrap()
}

fn event(project: &str, number: u64, state: &str) -> Write {
    Write::Event(Box::new(Event {
        at: Timestamp(9),
        run: run_id(project, number),
        workload: Some(name("make")),
        epoch: Epoch(2),
        state: state.to_owned(),
        site: Some(site_id("a")),
        text: None,
    }))
}

#[tokio::test]
async fn what_lives_comes_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (one, two, three) = (run_id("p", 1), run_id("p", 2), run_id("q", 7));
    let queued = json!({ "state": "queued", "since": 5 });
    let ready = json!({ "state": "ready", "site": "a", "since": 5, "address": "h:1" });
    let done = json!({ "state": "succeeded", "at": 6, "cached": false });
    let limit = Some(Limit { bytes_per_s: 70_000, hours: "08:00-18:00".parse().ok() });
    let link = Link { bytes_per_s: 1.5, latency: Millis(3), limit };
    let past = PastRuns {
        ran: [(site_id("a"), Millis(4))].into(),
        outputs: [(name("make-out"), 3)].into(),
        ..PastRuns::default()
    };
    let batch = vec![
        Write::Site(Box::new(site("a"))),
        Write::Site(Box::new(site("b"))),
        Write::Link { from: site_id("a"), to: site_id("b"), link },
        // Live by its state; over, whole; over by its state, but a service still answers.
        Write::Run(Box::new(run(&one, RunState::Active))),
        Write::Run(Box::new(run(&two, RunState::Succeeded))),
        Write::Run(Box::new(run(&three, RunState::Failed))),
        Write::Workload(Box::new(workload(&one, "make", 1, done.clone()))),
        Write::Workload(Box::new(workload(&one, "use", 0, queued))),
        Write::Workload(Box::new(workload(&two, "make", 1, done.clone()))),
        Write::Workload(Box::new(workload(&three, "make", 4, ready))),
        Write::Workload(Box::new(workload(&three, "use", 1, done))),
        Write::Version { id: version_id(1), record: Box::new(version(&["a", "b"])) },
        Write::Sketch { version: version_id(1), sketch: Box::new(sketch(1)) },
        // The first one stays.
        Write::Sketch { version: version_id(1), sketch: Box::new(sketch(5)) },
        Write::Sketch { version: version_id(0), sketch: Box::new(sketch(700)) },
        Write::History { project: name("p"), workload: name("make"), past: past.clone() },
        event("p", 1, "active"),
    ];
    assert_eq!(store.commit(batch).await.unwrap().last_event, 1);
    store.close().await.unwrap();

    let store = open(dir.path()).await;
    let live = store.live().await.unwrap();
    assert_eq!(live.sites, [site("a"), site("b")]);
    assert_eq!(live.links, [(site_id("a"), site_id("b"), link)]);
    assert_eq!(live.runs, [run(&one, RunState::Active), run(&three, RunState::Failed)]);
    let workloads: Vec<_> = live.workloads.iter().map(|workload| workload.id.to_string()).collect();
    assert_eq!(workloads, ["p-1/make", "p-1/use", "q-7/make", "q-7/use"]);
    assert_eq!(live.versions, [(version_id(1), version(&["a", "b"]))]);
    // In the order in which they came.
    assert_eq!(live.sketches, [(version_id(1), sketch(1)), (version_id(0), sketch(700))]);
    assert_eq!(live.history, [(name("p"), name("make"), past)]);
    assert_eq!(live.counters, [(name("p"), 2), (name("q"), 7)]);
    assert_eq!(live.last_event, 1);
}

#[tokio::test]
async fn runs_are_found_and_listed_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    // More than the largest statement takes, and not a multiple of any.
    let batch = (1..=150).map(|number| Write::Run(Box::new(run(&run_id("p", number), RunState::Active)))).collect();
    store.commit(batch).await.unwrap();
    let other = run_id("q", 1);
    let stage = workload(&other, "make", 3, json!({ "state": "waiting" }));
    let placed = json!({ "state": "placed", "site": "a", "since": 1 });
    let batch = vec![
        Write::Run(Box::new(run(&other, RunState::Active))),
        Write::Workload(Box::new(stage.clone())),
        Write::Workload(Box::new(workload(&run_id("p", 1), "make", 2, placed))),
    ];
    store.commit(batch).await.unwrap();
    // Written again, it keeps its place.
    store.commit(vec![Write::Run(Box::new(run(&run_id("p", 150), RunState::Stopped)))]).await.unwrap();

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let listed = store.runs(Some(&name("p")), &page(60, after)).await.unwrap();
        seen.extend(listed.items.into_iter().map(|run| run.id.number()));
        after = listed.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=150).rev().collect::<Vec<_>>());
    let all = store.runs(None, &page(2, None)).await.unwrap();
    assert_eq!(all.items, [run(&other, RunState::Active), run(&run_id("p", 150), RunState::Stopped)]);
    let bad = store.runs(None, &page(2, Some("x".into()))).await;
    assert!(matches!(bad, Err(StoreError::BadPage(place)) if place == "x"));

    assert_eq!(store.run(&other).await.unwrap(), Some((run(&other, RunState::Active), vec![stage.clone()])));
    assert_eq!(store.run(&run_id("p", 999)).await.unwrap(), None);
    assert_eq!(store.workload(&stage.id).await.unwrap(), Some(stage.clone()));
    let absent = WorkloadId::new(other.clone(), name("absent"));
    assert_eq!(store.workload(&absent).await.unwrap(), None);
    let here = WorkloadId::new(run_id("p", 1), name("make"));
    let mut epochs = store.epochs(vec![stage.id.clone(), absent, here.clone()]).await.unwrap();
    epochs.sort();
    assert_eq!(epochs, [(here, Epoch(2), false), (stage.id, Epoch(3), true)]);
}

#[tokio::test]
async fn events_are_numbered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let words = ["waiting", "queued", "placed"];
    let last = async |batch| store.commit(batch).await.unwrap().last_event;
    assert_eq!(last(words.map(|word| event("p", 1, word)).into()).await, 3);
    assert_eq!(last(vec![event("p", 2, "active")]).await, 4);
    assert_eq!(last(vec![Write::Site(Box::new(site("a")))]).await, 4, "no new event");
    let one = store.events(Some(&run_id("p", 1)), 1, 100).await.unwrap();
    let seen: Vec<_> = one.iter().map(|event| (event.number, event.state.as_str(), event.epoch)).collect();
    assert_eq!(seen, [(2, "queued", 2), (3, "placed", 2)]);
    assert_eq!((one[0].workload.as_deref(), one[0].site.as_deref()), (Some("make"), Some("a")));
    let all: Vec<_> = store.events(None, 2, 1).await.unwrap().into_iter().map(|event| event.number).collect();
    assert_eq!(all, [3]);
}

#[tokio::test]
async fn cache_entries_are_found_by_their_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let outputs = BTreeMap::from([(name("make-out"), made(3))]);
    let made_by = WorkloadId::new(run_id("p", 1), name("make"));
    let entry = |key: &str, outputs: &BTreeMap<_, _>| Write::Cached {
        key: key.to_owned(),
        made_by: made_by.clone(),
        outputs: outputs.clone(),
    };
    store.commit(vec![entry("k", &BTreeMap::new()), entry("k", &outputs)]).await.unwrap();
    let found = store.cached(vec!["j".into(), "k".into()]).await.unwrap();
    assert_eq!(found, BTreeMap::from([("k".to_owned(), outputs)]));
}

fn token(id: &str, role: Role) -> TokenRecord {
    let info = TokenInfo { id: id.into(), name: format!("n-{id}"), role, created: 1, expires: 2, revoked: false };
    TokenRecord { info, hash: format!("h-{id}") }
}

#[tokio::test]
async fn access_is_kept_revoked_and_spent() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    assert!(!store.has_token(Role::Admin).await.unwrap());
    let batch = vec![
        Write::Token(Box::new(token("1", Role::Admin))),
        Write::Token(Box::new(token("2", Role::Viewer))),
        Write::RevokeToken { id: "2".into() },
        Write::JoinToken { hash: "j".into(), site: Some(site_id("a")), expires: Timestamp(50) },
        Write::JoinToken { hash: "k".into(), site: None, expires: Timestamp(60) },
    ];
    store.commit(batch).await.unwrap();
    assert!(store.has_token(Role::Admin).await.unwrap());
    assert!(!store.has_token(Role::Member).await.unwrap());
    assert_eq!(store.token("h-1").await.unwrap(), Some(token("1", Role::Admin).info));
    assert_eq!(store.token("1").await.unwrap(), None);
    let listed = store.tokens(&page(1, None)).await.unwrap();
    assert_eq!(listed.items, [TokenInfo { revoked: true, ..token("2", Role::Viewer).info }]);
    let rest = store.tokens(&page(1, listed.next)).await.unwrap();
    assert_eq!((rest.items[0].id.as_str(), rest.next), ("1", None));

    assert_eq!(store.join_token("j").await.unwrap(), Some((Some(site_id("a")), Timestamp(50))));
    assert_eq!(store.join_token("k").await.unwrap(), Some((None, Timestamp(60))));
    store.commit(vec![Write::SpendJoinToken { hash: "k".into() }]).await.unwrap();
    assert_eq!(store.join_token("k").await.unwrap(), None);
    store.commit(vec![Write::Prune { before: Timestamp(51) }]).await.unwrap();
    assert_eq!(store.join_token("j").await.unwrap(), None);
}

#[tokio::test]
async fn secrets_are_kept_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let secret = |text: &str, byte| Write::Secret { name: name(text), sealed: vec![byte; 3], updated: Timestamp(4) };
    store.commit(vec![secret("a", 1), secret("b", 2), secret("a", 9)]).await.unwrap();
    assert_eq!(store.secret(&name("a")).await.unwrap(), Some(vec![9; 3]));
    let listed = store.secrets(&page(1, None)).await.unwrap();
    assert_eq!((listed.items[0].name.as_str(), listed.items[0].updated), ("a", 4));
    assert_eq!(store.secrets(&page(1, listed.next)).await.unwrap().items[0].name, "b");
    store.commit(vec![Write::DropSecret { name: name("a") }]).await.unwrap();
    assert_eq!(store.secret(&name("a")).await.unwrap(), None);
}

#[tokio::test]
async fn the_audit_log_only_grows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let entry = |number, what: &str| AuditEntry {
        number,
        at: 3,
        who: "ada".into(),
        what: what.into(),
        on: "p-1".into(),
        outcome: "done".into(),
        detail: Some("why".into()),
    };
    let batch = ["a", "b", "c"].map(|what| Write::Audit(Box::new(entry(0, what))));
    store.commit(batch.into()).await.unwrap();
    let listed = store.audit(&page(2, None)).await.unwrap();
    assert_eq!(listed.items, [entry(3, "c"), entry(2, "b")]);
    assert_eq!(store.audit(&page(2, listed.next)).await.unwrap().items, [entry(1, "a")]);
    store.close().await.unwrap();

    for sql in ["UPDATE audit SET who = 'eve'", "DELETE FROM audit"] {
        let error = raw(&dir.path().join("t.db"), sql).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
}

async fn raw(path: &Path, sql: &'static str) -> Result<(), sqlx::Error> {
    use sqlx::Connection;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
    sqlx::raw_sql(sql).execute(&mut connection).await?;
    connection.close().await
}

#[tokio::test]
async fn answers_to_creates_are_kept_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let answer = |key: &str, body: &str, at| Write::Idempotent {
        token: "t".into(),
        key: key.into(),
        request_hash: "r".into(),
        status: 201,
        body: body.into(),
        at: Timestamp(at),
    };
    store.commit(vec![answer("k", "first", 10), answer("k", "second", 11), answer("l", "old", 5)]).await.unwrap();
    let kept = Some(Idempotent { request_hash: "r".into(), status: 201, body: "first".into() });
    assert_eq!(store.idempotent("t", "k").await.unwrap(), kept);
    assert_eq!(store.idempotent("u", "k").await.unwrap(), None);
    store.commit(vec![Write::Prune { before: Timestamp(10) }]).await.unwrap();
    assert_eq!(store.idempotent("t", "l").await.unwrap(), None);
    assert_eq!(store.idempotent("t", "k").await.unwrap(), kept);
}

#[tokio::test]
async fn a_batch_is_written_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    // The second token has the first one's hash, which the database refuses.
    let twin = TokenRecord { hash: "h-1".into(), ..token("2", Role::Viewer) };
    let batch = vec![
        Write::Site(Box::new(site("a"))),
        Write::Token(Box::new(token("1", Role::Admin))),
        Write::Token(Box::new(twin)),
    ];
    assert!(matches!(store.commit(batch).await, Err(StoreError::Failed(_))));
    assert_eq!(store.live().await.unwrap().sites, []);
    store.commit(vec![Write::Site(Box::new(site("b")))]).await.unwrap();
    assert_eq!(store.live().await.unwrap().sites, [site("b")]);
}

/// Opens a file that is unfit, and sees that it is named, refused and left alone.
async fn check_refused(path: &Path, why: &str) {
    let before = fs::read(path).ok();
    let error = SqliteStore::open(path).await.err().expect("refused");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains(why) && text.contains("hint:"), "{text}");
    assert!(fs::read(path).ok() == before, "{} was changed", path.display());
}

#[tokio::test]
async fn unfit_files_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| dir.path().join(text);
    fs::write(file("garbage"), "certainly no database, though long enough to be read as one".repeat(100)).unwrap();
    check_refused(&file("garbage"), "not a database").await;
    fs::write(file("empty"), "").unwrap();
    check_refused(&file("empty"), "cut short").await;
    fs::create_dir(file("directory")).unwrap();
    check_refused(&file("directory"), "directory").await;
    raw(&file("foreign"), "CREATE TABLE theirs (x)").await.unwrap();
    check_refused(&file("foreign"), "another program").await;
    fs::write(file("lost-wal"), "").unwrap();
    check_refused(&file("lost"), "write-ahead log").await;
    check_refused(&file("no/such/directory"), "unable to open").await;
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let batch = (1..=500).map(|number| Write::Run(Box::new(run(&run_id("p", number), RunState::Active)))).collect();
    store.commit(batch).await.unwrap();
    store.close().await.unwrap();
    let whole = fs::read(&path).unwrap();

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    check_refused(&path, "malformed").await;
    let mut scribbled = whole.clone();
    let middle = whole.len() / 2;
    scribbled[middle..middle + 20_000].fill(0xa5);
    fs::write(&path, &scribbled).unwrap();
    check_refused(&path, "damaged").await;
    fs::write(&path, &whole).unwrap();
    assert_eq!(SqliteStore::open(&path).await.unwrap().live().await.unwrap().runs.len(), 500);
}

#[tokio::test]
async fn an_unreadable_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    SqliteStore::open(&path).await.unwrap().close().await.unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything, but no directory as a file.
    if fs::File::open(&path).is_err() {
        check_refused(&path, "ermission denied").await;
    }
    let path = dir.path().join("directory.db");
    fs::create_dir(&path).unwrap();
    let why = SqliteStore::open(&path).await.err().unwrap().to_string();
    assert!(why.contains("irectory") && why.contains("nothing was changed"), "{why}");
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    SqliteStore::open(&path).await.unwrap().close().await.unwrap();
    raw(&path, "PRAGMA user_version = 99").await.unwrap();
    check_refused(&path, "newer version of Tombolo (schema 99, this one knows 6)").await;
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.db.draft"), "half a database").unwrap();
    let store = open(dir.path()).await;
    assert_eq!(store.live().await.unwrap().sites, []);
}
