//! A bucket as a store, on a real S3 server: shared by agents that come and go, over a network that fails.

mod help;
#[path = "help/s3.rs"]
mod s3;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use help::{add, key, look, materialized, noise, sample, write};
use s3::{Fault, Server};
use tombolo_core::{Millis, Timestamp, VersionId};
use tombolo_data::{BucketOptions, DataError, Form, SiteKey, Store, StoreOptions, Timing, VerifyOptions};

/// gc without any waiting: what is condemned is removed by the next one.
const AT_ONCE: Timing = Timing { condemned: Duration::ZERO, ..LONG };
const LONG: Timing = Timing {
    lease: Duration::from_secs(600),
    commit: Duration::from_secs(300),
    condemned: Duration::from_secs(1200),
    remembered: Duration::from_secs(3600),
};

fn open(server: &Server, dir: &Path, timing: Timing) -> Store {
    try_open(server, dir, timing, None).unwrap()
}

fn try_open(server: &Server, dir: &Path, timing: Timing, key: Option<SiteKey>) -> Result<Store, DataError> {
    let bucket = Some(server.options(timing));
    Store::open(dir, StoreOptions { pack_bytes: 256 << 10, bucket, key, ..StoreOptions::default() })
}

fn gc(store: &Store, keep: &[VersionId]) -> Vec<VersionId> {
    store.gc(&keep.iter().copied().collect(), Timestamp(0), Millis(0)).unwrap().versions_removed
}

#[test]
fn agents_share_a_bucket_and_a_lost_one_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (server, tree) = (Server::start(&temp.path().join("s3")), temp.path().join("tree"));
    sample(&tree, 1);
    let first = open(&server, &temp.path().join("a"), LONG);
    let added = add(&first, &tree);
    assert_eq!(materialized(&first, added.version), look(&tree));
    // All that the first agent had is lost, and another one comes.
    drop(first);
    std::fs::remove_dir_all(temp.path().join("a")).unwrap();
    let second = open(&server, &temp.path().join("b"), LONG);
    assert_eq!(second.versions().unwrap(), [added.version]);
    assert!(second.has(added.version).unwrap());
    assert_eq!(materialized(&second, added.version), look(&tree));
    let again = add(&second, &tree);
    assert_eq!((again.version, again.bytes_new), (added.version, 0));
    assert!(second.verify(&VerifyOptions::default()).unwrap().is_clean());
    // What one adds the other sees, and the other way round.
    let third = open(&server, &temp.path().join("c"), LONG);
    write(&tree, "more.bin", &noise(5, 1 << 20));
    let more = add(&third, &tree);
    assert!(more.bytes_new < 3 << 19, "{more:?}");
    assert_eq!(materialized(&second, more.version), look(&tree));
    assert_eq!(std::fs::read_dir(temp.path().join("c/tmp")).unwrap().count(), 0);
}

#[test]
fn what_a_network_does_costs_time_and_nothing_else() {
    for fault in [Fault::Fails, Fault::SlowDown, Fault::AnswerLost, Fault::Cut, Fault::Slow] {
        let temp = tempfile::tempdir().unwrap();
        let (server, tree) = (Server::start(&temp.path().join("s3")), temp.path().join("tree"));
        write(&tree, "one.bin", &noise(2, 900 << 10));
        write(&tree, "small.txt", b"x");
        server.faults.set(fault, 3);
        let store = open(&server, &temp.path().join("a"), AT_ONCE);
        let version = add(&store, &tree).version;
        let reader = open(&server, &temp.path().join("b"), AT_ONCE);
        assert_eq!(materialized(&reader, version), look(&tree), "{fault:?}");
        assert_eq!(gc(&reader, &[version]), [], "{fault:?}");
        assert!(reader.verify(&VerifyOptions::default()).unwrap().is_clean(), "{fault:?}");
        assert!(server.faults.hit() > 5, "{fault:?}: {} requests met it", server.faults.hit());
    }
}

#[test]
fn a_pack_may_take_its_time() {
    let temp = tempfile::tempdir().unwrap();
    let (server, tree) = (Server::start(&temp.path().join("s3")), temp.path().join("tree"));
    write(&tree, "one.bin", &noise(2, 100 << 10));
    let store = open(&server, &temp.path().join("a"), AT_ONCE);
    server.faults.set(Fault::Crawls, 1);
    let began = Instant::now();
    let version = add(&store, &tree).version;
    assert!(began.elapsed() > Duration::from_secs(33), "it was no long request");
    server.faults.set(Fault::None, 1);
    assert_eq!(materialized(&open(&server, &temp.path().join("b"), AT_ONCE), version), look(&tree));
}

