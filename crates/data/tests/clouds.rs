//! Azure's and Google's object storage as a site's store, against their emulators; what networks do to it, and more of
//! gc, is tried with S3 in `bucket.rs`: above the client all of it is the same code.

#[path = "help/clouds.rs"]
mod clouds;
mod help;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use clouds::Cloud;
use help::{add, key, look, materialized, noise, packs, sample, write};
use tombolo_core::{Millis, Timestamp, VersionId};
use tombolo_data::{BucketOptions, DataError, SiteKey, Store, StoreOptions, Timing, VerifyOptions};

const LONG: Timing = Timing {
    lease: Duration::from_secs(600),
    commit: Duration::from_secs(300),
    condemned: Duration::from_secs(1200),
    remembered: Duration::from_secs(3600),
};
/// gc without any waiting: what is condemned is removed by the next one.
const AT_ONCE: Timing = Timing { condemned: Duration::ZERO, ..LONG };

fn try_open(cloud: &Cloud, prefix: &str, dir: &Path, key: Option<SiteKey>) -> Result<Store, DataError> {
    let url = format!("{}/{prefix}", cloud.url);
    let bucket = BucketOptions { settings: cloud.settings.clone(), timing: AT_ONCE, ..BucketOptions::new(url) };
    Store::open(dir, StoreOptions { pack_bytes: 256 << 10, bucket: Some(bucket), key, ..StoreOptions::default() })
}

fn gc(store: &Store, keep: &[VersionId]) -> Vec<VersionId> {
    store.gc(&keep.iter().copied().collect(), Timestamp(0), Millis(0)).unwrap().versions_removed
}

#[test]
fn azure_is_a_sites_store() {
    check(&Cloud::azure());
}

#[test]
fn google_is_a_sites_store() {
    check(&Cloud::google());
}

fn check(cloud: &Cloud) {
    shared(cloud, "plain", None);
    shared(cloud, "sealed", Some(key(1)));
    one_of_many_makes_the_store(cloud);
    condemned_and_removed(cloud);
}

/// An agent's directory is lost, and another agent has all that it had acknowledged.
fn shared(cloud: &Cloud, prefix: &str, key: Option<SiteKey>) {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    sample(&tree, 1);
    let open = |name: &str| try_open(cloud, prefix, &temp.path().join(name), key.clone()).unwrap();
    let first = open("a");
    let added = add(&first, &tree);
    assert!(packs(&first).is_empty(), "packs lie in the bucket, not here");
    drop(first);
    std::fs::remove_dir_all(temp.path().join("a")).unwrap();
    let second = open("b");
    assert_eq!(second.versions().unwrap(), [added.version]);
    assert_eq!(materialized(&second, added.version), look(&tree));
    let again = add(&second, &tree);
    assert_eq!((again.version, again.bytes_new), (added.version, 0));
    let third = open("c");
    write(&tree, "more.bin", &noise(5, 1 << 20));
    let more = add(&third, &tree);
    assert_eq!(materialized(&second, more.version), look(&tree));
    assert!(second.verify(&VerifyOptions::default()).unwrap().is_clean());
    if key.is_some() {
        let wrong = try_open(cloud, prefix, &temp.path().join("w"), None).err().expect("it is encrypted");
        assert!(matches!(wrong, DataError::NoKey { .. }), "{wrong}");
    }
}

/// Putting on the condition that nothing is there: of those who come at once, all agree on one form.
fn one_of_many_makes_the_store(cloud: &Cloud) {
    let temp = tempfile::tempdir().unwrap();
    let (all, temp) = (Barrier::new(4), temp.path());
    let opened: Vec<bool> = std::thread::scope(|scope| {
        let open = |byte: u8| {
            let all = &all;
            scope.spawn(move || {
                let dir = temp.join(byte.to_string());
                all.wait();
                match try_open(cloud, "contested", &dir, Some(key(byte))) {
                    Ok(_) => true,
                    Err(DataError::WrongKey { .. }) => false,
                    Err(other) => panic!("{other}"),
                }
            })
        };
        let opening: Vec<_> = (1..=4).map(open).collect();
        opening.into_iter().map(|opening| opening.join().unwrap()).collect()
    });
    assert_eq!(opened.iter().filter(|opened| **opened).count(), 1, "{opened:?}");
}

/// The one object that is changed on the condition that it is as it was read, by several gcs at once.
fn condemned_and_removed(cloud: &Cloud) {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    let open = |name: &str| try_open(cloud, "collected", &temp.path().join(name), None).unwrap();
    let store = open("a");
    sample(&tree, 1);
    let versions: Vec<VersionId> = (0..4)
        .map(|n| {
            write(&tree, "large.bin", &noise(n, 1 << 20));
            add(&store, &tree).version
        })
        .collect();
    let kept = versions[3];
    let stores: Vec<Store> = (0..3).map(|n| open(&format!("s{n}"))).collect();
    let mut removed = BTreeSet::new();
    // Who is first condemns, and the others find it done; it takes two of each, in whatever order they come.
    for _ in 0..4 {
        std::thread::scope(|scope| {
            let collect: Vec<_> = stores.iter().map(|store| scope.spawn(move || gc(store, &[kept]))).collect();
            for collected in collect {
                removed.extend(collected.join().unwrap());
            }
        });
    }
    assert_eq!(removed, versions[..3].iter().copied().collect());
    assert_eq!(materialized(&open("z"), kept), look(&tree));
    assert_eq!(open("y").versions().unwrap(), [kept]);
    assert!(stores[0].verify(&VerifyOptions::default()).unwrap().is_clean());
}
