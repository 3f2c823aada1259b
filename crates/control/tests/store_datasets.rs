//! Names in the store: numbers, tags, what lost its name; and that a version goes only where nothing names it.

mod store_fixtures;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::poll;
use store_fixtures::*;
use tombolo_control::engine::Engine;
use tombolo_control::store::sqlite::SqliteStore;
use tombolo_control::store::{Store, StoreError, Write};
use tombolo_core::sync::Report;
use tombolo_core::world::{By, Dataset, Naming, Refusal, Submission, Tagged, Which};
use tombolo_core::{Tag, Timestamp};

async fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(&dir.join("t.db")).await.unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::new(text).unwrap()
}

fn tagged(dataset: &str, word: &str, byte: u8) -> Naming {
    let tagged = Tagged { version: version_id(byte), at: Timestamp(3), by: "ada".to_owned() };
    Naming::Tagged { dataset: name(dataset), tag: tag(word), tagged }
}

#[tokio::test]
async fn names_tags_and_rules_come_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let rules = BTreeMap::from([(name("p"), "last 2, daily for 30 days".parse().unwrap())]);
    let batch = vec![
        Write::Dataset { name: name("x"), last: 3, rules: BTreeMap::new() },
        named_as("x", 1, 1, 10),
        named_as("x", 2, 2, 20),
        named_as("x", 3, 1, 30),
        Write::Dataset { name: name("x"), last: 3, rules: rules.clone() },
        Write::Naming(Box::new(tagged("x", "prod", 2))),
        Write::Naming(Box::new(tagged("x", "prod", 1))),
        Write::Naming(Box::new(tagged("x", "gone", 1))),
        Write::Naming(Box::new(Naming::Untagged { dataset: name("x"), tag: tag("gone") })),
        unnamed_as("x", 2, 2),
        Write::Dataset { name: name("empty"), last: 7, rules: BTreeMap::new() },
    ];
    store.commit(batch).await.unwrap();
    store.close().await.unwrap();

    let store = open(dir.path()).await;
    let Naming::Tagged { tagged, .. } = tagged("x", "prod", 1) else { unreachable!() };
    let expected = Dataset {
        last: 3,
        versions: BTreeMap::from([(1, named(1, 10)), (3, named(1, 30))]),
        tags: BTreeMap::from([(tag("prod"), tagged)]),
        rules,
    };
    let live = store.live().await.unwrap().datasets;
    assert_eq!(live, [(name("empty"), Dataset { last: 7, ..Dataset::default() }), (name("x"), expected)]);
    let removed = store.removed(&name("x"), &page(5, None)).await.unwrap();
    let seen: Vec<_> = removed.items.iter().map(|(number, gone)| (*number, gone.named.version, gone.at)).collect();
    assert_eq!((seen, removed.next), (vec![(2, version_id(2), Timestamp(50))], None));
    assert!(store.removed(&name("y"), &page(5, None)).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn what_lost_its_name_is_remembered_up_to_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let batch = (1..=1_005).flat_map(|number| [named_as("x", number, 1, 1), unnamed_as("x", number, 1)]).collect();
    store.commit(batch).await.unwrap();
    store.commit(vec![named_as("y", 1, 1, 1), unnamed_as("y", 1, 1)]).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let listed = store.removed(&name("x"), &page(400, after)).await.unwrap();
        seen.extend(listed.items.into_iter().map(|(number, _)| number));
        after = listed.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (6..=1_005).rev().collect::<Vec<_>>());
    assert_eq!(store.removed(&name("y"), &page(5, None)).await.unwrap().items.len(), 1);
    let bad = store.removed(&name("x"), &page(5, Some("x".to_owned()))).await;
    assert!(matches!(bad, Err(StoreError::BadPage(_))));
}

#[tokio::test]
async fn a_version_is_dropped_only_where_nothing_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let known = |byte: u8| Write::Version { id: version_id(byte), record: Box::new(version(&["a", "b"])) };
    let forget = |byte: u8| Write::DropVersion { version: version_id(byte) };
    let dropped = async |batch| store.commit(batch).await.unwrap().dropped;
    // Also where the name comes after it in the batch.
    let batch = vec![known(1), known(2), forget(1), named_as("x", 1, 1, 10), named_as("x", 2, 2, 20)];
    assert_eq!(dropped(batch).await, []);
    assert_eq!(store.version(&version_id(2)).await.unwrap(), Some(version(&["a", "b"])));
    let sketched = Write::Sketch { version: version_id(2), sketch: Box::new(sketch(2)) };
    assert_eq!(dropped(vec![named_as("y", 1, 2, 20), sketched, unnamed_as("x", 2, 2), forget(2)]).await, []);
    assert_eq!(dropped(vec![forget(2), unnamed_as("y", 1, 2)]).await, [version_id(2)]);
    assert_eq!(store.live().await.unwrap().sketches, []);
    assert_eq!(store.versions().await.unwrap(), [version_id(1)]);
    assert_eq!(store.version(&version_id(2)).await.unwrap(), None);
    assert_eq!(dropped(vec![forget(2)]).await, [], "it is gone already");
}

