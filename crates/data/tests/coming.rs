//! Versions that are read while they come.

mod help;
#[path = "help/peer.rs"]
mod peer;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use help::{key, noise, open, write};
use peer::{Hold, World, check_arrived, honest, options, source, world_of};
use tokio::sync::watch;
use tombolo_data::transfer::{FetchOptions, Seal, fetch};
use tombolo_data::{DataError, Expect, Store, StoreOptions};

const BYTES: usize = 6 << 20;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Counts what is written to it.
struct Counted(Vec<u8>, watch::Sender<usize>);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        self.1.send_replace(self.0.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Reader {
    over: Arc<AtomicBool>,
    come: watch::Receiver<usize>,
    read: tokio::task::JoinHandle<Result<Vec<u8>, DataError>>,
}

/// Reads by a handle of its own, as another process does.
fn follow(world: &World, reader: Store) -> Reader {
    let over = Arc::new(AtomicBool::new(false));
    let (send, come) = watch::channel(0);
    let (asked, version) = (over.clone(), world.version);
    let read = tokio::task::spawn_blocking(move || {
        let mut out = Counted(Vec::new(), send);
        let expect = || if asked.load(Ordering::SeqCst) { Expect::NoMore } else { Expect::More };
        let bytes = reader.follow_file(version, None, &expect, &mut out)?;
        assert_eq!(bytes, out.0.len() as u64);
        Ok(out.0)
    });
    Reader { over, come, read }
}

fn eager() -> FetchOptions {
    FetchOptions { seal: Seal { bytes: 1, after: Duration::ZERO }, stall: PATIENCE, ..options() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_come_is_read_before_the_rest_has() {
    let large = noise(1, BYTES);
    let world = world_of(|tree| write(tree, "large.bin", &large));
    let mut reader = follow(&world, open(world.to.dir()));
    let hold = Hold::new(world.from.chunk_count().unwrap() as usize / 2);
    let mut held = source(&world.from, "held", None);
    held.dial.hold = Some(hold.clone());
    let (to, version) = (world.to.clone(), world.version);
    let running = tokio::spawn(async move { fetch(&to, version, &[held], &eager()).await });
    let some = reader.come.wait_for(|come| *come > 0);
    let some = *tokio::time::timeout(PATIENCE, some).await.expect("nothing is read").unwrap();
    assert!(some < BYTES && !running.is_finished());
    assert!(!world.to.has(version).unwrap(), "it hasn't come yet");
    hold.permits.add_permits(1 << 20);
    running.await.unwrap().unwrap();
    assert!(reader.read.await.unwrap().unwrap() == large);
    check_arrived(&world);
    // Nothing is left of what was shown.
    let left = std::fs::read_dir(world.to.dir().join("tmp")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_what_comes_no_more_is_told() {
    let world = world_of(|tree| write(tree, "large.bin", &noise(1, BYTES)));
    let mut reader = follow(&world, open(world.to.dir()));
    let hold = Hold::new(world.from.chunk_count().unwrap() as usize / 2);
    let mut held = source(&world.from, "held", None);
    held.dial.hold = Some(hold.clone());
    let (to, version, options) = (world.to.clone(), world.version, eager());
    let cancel = options.cancel.clone();
    let running = tokio::spawn(async move { fetch(&to, version, &[held], &options).await });
    tokio::time::timeout(PATIENCE, reader.come.wait_for(|come| *come > 0)).await.expect("nothing is read").unwrap();
    cancel.cancel();
    assert!(running.await.unwrap().is_err());
    reader.over.store(true, Ordering::SeqCst);
    let error = reader.read.await.unwrap().unwrap_err();
    assert!(matches!(error, DataError::NoChunk { .. }), "{error}");
    // Whoever comes later has the rest fetched, and reads all.
    fetch(&world.to, world.version, &[honest(&world.from)], &eager()).await.unwrap();
    assert_eq!(follow(&world, open(world.to.dir())).read.await.unwrap().unwrap().len(), BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_key_nothing_of_it_lies_there_in_the_clear() {
    let world = world_of(|tree| write(tree, "a-telling-name.bin", &noise(1, BYTES)));
    let dir = tempfile::tempdir().unwrap();
    let store = || Store::open(dir.path(), StoreOptions { key: Some(key(1)), ..StoreOptions::default() }).unwrap();
    let to = store();
    let hold = Hold::new(3);
    let mut held = source(&world.from, "held", None);
    held.dial.hold = Some(hold.clone());
    let mut reader = follow(&world, store());
    let (sealed, version) = (to.clone(), world.version);
    let running = tokio::spawn(async move { fetch(&sealed, version, &[held], &eager()).await });
    hold.waited.subscribe().wait_for(|waited| *waited > 3).await.unwrap();
    let shown: Vec<_> = std::fs::read_dir(dir.path().join("tmp")).unwrap().flatten().collect();
    assert!(shown.iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".coming")));
    for entry in shown {
        let Ok(bytes) = std::fs::read(entry.path()) else { continue };
        assert!(!bytes.windows(14).any(|part| part == b"a-telling-name"), "{:?}", entry.file_name());
    }
    hold.permits.add_permits(1 << 20);
    running.await.unwrap().unwrap();
    assert_eq!(reader.read.await.unwrap().unwrap().len(), BYTES);
    assert_eq!(*reader.come.borrow_and_update(), BYTES);
}

#[test]
fn of_several_files_one_is_named() {
    let world = world_of(|tree| {
        write(tree, "a.bin", b"a");
        write(tree, "b/c.bin", b"c");
    });
    let read = |path: Option<&str>| {
        let mut out = Vec::new();
        world.from.follow_file(world.version, path, &|| Expect::NoMore, &mut out).map(|_| out)
    };
    assert_eq!(read(Some("b/c.bin")).unwrap(), b"c");
    let several = read(None).unwrap_err().to_string();
    assert!(several.contains("several files, such as a.bin, b/c.bin: name one"), "{several}");
    assert!(read(Some("b")).unwrap_err().to_string().contains("has no file \"b\""));
}
