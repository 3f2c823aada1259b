//! What it takes to find a few missing chunks among many, for `cargo xtask bench reconcile`.
//!
//! `reconcile <directory> <chunks> <changed>` makes two stores there, each with a version of so many chunks, of which
//! so many differ; the one fetches the other's, and every byte that passes between them is counted, both ways. The
//! chunks are of 8 bytes each, so that what is moved is what it takes to find them.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, copy_bidirectional, duplex, split};
use tokio::task::JoinHandle;
use tombolo_core::{Digest, VersionId};
use tombolo_data::manifest::{Entry, Node};
use tombolo_data::transfer::{Dial, FetchOptions, Fetched, Gate, Source, fetch, serve_stream};
use tombolo_data::{ChunkRef, Manifest, Store, StoreOptions};

/// Chunks in one file: 1 GiB of those that large files have.
const FILE_CHUNKS: usize = 16 << 10;
const CHUNK_BYTES: usize = 8;
const BUFFER_BYTES: usize = 1 << 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, chunks, changed] = &args[..] else {
        return Err("usage: reconcile <directory> <chunks> <changed>".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(Path::new(dir), chunks.parse()?, changed.parse()?))
}

async fn run(dir: &Path, chunks: usize, changed: usize) -> Outcome<()> {
    let mut contents: Vec<u64> = (0..chunks as u64).collect();
    let here = filled(&dir.join("here"), &contents).await?.0;
    for change in 0..changed {
        contents[change * chunks / changed] = (chunks + change) as u64;
    }
    let (there, version) = filled(&dir.join("there"), &contents).await?;
    drop(contents);
    let counted = Counted { store: there, passed: Mutex::default() };
    let source = [Source { dial: counted, grant: vec![7; 400], name: "there".to_owned() }];
    let began = Instant::now();
    let fetched = fetch(&here, version, &source, &FetchOptions::default()).await?;
    let seconds = began.elapsed().as_secs_f64();
    let [Source { dial, .. }] = source;
    let passed = dial.passed.into_inner()?;
    let mut bytes = [0, 0];
    for pass in passed {
        let (asked, answered) = pass.await??;
        bytes = [bytes[0] + asked, bytes[1] + answered];
    }
    if fetched.chunks != changed as u64 || fetched.bytes_wire != bytes[0] + bytes[1] {
        return Err(format!("{changed} chunks were to come, and {bytes:?} bytes passed: {fetched:?}").into());
    }
    let report = serde_json::json!({
        "bytes_asked": bytes[0],
        "bytes_answered": bytes[1],
        "bytes_manifest": here.manifest_bytes(version)?.len(),
        "seconds": seconds,
    });
    println!("{report}");
    Ok(())
}

/// A store with the version of these chunks.
async fn filled(dir: &Path, contents: &[u64]) -> Outcome<(Store, VersionId)> {
    let store = Store::open(dir, StoreOptions::default())?;
    let chunk = |content: &u64| ChunkRef {
        digest: Digest(*blake3::hash(&content.to_le_bytes()).as_bytes()),
        bytes: CHUNK_BYTES as u32,
    };
    let file = |(number, contents): (usize, &[u64])| Entry {
        path: format!("part-{number:06}.bin"),
        node: Node::File { executable: false, chunks: contents.iter().map(chunk).collect() },
    };
    let manifest = Manifest::new(contents.chunks(FILE_CHUNKS).enumerate().map(file).collect())?;
    let (encoded, version) = (manifest.encode(), manifest.version());
    drop(manifest);
    let maker = Maker { encoded: Arc::new(encoded), contents: Arc::new(contents.to_vec()) };
    let source = [Source { dial: maker, grant: Vec::new(), name: "maker".to_owned() }];
    // One stream, so that the chunks are asked for in their order.
    let options = FetchOptions { parallel: 1, ..FetchOptions::default() };
    let Fetched { chunks, .. } = fetch(&store, version, &source, &options).await?;
    assert_eq!(chunks, contents.len() as u64);
    Ok((store, version))
}

/// A source that makes the chunks up as they are asked for.
struct Maker {
    encoded: Arc<Vec<u8>>,
    contents: Arc<Vec<u64>>,
}

impl Dial for Maker {
    type Send = WriteHalf<DuplexStream>;
    type Recv = ReadHalf<DuplexStream>;

    async fn open(&self) -> io::Result<(Self::Send, Self::Recv)> {
        let (near, far) = duplex(BUFFER_BYTES);
        let (recv, send) = split(near);
        tokio::spawn(make(far, self.encoded.clone(), self.contents.clone()));
        Ok((send, recv))
    }
}

async fn make(mut stream: DuplexStream, encoded: Arc<Vec<u8>>, contents: Arc<Vec<u64>>) -> io::Result<()> {
    let mut contents = contents.iter();
    loop {
        let mut request = vec![0; stream.read_u32_le().await? as usize];
        stream.read_exact(&mut request).await?;
        let mut answer = Vec::new();
        let mut frame = |kind: u8, head: &[u8], tail: &[u8]| {
            answer.extend_from_slice(&((1 + head.len() + tail.len()) as u32).to_le_bytes());
            answer.push(kind);
            answer.extend_from_slice(head);
            answer.extend_from_slice(tail);
        };
        if request[0] == 1 {
            frame(1, &(encoded.len() as u64).to_le_bytes(), &[]);
            encoded.chunks(BUFFER_BYTES).for_each(|piece| frame(2, piece, &[]));
        } else {
            // Kind, version, the empty grant's length, count.
            let (digests, _) = request[1 + 32 + 4 + 4..].as_chunks::<32>();
            for _ in digests {
                let content = contents.next().ok_or(io::ErrorKind::InvalidInput)?;
                frame(3, &(CHUNK_BYTES as u32).to_le_bytes(), &content.to_le_bytes());
            }
        }
        stream.write_all(&answer).await?;
    }
}

/// A store that serves, and what has passed between it and its peer.
struct Counted {
    store: Store,
    passed: Mutex<Vec<Passed>>,
}

/// The bytes that went there and came back on one stream, once it has ended.
type Passed = JoinHandle<io::Result<(u64, u64)>>;

impl Dial for Counted {
    type Send = WriteHalf<DuplexStream>;
    type Recv = ReadHalf<DuplexStream>;

    async fn open(&self) -> io::Result<(Self::Send, Self::Recv)> {
        let (near, mut near_end) = duplex(BUFFER_BYTES);
        let (far, mut far_end) = duplex(BUFFER_BYTES);
        let pass = tokio::spawn(async move { copy_bidirectional(&mut near_end, &mut far_end).await });
        self.passed.lock().map_err(|_| io::ErrorKind::Other)?.push(pass);
        let store = self.store.clone();
        tokio::spawn(async move {
            let (recv, send) = split(far);
            serve_stream(&store, send, recv, &Anybody).await
        });
        let (recv, send) = split(near);
        Ok((send, recv))
    }
}

/// There is nobody else here.
struct Anybody;

impl Gate for Anybody {
    fn check(&self, _grant: &[u8], _version: VersionId) -> Result<(), String> {
        Ok(())
    }
}