/// A name is taken away and another given, in one batch, in both orders: the version is still there, also in the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_named_anew_while_its_name_is_removed_stays() {
    for named_first in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(open(dir.path()).await);
        let engine = Engine::start(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
        let by = |at| By { who: "ada", at };
        let joined = engine.change(move |world, now| {
            world.join(site("a"))?;
            world.add_version(version_id(1), version(&["a"]), &site_id("a"))?;
            world.report(&site_id("a"), &Report::default(), now);
            world.name_version(&name("x"), version_id(1), None, by(now))?;
            Ok::<_, Refusal>(((), vec![]))
        });
        joined.await.unwrap().unwrap();

        // The engine is held up until both changes wait for it, so that they come in one batch.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let mut held = std::pin::pin!(engine.change(move |_, _| {
            wait.recv().unwrap();
            Ok::<_, Refusal>(((), vec![]))
        }));
        assert!(poll!(&mut held).is_pending());
        let remove = engine.change(move |world, now| {
            let version = world.unname(&name("x"), Which::Number(1), false, "removed by hand", by(now))?;
            Ok::<_, Refusal>((version, vec![]))
        });
        let add = engine.change(move |world, now| {
            world.add_version(version_id(1), version(&["a"]), &site_id("a"))?;
            world.name_version(&name("y"), version_id(1), None, by(now))?;
            Ok::<_, Refusal>((version_id(1), vec![]))
        });
        let (mut remove, mut add) = (std::pin::pin!(remove), std::pin::pin!(add));
        if named_first {
            assert!(poll!(&mut add).is_pending() && poll!(&mut remove).is_pending());
        } else {
            assert!(poll!(&mut remove).is_pending() && poll!(&mut add).is_pending());
        }
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        remove.await.unwrap().unwrap();
        add.await.unwrap().unwrap();
        assert!(store.version(&version_id(1)).await.unwrap().is_some(), "named first: {named_first}");
        assert!(engine.look(|world, _| world.versions.contains_key(&version_id(1))).await.unwrap());

        // With the last name it goes, from both.
        let removed = engine.change(move |world, now| {
            let version = world.unname(&name("y"), Which::Version(version_id(1)), false, "removed by hand", by(now))?;
            Ok::<_, Refusal>((version, vec![]))
        });
        assert_eq!(removed.await.unwrap().unwrap(), version_id(1));
        assert_eq!(store.version(&version_id(1)).await.unwrap(), None);
        assert!(!engine.look(|world, _| world.versions.contains_key(&version_id(1))).await.unwrap());
    }
}

/// What a live run made loses its name: the version goes when the run is over, and not before.
#[tokio::test]
async fn a_version_that_a_live_run_needs_goes_when_that_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()).await);
    let engine = Engine::start(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
    let by = |at| By { who: "ada", at };
    // The run's code has a name too.
    let submitted = engine.change(move |world, now| {
        world.join(site("a"))?;
        world.add_version(version_id(1), version(&["a"]), &site_id("a"))?;
        world.name_version(&name("x"), version_id(1), None, by(now))?;
        let (id, spec, data) = (run_id("p", 1), project("p"), BTreeMap::new());
        world.submit(Submission { id, spec, code: version_id(1), data, by: "ada".to_owned(), force: false }, now)?;
        world.unname(&name("x"), Which::Number(1), false, "removed by hand", by(now))?;
        Ok::<_, Refusal>(((), vec![]))
    });
    submitted.await.unwrap().unwrap();
    assert!(store.version(&version_id(1)).await.unwrap().is_some());
    let change = async |stop: bool| {
        let change = engine.change(move |world, now| {
            if stop {
                world.stop(&run_id("p", 1), now)?;
            }
            Ok::<_, Refusal>(((), vec![]))
        });
        change.await.unwrap().unwrap();
    };
    change(true).await;
    // The run is let go of after the pass in which it ended.
    change(false).await;
    assert_eq!(store.version(&version_id(1)).await.unwrap(), None);
    assert!(engine.look(|world, _| world.versions.is_empty()).await.unwrap());
}
