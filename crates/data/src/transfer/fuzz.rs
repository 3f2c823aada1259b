//! Both ends of a transfer, with a peer at the other that says anything.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tombolo_core::{Digest, VersionId};

use super::reconcile::{Step, Walk};
use super::wire::{Answer, Request, read_answer, read_request};
use super::{Budget, Dial, FetchOptions, Gate, Source, serve_stream};
use crate::add::AddOptions;
use crate::fuzz::Draw;
use crate::manifest::Manifest;
use crate::manifest::pages::{PAGE_BYTES_MAX, PageTree, digest_of};
use crate::session::lock;
use crate::store::{Store, StoreOptions};

/// Both requests and answers are read from a stream as long as it lasts, and what is read has one encoding.
pub fn request(bytes: &[u8]) {
    if let Some(request) = Request::decode(bytes) {
        assert!(request.encode() == bytes, "two encodings of one request");
    }
    block_on(async {
        let mut rest = bytes;
        while let Ok(Some(request)) = read_request(&mut rest).await {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
    });
}

/// As [`request`]; what a reason says is cleaned, and is the same when it is cleaned again.
pub fn answer(bytes: &[u8]) {
    if let Some(answer) = Answer::decode(bytes.to_vec()) {
        check_answer(&answer, bytes);
    }
    block_on(async {
        let mut rest = bytes;
        while let Ok((answer, length)) = read_answer(&mut rest).await {
            let read = bytes.len() - rest.len();
            check_answer(&answer, &bytes[read - length as usize + 4..read]);
        }
    });
}

fn check_answer(answer: &Answer, body: &[u8]) {
    let mut frame = Vec::new();
    answer.frame(&mut frame);
    match answer {
        Answer::Absent(why) | Answer::Refused(why) => {
            assert!(!why.chars().any(char::is_control), "{why:?}");
            let again = Answer::decode(frame[4..].to_vec()).expect("an answer of our own");
            let (Answer::Absent(again) | Answer::Refused(again)) = again else { panic!("it is of another kind") };
            // What isn't UTF-8 grows when it is replaced, and may be cut then.
            assert!(why.starts_with(again.trim_end_matches('\u{fffd}')), "{why:?} {again:?}");
        }
        _ => assert!(frame[4..] == *body, "two encodings of one answer"),
    }
}

/// The fetching side's walk down a tree that a liar made up: its items are whatever the bytes say, with right digests.
/// The walk ends, and only with as many bytes as were promised. Down an honest tree it finds just what that holds.
pub fn walk(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let mut items: Vec<Vec<u8>> = Vec::new();
    for _ in 0..draw.within(1..=60) {
        let height = draw.byte() % 12;
        let item = match height {
            0 => {
                let length = draw.within(0..=PAGE_BYTES_MAX + 2);
                let mut item = vec![0];
                item.extend_from_slice(draw.bytes(length));
                item
            }
            height => {
                let mut item = vec![height];
                for _ in 0..draw.within(0..=130) {
                    // Any of those before it, and some that nobody has.
                    let child = draw.byte() as usize;
                    let digest = items.get(child).map_or(Digest([child as u8; 32]), |item| digest_of(item));
                    item.extend_from_slice(&digest.0);
                }
                item
            }
        };
        items.push(item);
    }
    let promised = u64::from(u32::from_le_bytes([draw.byte(), draw.byte(), draw.byte(), draw.byte() % 32]));
    let held = [PageTree::build(&[draw.0, b"."].concat())];
    down(promised, &items, &held, draw.0);
    honest(bytes);
}

fn down(promised: u64, items: &[Vec<u8>], held: &[PageTree], encoded: &[u8]) {
    let known: HashMap<Digest, &Vec<u8>> = items.iter().map(|item| (digest_of(item), item)).collect();
    let root = items.last().cloned().into_iter().collect::<Vec<_>>();
    let Ok(mut walk) = Walk::new(promised, &root) else { return };
    if walk.given(&root, held).is_err() {
        return;
    }
    let mut asked_in_all = 0;
    loop {
        match walk.step(4096) {
            Step::Ask(asked) => {
                asked_in_all += asked.len();
                assert!(asked_in_all as u64 <= 10 * (promised + 4096), "it asks for ever");
                // What it hasn't got a liar makes up; that is found.
                let Some(given) = asked.iter().map(|digest| known.get(digest).map(|item| (*item).clone())).collect()
                else {
                    return;
                };
                if walk.answered(&asked, given, held).is_err() {
                    return;
                }
            }
            Step::Whole => return,
            Step::Assemble => break,
        }
    }
    let read = |_| Ok::<_, std::convert::Infallible>([encoded, b"."].concat());
    if let Ok(Some(assembled)) = walk.assemble(read) {
        assert_eq!(assembled.len() as u64, promised);
    }
}

/// The tree of the bytes, where a version of them with a change in the middle is held.
fn honest(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let tree = PageTree::build(bytes);
    let mut changed = bytes.to_vec();
    let middle = bytes.len() / 2;
    changed.splice(middle..middle, *b"a change");
    let held = [PageTree::build(&changed)];
    let head: Vec<Vec<u8>> = tree.head(0).into_iter().map(|place| tree.item(place, bytes)).collect();
    let mut walk = Walk::new(bytes.len() as u64, &head).expect("an honest root");
    walk.given(&head, &held).expect("an honest head");
    loop {
        match walk.step(64) {
            Step::Ask(asked) => {
                let item = |digest| tree.item(tree.find(digest).expect("it asks for what the tree has"), bytes);
                let items = asked.iter().map(item).collect();
                walk.answered(&asked, items, &held).expect("honest items");
            }
            Step::Whole => return,
            Step::Assemble => break,
        }
    }
    let assembled = walk.assemble(|_| Ok::<_, std::convert::Infallible>(changed.clone()));
    assert!(assembled.is_ok_and(|found| found.is_some_and(|found| found == bytes)), "it put something else together");
}

/// What a peer may say to who serves: whatever it asks, it gets no chunk of a version that its grant doesn't name.
pub fn serve(bytes: &[u8]) {
    let world = World::get();
    let mut sent = Vec::new();
    // An error is the peer's.
    let _ = block_on(serve_stream(&world.served, &mut sent, bytes, &Only(world.open)));
    let mut rest = &sent[..];
    block_on(async {
        while let Ok((answer, _)) = read_answer(&mut rest).await {
            match answer {
                Answer::Chunk { raw, stored } => {
                    let chunk = world.of_open.iter().any(|digest| crate::codec::verify(&stored, raw, digest).is_ok());
                    assert!(chunk, "a chunk that the version hasn't got was sent");
                }
                Answer::Manifest { .. } | Answer::Piece(_) | Answer::Head { .. } | Answer::Item(_) => {}
                Answer::Absent(why) | Answer::Refused(why) => assert!(!why.contains('/'), "{why}"),
            }
        }
    });
    assert!(rest.is_empty(), "what was sent isn't all answers");
    assert!(!sent.windows(SECRET.len()).any(|window| window == SECRET), "another version's bytes were sent");
}

/// What a peer may say to who fetches: a version is there when the fetch says so, whole and sound; else it isn't, and what
/// has come is sound.
pub fn fetch(bytes: &[u8]) {
    let world = World::get();
    let dir = Scratch::new("fetch");
    let store = open(&dir.0);
    let sources = [Source { dial: Canned(Mutex::new(bytes.to_vec())), grant: Vec::new(), name: "liar".to_owned() }];
    let options = FetchOptions {
        parallel: 1,
        budget: Budget::new(1 << 20),
        stall: Duration::from_millis(200),
        ..FetchOptions::default()
    };
    let fetched = block_on(super::fetch(&store, world.open, &sources, &options));
    let missing = store.missing_refreshed(&world.manifest).expect("a store that is there");
    assert_eq!(store.has(world.open).expect("a store that is there"), fetched.is_ok());
    let versions = store.versions().expect("a store that is there");
    assert!(versions.iter().all(|version| *version == world.open), "versions nobody asked for");
    if fetched.is_ok() {
        assert!(missing.is_empty());
    }
    for chunk in world.manifest.chunks().filter(|chunk| !missing.contains(chunk)) {
        let read = store.read_chunk(chunk).expect("what is held is sound");
        assert_eq!(read.len() as u32, chunk.bytes);
    }
}

/// In every file of the version that nobody may have.
const SECRET: &[u8] = b"what nobody outside may ever see of this";

/// Versions to ask for: the same bytes each time, so that a seed can name them.
struct World {
    served: Store,
    open: VersionId,
    manifest: Manifest,
    of_open: BTreeSet<Digest>,
    _dir: Scratch,
}

impl World {
    fn get() -> &'static World {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(|| {
            let dir = Scratch::new("world");
            let served = open(&dir.0.join("store"));
            let add = |name: &str, files: &[(&str, &[u8])]| {
                let tree = dir.0.join(name);
                std::fs::create_dir_all(&tree).expect("a directory");
                for (file, bytes) in files {
                    std::fs::write(tree.join(file), bytes).expect("a file");
                }
                served.add_tree(&tree, &AddOptions::default()).expect("a small tree").version
            };
            let lines: Vec<u8> = (0..400).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
            let open = add("open", &[("a", b"the first file"), ("b", &lines), ("c", b"")]);
            add("hidden", &[("s", SECRET)]);
            let manifest = served.manifest(open).expect("it was just added");
            let of_open = manifest.chunks().map(|chunk| chunk.digest).collect();
            World { served, open, manifest, of_open, _dir: dir }
        })
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).expect("a new store")
}

