//! What strangers' bytes may do to the decoders: they are refused, and take no more room than their length allows.
#![allow(unsafe_code)]

mod help;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use help::{add, noise, open, write};
use proptest::prelude::*;
use tombolo_core::{Digest, VersionId};
use tombolo_data::manifest::{Entry, Node};
use tombolo_data::transfer::{Gate, serve_stream};
use tombolo_data::{CHUNK_BYTES_MAX, ChunkRef, Manifest, VerifyOptions};

/// Counts what each thread asks for, so that tests beside this one don't matter.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more, and no test that asks for it.
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The result and the bytes of all allocations on the way, also those given back.
fn asked<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = ASKED.get();
    let result = run();
    (result, ASKED.get() - before)
}

/// An entry of 4 bytes becomes one of 56, twice over while the list grows, and one of the set of paths.
const MANIFEST_FACTOR: usize = 64;
const MANIFEST_BASE: usize = 4 << 10;
/// A frame of the longest chunk's room, and what the stream itself takes.
const REQUEST_ROOM: usize = CHUNK_BYTES_MAX + (64 << 10);

fn manifest(names: &[String], chunks: usize) -> Vec<u8> {
    let chunk = ChunkRef { digest: Digest([7; 32]), bytes: 9 };
    let entry = |name: &String| Entry {
        path: name.clone(),
        node: Node::File { executable: false, chunks: vec![chunk; chunks] },
    };
    Manifest::new(names.iter().map(entry).collect()).unwrap().encode()
}

/// Replaces four bytes, the size of a count, and cuts or extends.
fn spoil(bytes: &mut Vec<u8>, at: usize, with: [u8; 4], length: usize) {
    for (offset, byte) in with.into_iter().enumerate() {
        if let Some(slot) = bytes.get_mut(at + offset) {
            *slot = byte;
        }
    }
    bytes.resize(length, 0);
}

/// No grant is good here.
struct Closed;

impl Gate for Closed {
    fn check(&self, _: &[u8], _: VersionId) -> Result<(), String> {
        Err("closed".to_owned())
    }
}

fn request(kind: u8, grant: &[u8], digests: u32) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend_from_slice(&[3; 32]);
    body.extend_from_slice(&(grant.len() as u32).to_le_bytes());
    body.extend_from_slice(grant);
    if kind == 2 || kind == 3 {
        body.extend_from_slice(&digests.to_le_bytes());
        body.resize(body.len() + digests as usize * 32, 5);
    }
    [&(body.len() as u32).to_le_bytes()[..], &body].concat()
}

proptest! {
    #[test]
    fn a_manifest_takes_room_for_what_is_there(
        names in prop::collection::btree_set("[a-z]{1,9}", 1..30), chunks in 0..40_usize,
        // Where the counts of the entries and of the first chunks are.
        at in 0..32_usize, with in prop_oneof![Just([0xff; 4]), any::<[u8; 4]>()],
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = manifest(&names.into_iter().collect::<Vec<_>>(), chunks);
        let length = length.index(bytes.len() * 2);
        spoil(&mut bytes, at, with, length);
        let (decoded, asked) = asked(|| Manifest::decode(&bytes));
        prop_assert!(asked <= MANIFEST_FACTOR * bytes.len() + MANIFEST_BASE, "{asked} for {}", bytes.len());
        if let Ok(decoded) = decoded {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn a_request_takes_no_more_than_a_frame(
        kind in 0..5_u8, grant in prop::collection::vec(any::<u8>(), 0..99), digests in 0..9_u32,
        at in any::<prop::sample::Index>(), with in prop_oneof![Just([0xff; 4]), any::<[u8; 4]>()],
        length in any::<prop::sample::Index>(),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let store = open(temp.path());
        let mut bytes = request(kind, &grant, digests);
        let (at, length) = (at.index(bytes.len()), length.index(bytes.len() * 2));
        spoil(&mut bytes, at, with, length);
        let mut sent = Vec::new();
        let (polled, asked) = asked(|| {
            let serving = pin!(serve_stream(&store, &mut sent, &bytes[..], &Closed));
            serving.poll(&mut Context::from_waker(Waker::noop()))
        });
        prop_assert!(asked <= REQUEST_ROOM, "{asked} for {}", bytes.len());
        // All bytes are there and the gate is shut, so that there is nothing to wait for.
        let Poll::Ready(served) = polled else { panic!("it waits") };
        prop_assert!(served.map_or(0, |served| served.requests) <= 1);
    }
}

#[test]
fn a_pack_that_is_changed_anywhere_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, tree) = (temp.path().join("store"), temp.path().join("tree"));
    write(&tree, "a", &noise(1, 9 << 10));
    add(&open(&dir), &tree);
    let pack = std::fs::read_dir(dir.join("packs")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&pack).unwrap();
    let check = |bytes: &[u8], what: &str| {
        std::fs::write(&pack, bytes).unwrap();
        // Without its index the store believes the packs alone.
        std::fs::remove_dir_all(dir.join("index")).unwrap();
        let clean = open(&dir).verify(&VerifyOptions::default()).unwrap().is_clean();
        assert_eq!(clean, bytes == whole, "{what}");
    };
    check(&whole, "as it was");
    for at in (0..whole.len()).step_by(501).chain(whole.len() - 90..whole.len()) {
        let mut changed = whole.clone();
        changed[at] ^= 0x80;
        check(&changed, &format!("byte {at} of {}", whole.len()));
        check(&whole[..at], &format!("cut at {at}"));
    }
    check(&[&whole[..], &[0; 512]].concat(), "extended");
}