#[test]
fn a_bucket_that_is_away_is_an_error_and_not_a_loss() {
    let temp = tempfile::tempdir().unwrap();
    let mut options = Server::start(&temp.path().join("s3")).options(LONG);
    options.settings.retain(|(name, _)| name != "aws_access_key_id");
    let bucket = Some(options);
    let error = Store::open(temp.path().join("a"), StoreOptions { bucket, ..StoreOptions::default() }).err().unwrap();
    assert!(matches!(error, DataError::BadBucket { .. } | DataError::Bucket { .. }), "{error}");
}

#[test]
fn gc_condemns_first_and_removes_later() {
    check_gc(None);
}

#[test]
fn gc_condemns_first_and_removes_later_under_a_key() {
    check_gc(Some(key(1)));
}

fn check_gc(key: Option<SiteKey>) {
    let open = |server: &Server, dir: &Path, timing| try_open(server, dir, timing, key.clone()).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let (server, tree) = (Server::start(&temp.path().join("s3")), temp.path().join("tree"));
    let store = open(&server, &temp.path().join("a"), AT_ONCE);
    sample(&tree, 1);
    let first = add(&store, &tree).version;
    write(&tree, "large.bin", &noise(2, 3 << 20));
    let second = add(&store, &tree).version;
    store.pin("run", &BTreeSet::from([first])).unwrap();
    let hold = store.hold(second).unwrap();
    for _ in 0..3 {
        assert_eq!(gc(&store, &[]), [], "they are pinned and held");
    }
    drop(hold);
    store.unpin("run").unwrap();
    assert_eq!(gc(&store, &[second]), [], "the first gc only condemns");
    // Until it is removed it can be read, and whoever holds it saves it.
    let hold = store.hold(first).unwrap();
    assert_eq!(gc(&store, &[second]), []);
    assert_eq!(gc(&store, &[second]), []);
    materialized(&store, first);
    drop(hold);
    assert_eq!(gc(&store, &[second]), []);
    assert_eq!(gc(&store, &[second]), [first]);
    assert_eq!(store.versions().unwrap(), [second]);
    assert!(matches!(store.hold(first), Err(DataError::NoVersion { .. })));
    // Rewritten packs go one gc later, when those who were told of them have looked again.
    gc(&store, &[second]);
    let reader = open(&server, &temp.path().join("b"), AT_ONCE);
    assert_eq!(materialized(&reader, second), look(&tree));
    assert!(reader.verify(&VerifyOptions::default()).unwrap().is_clean());
    gc(&store, &[]);
    assert_eq!(gc(&store, &[]), [second]);
    gc(&store, &[]);
    let left = std::fs::read_dir(temp.path().join("s3/site/stores/one/packs")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "packs are left");
    assert!(add(&store, &tree).chunks_new > 0);
}

#[test]
fn a_writer_relies_on_nothing_that_is_condemned() {
    let temp = tempfile::tempdir().unwrap();
    let (server, tree) = (Server::start(&temp.path().join("s3")), temp.path().join("tree"));
    let store = open(&server, &temp.path().join("a"), AT_ONCE);
    sample(&tree, 1);
    let version = add(&store, &tree).version;
    gc(&store, &[]);
    // The other knows the chunks and would share them; the listings that it gets are old besides.
    let other = open(&server, &temp.path().join("b"), AT_ONCE);
    let again = add(&other, &tree);
    assert_eq!(again.version, version);
    assert!(again.chunks_new > 0, "{again:?}");
    assert_eq!(gc(&store, &[version]), []);
    gc(&store, &[version]);
    let reader = open(&server, &temp.path().join("c"), AT_ONCE);
    assert_eq!(materialized(&reader, version), look(&tree));
    assert!(reader.verify(&VerifyOptions::default()).unwrap().is_clean());
}

#[test]
fn a_late_listing_brings_nothing_back_and_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (server, tree) = (Server::start(&temp.path().join("s3")), temp.path().join("tree"));
    sample(&tree, 1);
    let store = open(&server, &temp.path().join("a"), AT_ONCE);
    let version = add(&store, &tree).version;
    let late = open(&server, &temp.path().join("b"), AT_ONCE);
    assert!(late.has(version).unwrap());
    gc(&store, &[]);
    store.versions().unwrap();
    server.faults.lag(true);
    assert_eq!(gc(&store, &[]), [version]);
    // The listing still shows the packs that are gone; the version needs them all.
    let again = add(&late, &tree);
    assert!(again.chunks_new > 0, "{again:?}");
    // Its own packs aren't listed yet, and are known all the same.
    assert!(late.has(version).unwrap());
    assert_eq!(materialized(&late, version), look(&tree));
    server.faults.lag(false);
    let reader = open(&server, &temp.path().join("c"), AT_ONCE);
    assert_eq!(materialized(&reader, version), look(&tree));
}

