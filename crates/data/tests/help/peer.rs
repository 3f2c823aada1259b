//! Sources over in-memory streams, honest ones and others.
#![allow(dead_code)]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, watch};
use tombolo_core::VersionId;
use tombolo_data::transfer::{Budget, Dial, FetchError, FetchOptions, Fetched, Gate, Source, fetch, serve_stream};
use tombolo_data::{Store, VerifyOptions};

use super::help::{add, look, materialized, open, sample};

/// Changes an answer's frame (kind and rest) on its way; false cuts the stream there.
pub type Mangle = Arc<dyn Fn(&mut Vec<u8>) -> bool + Send + Sync>;

pub struct Peer {
    pub store: Store,
    pub mangle: Option<Mangle>,
    /// What it answers with, whatever it is asked for.
    pub instead: Option<VersionId>,
    /// Keeps chunks back until it has permits for them.
    pub hold: Option<Arc<Hold>>,
    pub gate: Arc<dyn Gate>,
}

struct Open;
impl Gate for Open {
    fn check(&self, _grant: &[u8], _version: VersionId) -> Result<(), String> {
        Ok(())
    }
}

pub struct Only(pub Vec<u8>);
impl Gate for Only {
    fn check(&self, grant: &[u8], _version: VersionId) -> Result<(), String> {
        if grant == self.0 { Ok(()) } else { Err("the data must stay at onprem".into()) }
    }
}

impl Dial for Peer {
    type Send = WriteHalf<DuplexStream>;
    type Recv = ReadHalf<DuplexStream>;

    async fn open(&self) -> io::Result<(Self::Send, Self::Recv)> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (store, gate) = (self.store.clone(), self.gate.clone());
        let (mut requests, mut answers) = tokio::io::split(far);
        if let Some(version) = self.instead {
            let (end, middle) = piped();
            let replace = move |body: &mut Vec<u8>| {
                body[1..33].copy_from_slice(&version.0.0);
                true
            };
            tokio::spawn(pass(std::mem::replace(&mut requests, end), middle, Arc::new(replace)));
        }
        if let Some(mangle) = self.mangle.clone() {
            let (middle, end) = piped();
            tokio::spawn(pass(middle, std::mem::replace(&mut answers, end), mangle));
        }
        if let Some(hold) = self.hold.clone() {
            let (middle, end) = piped();
            tokio::spawn(keep_back(middle, std::mem::replace(&mut answers, end), hold));
        }
        tokio::spawn(async move { serve_stream(&store, answers, requests, &*gate).await });
        let (recv, send) = tokio::io::split(near);
        Ok((send, recv))
    }
}

/// What is written to one comes out of the other.
fn piped() -> (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>) {
    let (one, other) = tokio::io::duplex(64 << 10);
    (tokio::io::split(one).0, tokio::io::split(other).1)
}

/// Chunks that are kept back.
pub struct Hold {
    /// One for each chunk that may pass.
    pub permits: Semaphore,
    /// How many have come so far as to need one.
    pub waited: watch::Sender<u64>,
}

impl Hold {
    pub fn new(permits: usize) -> Arc<Hold> {
        Arc::new(Hold { permits: Semaphore::new(permits), waited: watch::Sender::new(0) })
    }
}

async fn keep_back(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    hold: Arc<Hold>,
) -> io::Result<()> {
    while let Some(body) = frame(&mut from).await? {
        if body[0] == 3 {
            hold.waited.send_modify(|waited| *waited += 1);
            hold.permits.acquire().await.map_err(io::Error::other)?.forget();
        }
        to.write_u32_le(body.len() as u32).await?;
        to.write_all(&body).await?;
    }
    to.shutdown().await
}

/// The next frame, or None at the stream's end.
async fn frame(from: &mut ReadHalf<DuplexStream>) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32_le().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body).await?;
    Ok(Some(body))
}

async fn pass(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, mangle: Mangle) -> io::Result<()> {
    while let Some(mut body) = frame(&mut from).await? {
        if !mangle(&mut body) {
            break;
        }
        to.write_u32_le(body.len() as u32).await?;
        to.write_all(&body).await?;
    }
    to.shutdown().await
}

pub fn honest(store: &Store) -> Source<Peer> {
    source(store, "honest", None)
}

pub fn source(store: &Store, name: &str, mangle: Option<Mangle>) -> Source<Peer> {
    let dial = Peer { store: store.clone(), mangle, instead: None, hold: None, gate: Arc::new(Open) };
    Source { dial, grant: b"grant".to_vec(), name: name.into() }
}

pub struct World {
    _dirs: [TempDir; 2],
    pub tree: TempDir,
    pub from: Store,
    pub to: Store,
    pub version: VersionId,
}

pub fn world() -> World {
    world_of(|tree| sample(tree, 1))
}

/// Two stores, and a tree in the first.
pub fn world_of(make: impl FnOnce(&Path)) -> World {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let tree = tempfile::tempdir().unwrap();
    make(tree.path());
    let (from, to) = (open(dirs[0].path()), open(dirs[1].path()));
    let version = add(&from, tree.path()).version;
    World { _dirs: dirs, tree, from, to, version }
}

pub fn options() -> FetchOptions {
    FetchOptions { budget: Budget::new(2 << 20), stall: Duration::from_secs(20), ..FetchOptions::default() }
}

pub async fn get(world: &World, sources: &[Source<Peer>]) -> Result<Fetched, FetchError> {
    fetch(&world.to, world.version, sources, &options()).await
}

/// From an honest source.
pub async fn bring(from: &Store, to: &Store, version: VersionId) -> Result<Fetched, FetchError> {
    fetch(to, version, &[honest(from)], &options()).await
}

pub fn check_arrived(world: &World) {
    assert!(world.to.has(world.version).unwrap());
    assert_eq!(materialized(&world.to, world.version), look(world.tree.path()));
    assert!(world.to.verify(&VerifyOptions::default()).unwrap().is_clean());
}
