//! What the tests of the store share: trees to add, and a look at what came out.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tombolo_data::{AddOptions, Added, MaterializeOptions, SiteKey, Store, StoreOptions};

/// Bytes that don't compress, the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A table of text, which compresses.
pub fn table(seed: u64, rows: usize) -> Vec<u8> {
    (0..rows)
        .flat_map(|row| format!("{row},{},origin,{}\n", (row as u64).wrapping_mul(seed) % 977, seed).into_bytes())
        .collect()
}

pub fn write(dir: &Path, path: &str, bytes: &[u8]) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// With a key in the tests of `encrypted.rs`, which are those of the others and more.
pub fn options() -> StoreOptions {
    let key = module_path!().starts_with("encrypted").then(|| key(1));
    StoreOptions { key, ..StoreOptions::default() }
}

/// The same for the same byte.
pub fn key(byte: u8) -> SiteKey {
    SiteKey::new([byte; 32])
}

pub fn open(dir: &Path) -> Store {
    open_with(dir, options())
}

pub fn open_with(dir: &Path, options: StoreOptions) -> Store {
    // Small packs, so that small trees have several.
    Store::open(dir, StoreOptions { pack_bytes: 256 << 10, ..options }).unwrap()
}

pub fn add(store: &Store, tree: &Path) -> Added {
    store.add_tree(tree, &AddOptions::default()).unwrap()
}

/// A tree with large and small, empty, executable and linked things.
pub fn sample(dir: &Path, seed: u64) {
    write(dir, "large.bin", &noise(seed, 3 << 20));
    write(dir, "table.csv", &table(seed, 60_000));
    write(dir, "empty", b"");
    for i in 0..40 {
        write(dir, &format!("many/{}/{i}.txt", i % 3), format!("{seed} {i}").as_bytes());
    }
    write(dir, "run.sh", b"#!/bin/sh\n");
    std::fs::set_permissions(dir.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir_all(dir.join("hollow/inner")).unwrap();
    std::os::unix::fs::symlink("../large.bin", dir.join("many/link")).unwrap();
}

/// Everything that a tree is, as text and bytes.
pub fn look(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut seen = BTreeMap::new();
    look_into(dir, "", &mut seen);
    seen
}

fn look_into(dir: &Path, prefix: &str, seen: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let metadata = entry.metadata().unwrap();
        if metadata.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            seen.insert(format!("{path} ->"), target.to_str().unwrap().into());
        } else if metadata.is_dir() {
            seen.insert(format!("{path}/"), Vec::new());
            look_into(&entry.path(), &format!("{path}/"), seen);
        } else {
            let executable = metadata.permissions().mode() & 0o111 != 0;
            seen.insert(format!("{path}{}", if executable { "*" } else { "" }), std::fs::read(entry.path()).unwrap());
        }
    }
}

pub fn materialized(store: &Store, version: tombolo_core::VersionId) -> BTreeMap<String, Vec<u8>> {
    let dest = tempfile::tempdir().unwrap();
    store.materialize(version, dest.path().join("new"), &MaterializeOptions::default()).unwrap();
    look(&dest.path().join("new"))
}

pub fn packs(store: &Store) -> Vec<std::path::PathBuf> {
    let mut packs: Vec<_> =
        std::fs::read_dir(store.dir().join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    packs.sort();
    packs
}