#[test]
fn a_damaged_object_is_found_and_set_aside() {
    check_damage(None);
}

#[test]
fn a_damaged_object_is_found_and_set_aside_under_a_key() {
    check_damage(Some(key(1)));
}

fn check_damage(key: Option<SiteKey>) {
    let open = |server: &Server, dir: &Path, timing| try_open(server, dir, timing, key.clone()).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let (server, tree) = (Server::start(&temp.path().join("s3")), temp.path().join("tree"));
    sample(&tree, 1);
    let store = open(&server, &temp.path().join("a"), LONG);
    let version = add(&store, &tree).version;
    // In the cache alone it is mended by fetching anew.
    for entry in std::fs::read_dir(temp.path().join("a/cache")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(materialized(&store, version), look(&tree));
    let packs = temp.path().join("s3/site/stores/one/packs");
    let pack = std::fs::read_dir(packs).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let report = store.verify(&VerifyOptions::default()).unwrap();
    assert_eq!(report.quarantined, [pack.file_name().unwrap().to_str().unwrap()]);
    assert!(!report.hits.is_empty());
    assert!(!store.has(version).unwrap());
    assert!(add(&store, &tree).chunks_new > 0);
    assert!(store.verify(&VerifyOptions::default()).unwrap().is_clean());
}

/// Every byte of the files below a directory, one file after the other.
fn all_bytes(dir: &Path) -> Vec<u8> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { all_bytes(&path) } else { std::fs::read(&path).unwrap() }).collect()
}

#[test]
fn an_encrypted_bucket_is_for_those_who_have_its_key() {
    let temp = tempfile::tempdir().unwrap();
    let (server, tree) = (Server::start(&temp.path().join("s3")), temp.path().join("tree"));
    sample(&tree, 1);
    let first = try_open(&server, &temp.path().join("a"), LONG, Some(key(1))).unwrap();
    let version = add(&first, &tree).version;
    for (given, dir) in [(None, "b"), (Some(key(2)), "c")] {
        let error = try_open(&server, &temp.path().join(dir), LONG, given).err().unwrap();
        assert!(matches!(error, DataError::NoKey { .. } | DataError::WrongKey { .. }), "{error}");
        assert!(!temp.path().join(dir).exists(), "nothing is made for a store that isn't opened");
    }
    let form = Store::form_at(temp.path().join("d"), Some(&server.options(LONG))).unwrap();
    assert_eq!(form, Some(Form::Encrypted(key(1).id())));
    let second = try_open(&server, &temp.path().join("d"), LONG, Some(key(1))).unwrap();
    assert_eq!(materialized(&second, version), look(&tree));
    assert!(second.verify(&VerifyOptions::default()).unwrap().is_clean());
    // Neither the objects nor the caches tell anything.
    let marker = &noise(1, 3 << 20)[..64];
    for dir in ["s3", "a", "d"] {
        let bytes = all_bytes(&temp.path().join(dir));
        assert!(!bytes.windows(64).any(|window| window == marker), "{dir}");
    }
    let plain = Server::start(&temp.path().join("plain"));
    add(&open(&plain, &temp.path().join("e"), LONG), &tree);
    assert!(all_bytes(&temp.path().join("plain")).windows(64).any(|window| window == marker));
    let error = try_open(&plain, &temp.path().join("f"), LONG, Some(key(1))).err().unwrap();
    assert!(matches!(error, DataError::NotEncrypted { .. }), "{error}");
}

/// Of agents that make a bucket at once, each with a key of its own, one has made it and the others are told.
#[test]
fn a_bucket_that_is_made_twice_at_once_has_one_key() {
    for round in 0..4 {
        let temp = tempfile::tempdir().unwrap();
        let server = &Server::start(&temp.path().join("s3"));
        // An answer that is lost must not make a bucket that one has made look like another's.
        server.faults.set(if round % 2 == 0 { Fault::AnswerLost } else { Fault::None }, 3);
        let ready = &Barrier::new(3);
        let made = std::thread::scope(|scope| {
            let makers = [1, 2, 3].map(|byte| {
                let dir = temp.path().join(byte.to_string());
                scope.spawn(move || {
                    ready.wait();
                    try_open(server, &dir, LONG, Some(key(byte))).map(drop)
                })
            });
            makers.map(|maker| maker.join().unwrap())
        });
        let refused = |made: &Result<(), DataError>| matches!(made, Err(DataError::WrongKey { .. }));
        assert_eq!(made.iter().filter(|made| refused(made)).count(), 2, "{made:?}");
        assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1, "{made:?}");
    }
}

