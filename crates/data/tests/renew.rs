//! One version's tree made of another's, and directories that are added again and again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tombolo_data::{AddOptions, MaterializeOptions, Restless, Store, StoreOptions, VerifyOptions};

/// Paths to what is there: a file with a byte so often and whether it is executable, or a link.
#[derive(Debug, Clone)]
enum Thing {
    File { pieces: Vec<u8>, executable: bool },
    Link,
}

fn tree() -> impl Strategy<Value = BTreeMap<String, Thing>> {
    // Few names, so that a file is a directory in another tree, and the other way round.
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| parts.join("/"));
    let file = (prop::collection::vec(0..4u8, 0..6), any::<bool>())
        .prop_map(|(pieces, executable)| Thing::File { pieces, executable });
    let thing = prop_oneof![4 => file, 1 => Just(Thing::Link)];
    prop::collection::btree_map(path, thing, 1..8).prop_map(|mut tree| {
        // What is in a file can't be.
        let paths: Vec<String> = tree.keys().cloned().collect();
        tree.retain(|path, _| !paths.iter().any(|other| path.starts_with(&format!("{other}/"))));
        tree
    })
}

fn write(tree: &BTreeMap<String, Thing>, dir: &Path) {
    for (path, thing) in tree {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match thing {
            Thing::Link => std::os::unix::fs::symlink("nothing", &path).unwrap(),
            Thing::File { pieces, executable } => {
                // Each piece is some chunks long, and never the same twice within a file.
                let mut bytes = Vec::new();
                for (at, piece) in pieces.iter().enumerate() {
                    let mut block = vec![0; 70_000 + 1_000 * usize::from(*piece)];
                    blake3::Hasher::new().update(&[*piece, at as u8]).finalize_xof().fill(&mut block);
                    bytes.extend(block);
                }
                fs::write(&path, bytes).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_is_made_of_any_other(trees in prop::collection::vec(tree(), 2..5)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
        let versions: Vec<_> = trees.iter().enumerate().map(|(number, tree)| {
            let at = dir.path().join(format!("tree{number}"));
            fs::create_dir(&at).unwrap();
            write(tree, &at);
            store.add_tree(&at, &AddOptions::default()).unwrap().version
        }).collect();
        let place = dir.path().join("place");
        let options = MaterializeOptions::default();
        store.materialize(versions[0], &place, &options).unwrap();
        for two in versions.windows(2) {
            store.renew(two[0], two[1], &place, &options).unwrap();
            // Added again it is the same version: contents, modes, links and nothing else.
            prop_assert_eq!(store.add_tree(&place, &AddOptions::default()).unwrap().version, two[1]);
        }
    }
}

#[test]
fn only_what_differs_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
    let (tree, place) = (dir.path().join("tree"), dir.path().join("place"));
    fs::create_dir(&tree).unwrap();
    let mut bytes = vec![0; 8 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    fs::write(tree.join("large"), &bytes).unwrap();
    fs::write(tree.join("same"), "same").unwrap();
    let first = store.add_tree(&tree, &AddOptions::default()).unwrap().version;
    bytes[4 << 20..(4 << 20) + 100].fill(7);
    fs::write(tree.join("large"), &bytes).unwrap();
    let second = store.add_tree(&tree, &AddOptions::default()).unwrap().version;
    store.materialize(first, &place, &MaterializeOptions::default()).unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    let progress: tombolo_data::Progress = Arc::new(move |done, _| said.send(done).unwrap());
    store.renew(first, second, &place, &MaterializeOptions { progress: Some(progress), ..Default::default() }).unwrap();
    let written = heard.try_iter().max().unwrap();
    assert!(written < 600_000, "{written} bytes were written");
    assert!(fs::read(place.join("large")).unwrap() == bytes);
    assert!(store.verify(&VerifyOptions::default()).unwrap().is_clean());
}

#[test]
fn what_was_seen_of_a_forgotten_version_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), vec![1; 100_000]).unwrap();
    let path = tree.join("file");
    // Older than what the times of a file system can't tell apart.
    while path.metadata().unwrap().modified().unwrap().elapsed().unwrap().as_millis() < 2_100 {
        std::thread::yield_now();
    }
    let (added, seen) = store.add_tree_seen(&tree, &AddOptions::default()).unwrap();
    let options = AddOptions { seen: Some(Arc::new(seen)), ..AddOptions::default() };
    assert_eq!(store.add_tree(&tree, &options).unwrap().bytes_read, 0);
    let now = tombolo_core::Timestamp(i64::MAX / 2);
    store.gc(&Default::default(), now, tombolo_core::Millis(0)).unwrap();
    let again = store.add_tree(&tree, &options).unwrap();
    assert_eq!((again.version, again.bytes_read), (added.version, 100_000));
    store.materialize(again.version, dir.path().join("back"), &MaterializeOptions::default()).unwrap();
}

/// A large file is removed while it is read; those behind it are what they are.
#[test]
fn a_file_that_vanishes_takes_nothing_of_others_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    // More than is ever on its way between who reads and who stores, so that it is still being read by the first word.
    fs::write(tree.join("a"), vec![1; 96 << 20]).unwrap();
    // The walk goes in the directory's own order, so that some of many come behind it.
    let others = (0..30).map(|other| (format!("f{other}"), format!("content of {other}")));
    others.clone().for_each(|(name, content)| fs::write(tree.join(name), content).unwrap());
    let vanishing = tree.join("a");
    // Who has it open would read the file on that is only removed.
    let progress = move |done: u64, _: u64| {
        let file = fs::File::options().write(true).open(&vanishing);
        if let (1.., Ok(file)) = (done, file) {
            fs::remove_file(&vanishing).unwrap();
            file.set_len(0).unwrap();
        }
    };
    let restless = Some(Restless { tries: 3, pause: Duration::ZERO });
    let options = AddOptions { restless, progress: Some(Arc::new(progress)), ..AddOptions::default() };
    let (added, _) = store.add_tree_seen(&tree, &options).unwrap();
    assert!(!tree.join("a").exists());
    let back = dir.path().join("back");
    store.materialize(added.version, &back, &MaterializeOptions::default()).unwrap();
    let read = others.clone().map(|(name, _)| (name.clone(), fs::read_to_string(back.join(name)).unwrap()));
    assert_eq!(read.collect::<Vec<_>>(), others.collect::<Vec<_>>());
    // Where files can be cloned it stands still as it was.
    assert!(!back.join("a").exists() || fs::read(back.join("a")).unwrap() == vec![1; 96 << 20]);
}
