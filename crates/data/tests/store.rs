//! The store: what goes in comes out, what is damaged is found, what is kept stays.

mod help;

use std::collections::BTreeSet;

use help::{add, look, materialized, noise, open, options, packs, sample, table, write};
use proptest::prelude::*;
use tombolo_core::{Millis, Timestamp, VersionId};
use tombolo_data::{AddOptions, DataError, MaterializeOptions, Store, StoreOptions, VerifyOptions};

fn far_future() -> Timestamp {
    Timestamp(i64::MAX)
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(tree.path(), 1);
    let store = open(dir.path());
    let added = add(&store, tree.path());
    assert_eq!(added.files, 45);
    assert!(added.bytes_new < added.bytes, "the table compresses: {added:?}");
    assert_eq!(materialized(&store, added.version), look(tree.path()));
    // Another handle, as of another process, reads the same from the packs alone.
    let other = open(dir.path());
    assert!(other.has(added.version).unwrap());
    assert_eq!(materialized(&other, added.version), look(tree.path()));
    assert_eq!(other.version_bytes(added.version).unwrap(), added.bytes);
    assert_eq!(other.read_small(added.version, "run.sh", 100).unwrap(), b"#!/bin/sh\n");
    let mut out = Vec::new();
    other.read_file(added.version, "large.bin", &mut out).unwrap();
    assert_eq!(out, noise(1, 3 << 20));
    assert!(matches!(other.read_small(added.version, "large.bin", 100), Err(DataError::FileTooLong { .. })));
    assert!(matches!(other.read_small(added.version, "nothing", 100), Err(DataError::NoFile { .. })));
    assert_eq!(other.list(added.version).unwrap().len(), 46);
}

#[test]
fn what_is_there_already_costs_nothing() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(tree.path(), 1);
    write(tree.path(), "copy.bin", &noise(1, 3 << 20));
    let store = open(dir.path());
    let first = add(&store, tree.path());
    assert!(first.bytes_new < (3 << 20) + (2 << 20), "the copy is stored once: {first:?}");
    let again = add(&store, tree.path());
    assert_eq!((again.version, again.bytes_new, again.chunks_new), (first.version, 0, 0));
    // One changed row costs the chunks around it.
    let mut changed = table(1, 60_000);
    changed[700_000] ^= 1;
    write(tree.path(), "table.csv", &changed);
    let third = add(&store, tree.path());
    assert_ne!(third.version, first.version);
    assert!((1..=2).contains(&third.chunks_new), "{third:?}");
}

#[test]
fn a_file_is_a_tree_of_one() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(tree.path(), "flights.csv", b"a,b\n");
    let store = open(dir.path());
    let added = add(&store, &tree.path().join("flights.csv"));
    assert_eq!(materialized(&store, added.version), look(tree.path()));
}

#[test]
fn what_is_ignored_is_left_out() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for path in ["a.py", "app/state/x.py", "state/y", "app/__pycache__/z", ".git/HEAD", "target.py"] {
        write(tree.path(), path, b"x");
    }
    let ignore = tombolo_data::IGNORE_FOR_CODE.map(str::to_owned).to_vec();
    let store = open(dir.path());
    let added = store.add_tree(tree.path(), &AddOptions { ignore, ..AddOptions::default() }).unwrap();
    let paths: Vec<_> = store.list(added.version).unwrap().into_iter().map(|listed| listed.path).collect();
    assert_eq!(paths, ["a.py", "app/state/x.py", "target.py"]);
}

#[test]
fn what_cannot_be_added_is_named() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    let refused = |name: &str| {
        let error = store.add_tree(tree.path(), &AddOptions::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        std::fs::remove_file(tree.path().join(name)).unwrap();
        error
    };
    std::os::unix::fs::symlink("../../secret", tree.path().join("out")).unwrap();
    assert!(matches!(refused("out"), DataError::Unfit { .. }));
    std::os::unix::fs::symlink("/etc/passwd", tree.path().join("absolute")).unwrap();
    assert!(matches!(refused("absolute"), DataError::Unfit { .. }));
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("socket")).unwrap();
    assert!(matches!(refused("socket"), DataError::Unfit { .. }));
    let nothing = store.add_tree(tree.path().join("nothing"), &AddOptions::default()).unwrap_err();
    assert!(nothing.to_string().contains("nothing"), "{nothing}");
}

