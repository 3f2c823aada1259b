//! Stores with a key: the tests of stores without one over again, and what only a key brings.
// Each of those tests brings its helpers with it.
#![allow(clippy::duplicate_mod)]

#[path = "crash.rs"]
mod crash;
mod help;
#[path = "store.rs"]
mod store;
#[path = "transfer.rs"]
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::Barrier;

use help::{add, key, look, materialized, noise, open, open_with, options, packs, sample, write};
use tempfile::TempDir;
use tombolo_core::VersionId;
use tombolo_data::{DataError, Form, Store, StoreOptions, VerifyOptions};

fn plain() -> StoreOptions {
    StoreOptions::default()
}

fn with_key(byte: u8) -> StoreOptions {
    StoreOptions { key: Some(key(byte)), ..plain() }
}

/// A store of two versions, of which the second has one file more.
fn two_versions(options: StoreOptions) -> (TempDir, [VersionId; 2], TempDir) {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open_with(dir.path(), options);
    sample(tree.path(), 1);
    let first = add(&store, tree.path()).version;
    write(tree.path(), "more.bin", &noise(2, 100 << 10));
    (dir, [first, add(&store, tree.path()).version], tree)
}

/// Every file below a directory, with what is in it.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

/// Those of the files in which one of the texts is.
fn telling(dir: &Path, texts: &[&[u8]]) -> Vec<PathBuf> {
    let tells = |bytes: &[u8]| texts.iter().any(|text| bytes.windows(text.len()).any(|window| window == *text));
    files(dir).into_iter().filter(|(_, bytes)| tells(bytes)).map(|(path, _)| path).collect()
}

#[test]
fn nothing_of_what_was_added_can_be_read_without_the_key() {
    // Neither compresses: it lies in a plain store as it is.
    let (contents, name) = (noise(7, 4 << 10), "a-name-that-tells-much");
    let texts: [&[u8]; 3] = [&contents[..64], &contents[3000..3064], name.as_bytes()];
    let tree = tempfile::tempdir().unwrap();
    write(tree.path(), name, &contents);
    write(tree.path(), "other.bin", &noise(8, 600 << 10));
    let told = |options: StoreOptions| {
        let dir = tempfile::tempdir().unwrap();
        let store = open_with(dir.path(), options);
        let version = add(&store, tree.path()).version;
        assert_eq!(materialized(&store, version), look(tree.path()));
        telling(dir.path(), &texts).len()
    };
    assert_eq!(told(plain()), 2, "the pack and the manifest");
    assert_eq!(told(with_key(1)), 0);
}

#[test]
fn without_its_key_a_store_is_left_alone() {
    let (dir, [_, version], tree) = two_versions(with_key(1));
    let before = files(dir.path());
    let missing = Store::open(dir.path(), plain()).err().unwrap();
    assert!(matches!(&missing, DataError::NoKey { key: id, .. } if *id == key(1).id()), "{missing}");
    let wrong = Store::open(dir.path(), with_key(2)).err().unwrap();
    let ids = (key(1).id(), key(2).id());
    assert!(matches!(&wrong, DataError::WrongKey { key, given, .. } if (*key, *given) == ids), "{wrong}");
    // Whoever looks first finds directories missing, and makes none.
    std::fs::remove_dir(dir.path().join("quarantine")).unwrap();
    Store::open(dir.path(), with_key(2)).err().unwrap();
    assert!(!dir.path().join("quarantine").exists());
    assert!(files(dir.path()) == before, "something was written");

    let store = open(dir.path());
    assert_eq!((store.form(), Store::form_at(dir.path(), None).unwrap()), (Form::Encrypted(ids.0), Some(store.form())));
    assert_eq!(materialized(&store, version), look(tree.path()));
    assert!(store.verify(&VerifyOptions::default()).unwrap().is_clean());
}

#[test]
fn a_store_that_was_made_without_a_key_takes_none() {
    let (dir, [_, version], tree) = two_versions(plain());
    let before = files(dir.path());
    let error = Store::open(dir.path(), with_key(1)).err().unwrap();
    assert!(matches!(error, DataError::NotEncrypted { .. }), "{error}");
    assert!(files(dir.path()) == before, "something was written");
    assert_eq!(Store::form_at(dir.path(), None).unwrap(), Some(Form::Plain));
    assert_eq!(Store::form_at(tree.path(), None).unwrap(), None);
    assert_eq!(materialized(&open_with(dir.path(), plain()), version), look(tree.path()));
}

/// A handle outlives its store, in whose place another is made: to the old key all of that seems damaged.
#[test]
fn a_handle_with_an_old_key_sets_nothing_aside() {
    let (dir, ..) = two_versions(with_key(1));
    let old = open(dir.path());
    std::fs::remove_dir_all(dir.path()).unwrap();
    let store = open_with(dir.path(), with_key(2));
    let tree = tempfile::tempdir().unwrap();
    sample(tree.path(), 3);
    let version = add(&store, tree.path()).version;
    let before = packs(&store);
    assert!(matches!(old.verify(&VerifyOptions::default()), Err(DataError::WrongKey { .. })));
    let pack = before[0].file_name().unwrap().to_str().unwrap();
    assert!(matches!(old.check_pack(pack), Err(DataError::WrongKey { .. })));
    let gc = old.gc(&Default::default(), tombolo_core::Timestamp(i64::MAX), tombolo_core::Millis(0));
    assert!(matches!(gc, Err(DataError::WrongKey { .. })), "{gc:?}");
    assert_eq!(packs(&store), before);
    assert_eq!(materialized(&store, version), look(tree.path()));
}

