//! How fast trees go in and out; run by hand with `--ignored --nocapture`, on a quiet machine.

mod help;

use std::path::Path;
use std::time::Instant;

use help::{noise, table, write};
use tombolo_data::{AddOptions, MaterializeOptions, Store, StoreOptions};

#[test]
#[ignore = "a measurement of about a minute that needs 3 GB of disk"]
fn one_gigabyte_of_mixed_files() {
    let (dir, tree, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for i in 0..4 {
        write(tree.path(), &format!("tables/{i}.csv"), &table(i + 3, 6_000_000));
        write(tree.path(), &format!("columns/{i}.parquet"), &noise(i, 120 << 20));
    }
    for i in 0..20_000 {
        write(tree.path(), &format!("small/{}/{i}", i % 100), &noise(i, 2000 + (i as usize * 37) % 6000));
    }
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    measure(&store, tree.path(), "add");
    measure(&store, tree.path(), "add again");
    nix::unistd::sync();
    let began = Instant::now();
    let version = store.versions().unwrap()[0];
    let summary = store.materialize(version, out.path(), &MaterializeOptions::default()).unwrap();
    println!("materialize: {:.0} MB/s", summary.bytes as f64 / 1e6 / began.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
}

#[test]
#[ignore = "a measurement that makes 100,000 files"]
fn a_hundred_thousand_small_files() {
    let (dir, tree, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for i in 0..100_000 {
        write(tree.path(), &format!("{}/{i}", i % 300), &noise(i, 500 + (i as usize * 37) % 3000));
    }
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    measure(&store, tree.path(), "add");
    nix::unistd::sync();
    let began = Instant::now();
    let version = store.versions().unwrap()[0];
    store.materialize(version, out.path(), &MaterializeOptions::default()).unwrap();
    println!("materialize: {:.2} s", began.elapsed().as_secs_f64());
}

fn measure(store: &Store, tree: &Path, what: &str) {
    // What others have written shall not be waited for by our syncs.
    nix::unistd::sync();
    let began = Instant::now();
    let added = store.add_tree(tree, &AddOptions::default()).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{what}: {} files, {:.0} MB in {seconds:.2} s, {:.0} MB/s, {:.0} MB stored, {} chunks",
        added.files,
        added.bytes as f64 / 1e6,
        added.bytes as f64 / 1e6 / seconds,
        added.bytes_new as f64 / 1e6,
        added.chunks,
    );
}