#[test]
fn a_file_that_changes_meanwhile_is_named() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for i in 0..4 {
        write(tree.path(), &format!("{i}.bin"), &noise(i, 8 << 20));
    }
    let store = open(dir.path());
    // The walk is over when the first bytes are reported; not every file has been read by then.
    let path = tree.path().to_path_buf();
    let once = std::sync::Once::new();
    let progress = std::sync::Arc::new(move |_, _| {
        once.call_once(|| (0..4).for_each(|i| write(&path, &format!("{i}.bin"), b"shorter")));
    });
    let error =
        store.add_tree(tree.path(), &AddOptions { progress: Some(progress), ..AddOptions::default() }).unwrap_err();
    assert!(matches!(&error, DataError::Changed { path, .. } if path.starts_with(tree.path())), "{error}");
    assert_eq!(store.versions().unwrap(), []);
}

#[test]
fn a_destination_must_be_empty_and_a_directory_a_store() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(tree.path(), "a", b"a");
    let store = open(dir.path());
    let version = add(&store, tree.path()).version;
    let error = store.materialize(version, tree.path(), &MaterializeOptions::default()).unwrap_err();
    assert!(matches!(error, DataError::NotEmpty { .. }));
    let error = Store::open(tree.path(), options()).err().unwrap();
    assert!(matches!(error, DataError::NotAStore { .. }), "{error}");
    let error = Store::open(tree.path().join("no"), StoreOptions { create: false, ..options() });
    assert!(matches!(error.err().unwrap(), DataError::NotAStore { .. }));
}

#[test]
fn a_cancelled_add_leaves_nothing() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(tree.path(), 1);
    let store = open(dir.path());
    let options = AddOptions::default();
    options.cancel.cancel();
    assert!(matches!(store.add_tree(tree.path(), &options), Err(DataError::Cancelled)));
    assert_eq!(store.versions().unwrap(), []);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

/// Flips one byte in each part of a pack in turn: verify names the pack, and what is whole is saved.
#[test]
fn a_flipped_byte_anywhere_in_a_pack_is_found() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(tree.path(), 1);
    let version = add(&open(dir.path()), tree.path()).version;
    let length = std::fs::metadata(&packs(&open(dir.path()))[0]).unwrap().len();
    for at in [0, 8, length / 2, length - 100, length - 48, length - 16, length - 12, length - 1] {
        let store = open(dir.path());
        let pack = packs(&store).remove(0);
        let whole = std::fs::read(&pack).unwrap();
        let at = (at as usize).min(whole.len() - 1);
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&pack, &damaged).unwrap();
        let store = open(store.dir());
        let report = store.verify(&VerifyOptions::default()).unwrap();
        let name = pack.file_name().unwrap().to_str().unwrap();
        assert!(report.damaged.iter().all(|damage| damage.pack == name), "byte {at}: {report:?}");
        assert_eq!(report.quarantined, [name], "byte {at}");
        assert!(report.hits.iter().any(|hit| hit.version == version), "byte {at}: {report:?}");
        assert!(!store.has(version).unwrap());
        // Adding it again brings back what was lost.
        let again = add(&store, tree.path());
        assert!(again.chunks_new > 0);
        assert!(store.verify(&VerifyOptions::default()).unwrap().is_clean());
        assert_eq!(materialized(&store, version), look(tree.path()));
    }
}

#[test]
fn a_damaged_chunk_is_never_read() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(tree.path(), 1);
    let store = open(dir.path());
    let version = add(&store, tree.path()).version;
    for pack in packs(&store) {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
    let dest = tempfile::tempdir().unwrap();
    let error = store.materialize(version, dest.path(), &MaterializeOptions::default()).unwrap_err();
    let DataError::CorruptChunk { chunk, pack, .. } = error else { panic!("{error}") };
    let damage = store.check_pack(&pack).unwrap();
    assert!(damage.iter().any(|damage| damage.chunk == Some(chunk)));
    let missing = store.missing(&store.manifest(version).unwrap()).unwrap();
    assert!(missing.iter().any(|missing| missing.digest == chunk));
}