/// A pack of another kind of store is no damage either.
#[test]
fn a_pack_that_is_encrypted_otherwise_is_named_and_stays() {
    for (mine, other) in [(plain(), with_key(1)), (with_key(1), plain())] {
        let ((dir, ..), (foreign, ..)) = (two_versions(mine.clone()), two_versions(other.clone()));
        let pack = packs(&open_with(foreign.path(), other)).remove(0);
        let to = dir.path().join("packs").join(pack.file_name().unwrap());
        std::fs::copy(&pack, &to).unwrap();
        let error = Store::open(dir.path(), mine).err().unwrap();
        let named = |pack: &str| to.ends_with(pack);
        assert!(matches!(&error, DataError::ForeignPack { pack } if named(pack)), "{error}");
        assert!(to.exists());
    }
}

/// Of several who make a store at once, each with a key of its own, one has made it and the others know.
#[test]
fn a_store_that_is_made_twice_at_once_has_one_key() {
    for _ in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let (path, ready) = (dir.path().join("store"), Barrier::new(4));
        let made: Vec<bool> = std::thread::scope(|scope| {
            let make = |byte| {
                ready.wait();
                Store::open(&path, with_key(byte)).is_ok()
            };
            let makers: Vec<_> = (1..=4).map(|byte| scope.spawn(move || make(byte))).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|made| **made).count(), 1, "{made:?}");
        let winner = made.iter().position(|made| *made).unwrap() as u8 + 1;
        assert_eq!(Store::form_at(&path, None).unwrap(), Some(Form::Encrypted(key(winner).id())));
    }
}

#[test]
fn a_manifest_in_anothers_place_is_refused() {
    let (dir, [first, second], tree) = two_versions(with_key(1));
    let manifest = |version: VersionId| dir.path().join("manifests").join(version.to_string());
    std::fs::copy(manifest(first), manifest(second)).unwrap();
    let store = open(dir.path());
    let error = store.manifest(second).unwrap_err();
    let unopened = "it doesn't open with the store's key";
    assert!(matches!(&error, DataError::CorruptManifest { reason, .. } if reason == unopened), "{error}");
    assert_eq!(store.verify(&VerifyOptions::default()).unwrap().manifests_damaged, [second]);
    assert_eq!(add(&store, tree.path()).version, second);
    assert!(store.verify(&VerifyOptions::default()).unwrap().is_clean());
}

#[test]
fn a_record_in_anothers_place_is_refused() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Each of one chunk that doesn't compress, and of the same length.
    write(tree.path(), "a", &noise(1, 1000));
    write(tree.path(), "b", &noise(2, 1000));
    let version = add(&open(dir.path()), tree.path()).version;
    let pack = packs(&open(dir.path())).remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    // The header's 8 bytes, then two records of 1000 bytes and a seal each.
    bytes[8..8 + 2 * 1040].rotate_left(1040);
    std::fs::write(&pack, bytes).unwrap();
    let store = open(dir.path());
    let report = store.verify(&VerifyOptions { keep_damaged: true, ..VerifyOptions::default() }).unwrap();
    let reasons: Vec<_> = report.damaged.iter().map(|damage| damage.reason.as_str()).collect();
    assert_eq!(reasons, ["it doesn't open with the store's key"; 2]);
    assert_eq!(report.hits.len(), 2);
    assert!(store.read_small(version, "a", 1000).is_err());
}

/// What goes over the wire is neither's record: each site has a key of its own, or none.
#[tokio::test(flavor = "multi_thread")]
async fn versions_travel_between_stores_of_all_forms() {
    for (from, to) in [(with_key(1), plain()), (plain(), with_key(1)), (with_key(1), with_key(2))] {
        let (sent, [_, version], tree) = two_versions(from.clone());
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (open_with(sent.path(), from), open_with(dir.path(), to));
        let fetched = transfer::peer::bring(&from, &to, version).await.unwrap();
        assert!(fetched.bytes_wire < fetched.bytes_raw, "chunks travel compressed: {fetched:?}");
        assert_eq!(materialized(&to, version), look(tree.path()));
        assert!(to.verify(&VerifyOptions::default()).unwrap().is_clean());
        let told = telling(dir.path(), &[&noise(2, 100 << 10)[..64], b"more.bin"]).len();
        assert_eq!(told, if to.form() == Form::Plain { 2 } else { 0 });
    }
}

#[test]
fn the_tests_of_the_others_have_a_key_here() {
    assert!(options().key.is_some());
}