/// A directory that goes with the value, in memory where the system has that.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> Scratch {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let shm = PathBuf::from("/dev/shm");
        let dir = if shm.is_dir() { shm } else { std::env::temp_dir() };
        let dir = dir.join(format!("tombolo-fuzz-{}-{what}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lets one version go.
struct Only(VersionId);

impl Gate for Only {
    fn check(&self, _grant: &[u8], version: VersionId) -> Result<(), String> {
        if version == self.0 { Ok(()) } else { Err("another version".to_owned()) }
    }
}

/// A peer that says all it ever says at once, whatever it is asked.
struct Canned(Mutex<Vec<u8>>);

impl Dial for Canned {
    type Send = tokio::io::Sink;
    type Recv = Said;

    async fn open(&self) -> io::Result<(tokio::io::Sink, Said)> {
        let bytes = std::mem::take(&mut *lock(&self.0));
        if bytes.is_empty() {
            return Err(io::Error::other("it has hung up"));
        }
        Ok((tokio::io::sink(), Said(Arc::new(bytes), 0)))
    }
}

struct Said(Arc<Vec<u8>>, usize);

impl AsyncRead for Said {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = self.0.clone();
        let rest = &bytes[self.1..];
        let taken = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..taken]);
        self.1 += taken;
        Poll::Ready(Ok(()))
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Valid streams, for seeds: what an honest peer asks, and what an honest one answers.
#[cfg(test)]
mod seeds {
    use super::super::wire::{Wanted, write_request};
    use super::*;

    #[test]
    fn an_honest_stream_brings_the_version() {
        let world = World::get();
        let asked = |what| Request { version: world.open, grant: b"leave".to_vec(), what };
        let digests: Vec<Digest> = world.manifest.chunks().map(|chunk| chunk.digest).collect();
        let mut asking = Vec::new();
        block_on(async {
            for what in [Wanted::Manifest, Wanted::Chunks(digests.clone())] {
                write_request(&mut asking, &asked(what)).await.unwrap();
            }
        });
        serve(&asking);
        let mut answers = Vec::new();
        block_on(serve_stream(&world.served, &mut answers, &asking[..], &Only(world.open))).unwrap();
        fetch(&answers);
        let dir = Scratch::new("honest");
        let store = open(&dir.0);
        let sources = [Source { dial: Canned(Mutex::new(answers.clone())), grant: Vec::new(), name: "peer".into() }];
        let options = FetchOptions { parallel: 1, ..FetchOptions::default() };
        block_on(super::super::fetch(&store, world.open, &sources, &options)).unwrap();
        assert!(store.has(world.open).unwrap(), "what goes out comes in");
        if let Some(into) = std::env::var_os("TOMBOLO_WRITE_SEEDS") {
            let into = Path::new(&into);
            for (name, bytes) in [
                ("data-serve", &asking),
                ("data-fetch", &answers),
                ("data-answer", &answers),
                ("data-request", &asking),
            ] {
                std::fs::create_dir_all(into.join(name)).unwrap();
                std::fs::write(into.join(name).join("honest"), bytes).unwrap();
            }
            let mut sound = Vec::new();
            block_on(async {
                write_request(&mut sound, &asked(Wanted::Tree(Vec::new()))).await.unwrap();
                write_request(&mut sound, &asked(Wanted::Sound(digests))).await.unwrap();
            });
            std::fs::write(into.join("data-serve/sound"), &sound).unwrap();
            std::fs::create_dir_all(into.join("data-manifest")).unwrap();
            std::fs::write(into.join("data-manifest/small"), world.manifest.encode()).unwrap();
        }
    }
}