#[test]
fn a_truncated_pack_and_a_damaged_manifest_are_found() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(tree.path(), 1);
    let version = add(&open(dir.path()), tree.path()).version;
    let manifest = dir.path().join("manifests").join(version.to_string());
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    let pack = packs(&open(dir.path())).remove(0);
    std::fs::File::options().write(true).open(&pack).unwrap().set_len(1000).unwrap();
    let store = open(dir.path());
    assert!(!store.has(version).unwrap());
    assert!(matches!(store.manifest(version), Err(DataError::CorruptManifest { .. })));
    let report = store.verify(&VerifyOptions::default()).unwrap();
    assert_eq!(report.manifests_damaged, [version]);
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(add(&store, tree.path()).version, version);
    assert!(store.verify(&VerifyOptions::default()).unwrap().is_clean());
}

#[test]
fn gc_removes_what_nobody_keeps_and_nothing_else() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    sample(tree.path(), 1);
    let first = add(&store, tree.path()).version;
    write(tree.path(), "large.bin", &noise(2, 3 << 20));
    let second = add(&store, tree.path()).version;
    let trees = look(tree.path());
    let now = far_future();
    // Young versions stay, so do pinned and held ones.
    let none = BTreeSet::new();
    assert_eq!(store.gc(&none, Timestamp(0), Millis(1)).unwrap().versions_removed, []);
    store.pin("run-1", &BTreeSet::from([first])).unwrap();
    let hold = store.hold(second).unwrap();
    assert_eq!(store.gc(&none, now, Millis(0)).unwrap().versions_removed, []);
    drop(hold);
    store.unpin("run-1").unwrap();
    let collected = store.gc(&BTreeSet::from([second]), now, Millis(0)).unwrap();
    assert_eq!(collected.versions_removed, [first]);
    assert!(collected.bytes_freed > 5 << 19, "{collected:?}");
    assert!(store.verify(&VerifyOptions::default()).unwrap().is_clean());
    assert_eq!(materialized(&store, second), trees);
    let collected = store.gc(&none, now, Millis(0)).unwrap();
    assert_eq!(collected.versions_removed, [second]);
    assert_eq!(packs(&store), Vec::<std::path::PathBuf>::new());
    // Another handle that knew the chunks stores them anew.
    assert!(add(&store, tree.path()).chunks_new > 0);
}

/// A writer shares chunks with a version that goes while it works: it must notice, and store them itself.
#[test]
fn an_add_that_shares_chunks_with_what_gc_removes_is_whole() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(tree.path(), 1);
    let store = open(dir.path());
    add(&store, tree.path());
    write(tree.path(), "zz-last.bin", &noise(9, 4 << 20));
    let (adder, remover) = (open(dir.path()), open(dir.path()));
    let once = std::sync::Once::new();
    let progress = std::sync::Arc::new(move |_, _| {
        once.call_once(|| {
            let collected = remover.gc(&BTreeSet::new(), far_future(), Millis(0)).unwrap();
            assert_eq!(collected.versions_removed.len(), 1);
        });
    });
    let options = AddOptions { progress: Some(progress), ..AddOptions::default() };
    let added = adder.add_tree(tree.path(), &options).unwrap();
    let reader = open(dir.path());
    assert!(reader.has(added.version).unwrap());
    assert_eq!(materialized(&reader, added.version), look(tree.path()));
}

/// A reader that knows a chunk's old place finds its new one.
#[test]
fn a_version_that_is_added_again_is_young_again() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    sample(tree.path(), 1);
    let version = add(&store, tree.path()).version;
    let manifest = dir.path().join("manifests").join(version.to_string());
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 3600);
    std::fs::File::open(&manifest).unwrap().set_modified(old).unwrap();
    let again = add(&store, tree.path());
    assert_eq!((again.version, again.chunks_new), (version, 0));
    let (none, hour) = (BTreeSet::new(), Millis(3_600_000));
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp(since.as_millis() as i64)
    };
    assert_eq!(store.gc(&none, now(), hour).unwrap().versions_removed, []);
    std::fs::File::open(&manifest).unwrap().set_modified(old).unwrap();
    assert_eq!(store.gc(&none, now(), hour).unwrap().versions_removed, [version]);
    // One that is damaged is written anew.
    let version = add(&store, tree.path()).version;
    std::fs::write(&manifest, b"TOMBMAN1").unwrap();
    assert_eq!(add(&store, tree.path()).version, version);
    assert_eq!(materialized(&store, version), look(tree.path()));
}