/// Two agents add, a third collects all the time what nobody has pinned; what was acknowledged and pinned is whole.
#[test]
fn several_agents_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let server = Server::start(&temp.path().join("s3"));
    let timing = Timing {
        commit: Duration::from_secs(1),
        condemned: Duration::from_millis(2500),
        lease: Duration::from_secs(20),
        remembered: Duration::from_secs(3600),
    };
    let begun = Instant::now();
    let done = &AtomicBool::new(false);
    let (server, temp) = (&server, temp.path());
    let versions = std::thread::scope(|scope| {
        let adders: Vec<_> = ["a", "b"]
            .map(|name| {
                scope.spawn(move || {
                    let store = open(server, &temp.join(name), timing);
                    let tree = temp.join(format!("tree-{name}"));
                    let mut versions = BTreeSet::new();
                    for round in 0_u64.. {
                        write(&tree, "shared.bin", &noise(round % 3, 400 << 10));
                        write(&tree, "own.bin", &noise(round * 2 + u64::from(name == "a"), 100 << 10));
                        let version = add(&store, &tree).version;
                        // Most are forgotten at once, so that there is what to collect.
                        if round % 3 == 0 && store.hold(version).is_ok() {
                            versions.insert(version);
                            store.pin(name, &versions).unwrap();
                            versions.retain(|version| store.hold(*version).is_ok());
                        }
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    versions
                })
            })
            .into_iter()
            .collect();
        let collector = open(server, &temp.join("c"), timing);
        // A version goes at the second gc after its sentence; on a busy machine one gc takes seconds.
        let mut removed = 0;
        while begun.elapsed() < Duration::from_secs(9) || removed == 0 && begun.elapsed() < Duration::from_secs(180) {
            removed += gc(&collector, &[]).len();
        }
        done.store(true, Ordering::Relaxed);
        assert!(removed > 0, "nothing was collected");
        adders.into_iter().flat_map(|adder| adder.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(versions.len() > 1);
    let reader = open(server, &temp.join("d"), timing);
    let report = reader.verify(&VerifyOptions::default()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    for version in versions {
        assert!(reader.has(version).unwrap(), "{version}");
        materialized(&reader, version);
    }
}

#[test]
fn addresses_of_the_clouds_are_told_apart() {
    let temp = tempfile::tempdir().unwrap();
    let open = |url: &str, settings: &[(&str, &str)]| {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let bucket = Some(BucketOptions { settings, ..BucketOptions::new(url) });
        let dir = temp.path().join(url.replace(['/', ':'], "-"));
        Store::open(dir, StoreOptions { bucket, ..StoreOptions::default() }).map(drop).map_err(|e| e.to_string())
    };
    for (url, setting, why) in [
        ("ftp://a/b", ("x", "y"), "none of s3, gs and az"),
        ("s3://a/b", ("google_service_account", "y"), "no setting"),
        ("gs://a/b", ("aws_region", "y"), "no setting"),
        ("az://a/b", ("aws_region", "y"), "no setting"),
        ("not an address", ("x", "y"), "relative URL"),
    ] {
        let error = open(url, &[setting]).unwrap_err();
        assert!(error.contains(why), "{url}: {error}");
    }
}

/// A directory remembers its bucket, and is no other's.
#[test]
fn a_directory_is_one_buckets() {
    let temp = tempfile::tempdir().unwrap();
    let server = Server::start(&temp.path().join("s3"));
    let dir = temp.path().join("a");
    drop(open(&server, &dir, LONG));
    let other = BucketOptions { url: "s3://site/stores/two".into(), ..server.options(LONG) };
    let error = Store::open(&dir, StoreOptions { bucket: Some(other), ..StoreOptions::default() }).err().unwrap();
    assert!(matches!(&error, DataError::NotAStore { .. }), "{error}");
    let plain = temp.path().join("plain");
    drop(help::open(&plain));
    let bucket = Some(server.options(LONG));
    let error = Store::open(&plain, StoreOptions { bucket, ..StoreOptions::default() }).err().unwrap();
    assert!(matches!(&error, DataError::NotAStore { .. }), "{error}");
}