#[test]
fn a_pack_that_gc_rewrites_can_still_be_read_by_others() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(dir.path(), options()).unwrap();
    write(tree.path(), "a.bin", &noise(1, 400 << 10));
    write(tree.path(), "b.bin", &noise(2, 4 << 20));
    add(&store, tree.path());
    std::fs::remove_file(tree.path().join("b.bin")).unwrap();
    let small = add(&store, tree.path()).version;
    let reader = Store::open(dir.path(), options()).unwrap();
    let collected = store.gc(&BTreeSet::from([small]), far_future(), Millis(0)).unwrap();
    assert_eq!(collected.packs_rewritten, 1, "{collected:?}");
    assert_eq!(materialized(&reader, small), look(tree.path()));
}

#[test]
fn a_full_disk_is_said_to_be_one_and_loses_nothing() {
    let mount = tempfile::tempdir().unwrap();
    let tmpfs =
        nix::mount::mount(Some("tmpfs"), mount.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=8m"));
    if let Err(e) = tmpfs {
        eprintln!("SKIPPED: a full disk needs a small tmpfs, and mounting one failed: {e}");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let tree = tempfile::tempdir().unwrap();
        let store = open(&mount.path().join("store"));
        write(tree.path(), "a.bin", &noise(1, 2 << 20));
        let kept = add(&store, tree.path()).version;
        let before = look(tree.path());
        write(tree.path(), "b.bin", &noise(2, 20 << 20));
        let error = store.add_tree(tree.path(), &AddOptions::default()).unwrap_err();
        assert!(error.is_no_space(), "{error}");
        let store = open(&mount.path().join("store"));
        assert_eq!(store.versions().unwrap(), [kept]);
        assert_eq!(materialized(&store, kept), before);
        // What the failed add left is given back, and then there is room again.
        store.gc(&BTreeSet::from([kept]), far_future(), Millis(0)).unwrap();
        write(tree.path(), "b.bin", &noise(3, 3 << 20));
        assert!(store.has(add(&store, tree.path()).version).unwrap());
    });
    nix::mount::umount(mount.path()).unwrap();
    outcome.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_comes_out_as_it_went_in(
        files in prop::collection::btree_map("([a-c]{1,2}/){0,2}[a-zé]{3}", (any::<u64>(), 0_usize..700_000), 0..6)
    ) {
        let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (path, (seed, bytes)) in &files {
            let text = if seed % 2 == 0 { noise(*seed, *bytes) } else { table(*seed, bytes / 20) };
            write(tree.path(), path, &text);
        }
        let store = open(dir.path());
        let added = add(&store, tree.path());
        prop_assert_eq!(added.files as usize, files.len());
        prop_assert!(materialized(&store, added.version) == look(tree.path()));
    }
}

#[test]
fn small_packs_are_copied_together_once_there_are_many() {
    let (temp, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(temp.path());
    let mut versions = Vec::new();
    // Each add seals a pack of its own, of a few KiB.
    let add_one = |versions: &mut Vec<VersionId>| {
        write(tree.path(), "file", &noise(versions.len() as u64, 4 << 10));
        versions.push(add(&store, tree.path()).version);
    };
    let collect =
        |versions: &[VersionId]| store.gc(&versions.iter().copied().collect(), far_future(), Millis(0)).unwrap();
    (0..7).for_each(|_| add_one(&mut versions));
    assert_eq!((collect(&versions).packs_rewritten, packs(&store).len()), (0, 7), "too few");
    (0..5).for_each(|_| add_one(&mut versions));
    let collected = collect(&versions);
    assert_eq!((collected.packs_rewritten, collected.packs_removed, packs(&store).len()), (12, 0, 1), "{collected:?}");
    // The one that came of it is small as well, and isn't copied over and over.
    assert_eq!((collect(&versions).packs_rewritten, packs(&store).len()), (0, 1));
    for (seed, version) in versions.iter().enumerate() {
        assert_eq!(materialized(&store, *version)["file"], noise(seed as u64, 4 << 10));
    }
    assert!(store.verify(&VerifyOptions::default()).unwrap().is_clean());
    assert!(open(temp.path()).verify(&VerifyOptions::default()).unwrap().is_clean());
}
