//! The fetching side.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tombolo_core::VersionId;

use super::Dial;
use super::queue::{Fault, Next, Queue, SourceState};
use super::serve::blocking;
use super::wire::{Answer, GRANT_BYTES_MAX, REQUEST_CHUNKS_MAX, Request, Wanted, read_answer, write_request};
use crate::add::Progress;
use crate::chunker::CHUNK_BYTES_MAX;
use crate::codec;
use crate::error::DataError;
use crate::manifest::{ChunkRef, MANIFEST_BYTES_MAX, Manifest, version_of};
use crate::session::{Commit, Session, lock};
use crate::store::Store;

/// Streams to one source.
const PARALLEL_MAX: usize = 64;
/// How often a fetch goes on because a gc has removed chunks that were here when it began.
const ATTEMPTS_MAX: u32 = 3;

/// A peer that may hold the version.
pub struct Source<D> {
    pub dial: D,
    /// Shown to the peer with every request; at most [`GRANT_BYTES_MAX`] bytes.
    pub grant: Vec<u8>,
    /// For errors.
    pub name: String,
}

#[derive(Clone)]
pub struct FetchOptions {
    /// Streams to each source.
    pub parallel: usize,
    /// Raw bytes that are asked for and not yet here, over all streams.
    pub bytes_in_flight: u64,
    /// How long a source may be silent before it is dropped.
    pub stall: Duration,
    /// In raw bytes of what was missing.
    pub progress: Option<Progress>,
    pub cancel: CancellationToken,
}

impl Default for FetchOptions {
    fn default() -> FetchOptions {
        FetchOptions {
            parallel: 4,
            bytes_in_flight: 32 << 20,
            stall: Duration::from_secs(60),
            progress: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// What a fetch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes of all frames, both ways.
    pub bytes_wire: u64,
    /// Raw bytes of the chunks that came.
    pub bytes_raw: u64,
    pub chunks: u64,
    /// Distinct chunks of the version that were here before.
    pub chunks_already_here: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Every source that could be asked refused.
    #[error("{source_name} refused version {}: {reason}", version.short())]
    Refused { version: VersionId, source_name: String, reason: String },
    #[error("no source is left for version {}{}", version.short(), listed(sources))]
    NoSourceLeft { version: VersionId, sources: Vec<SourceFault> },
    #[error("no space left on the device of {}", path.display())]
    NoSpace { path: PathBuf },
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Data(DataError),
}

/// Why one source is no longer asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFault {
    pub name: String,
    pub reason: String,
}

fn listed(sources: &[SourceFault]) -> String {
    let listed: Vec<String> = sources.iter().map(|fault| format!("{}: {}", fault.name, fault.reason)).collect();
    if listed.is_empty() { "; none was named".to_owned() } else { format!(" ({})", listed.join("; ")) }
}

impl From<DataError> for FetchError {
    fn from(error: DataError) -> FetchError {
        match error {
            DataError::NoSpace { path } => FetchError::NoSpace { path },
            DataError::Cancelled => FetchError::Cancelled,
            error => FetchError::Data(error),
        }
    }
}

/// Brings a version's missing chunks from the sources, then its manifest; the version is durable when this returns.
///
/// What has come is kept when this fails, so that the next fetch brings only the rest. Fetches of one version by one
/// process go one after the other.
pub async fn fetch<D: Dial>(
    store: &Store,
    version: VersionId,
    sources: &[Source<D>],
    options: &FetchOptions,
) -> Result<Fetched, FetchError> {
    let turn = store.in_flight().fetch_lock(version);
    let work = async {
        let _turn = turn.lock().await;
        fetch_alone(store, version, sources, options).await
    };
    tokio::select! {
        outcome = work => outcome,
        () = options.cancel.cancelled() => Err(FetchError::Cancelled),
    }
}

async fn fetch_alone<D: Dial>(
    store: &Store,
    version: VersionId,
    sources: &[Source<D>],
    options: &FetchOptions,
) -> Result<Fetched, FetchError> {
    let wire = AtomicU64::new(0);
    let mut states: Vec<SourceState> = sources.iter().map(|_| SourceState::default()).collect();
    let (local, manifest) = match local_manifest(store, version).await? {
        Some(manifest) => (true, manifest),
        None => (false, remote_manifest(version, sources, &mut states, options, &wire).await?),
    };
    let manifest = Arc::new(manifest);
    let session = {
        let store = store.clone();
        // Should the fetch be dropped half-way, the last of its tasks to end keeps what has come.
        Arc::new(Keeping(blocking(move || Session::start(&store)).await?))
    };
    let mut fetched = Fetched::default();
    for attempt in 0..ATTEMPTS_MAX {
        let missing = missing(store, &manifest).await?;
        if attempt == 0 {
            let distinct = distinct(&manifest);
            fetched.chunks_already_here = distinct - missing.len() as u64;
            if missing.is_empty() && local {
                return Ok(fetched);
            }
        }
        let fetching = Fetching::new(version, sources, options, &session, &wire, Queue::new(missing, states));
        states = fetching.run(&mut fetched).await?;
        fetched.bytes_wire = wire.load(Ordering::Relaxed);
        let (session, manifest) = (session.clone(), manifest.clone());
        match blocking(move || session.0.commit(&manifest)).await? {
            (_, Commit::Done) => return Ok(fetched),
            (_, Commit::Missing(gone)) => tracing::debug!(gone = gone.len(), "chunks were removed during a fetch"),
        }
    }
    let missing = missing(store, &manifest).await?.len();
    Err(DataError::Outrun { version, missing, attempts: ATTEMPTS_MAX }.into())
}

/// A session whose chunks are made durable also when the fetch fails.
struct Keeping(Session);

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Err(error) = self.0.flush() {
            tracing::warn!(%error, "chunks that came before a fetch ended are lost");
        }
    }
}

async fn local_manifest(store: &Store, version: VersionId) -> Result<Option<Manifest>, DataError> {
    let store = store.clone();
    blocking(move || match store.manifest(version) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(DataError::NoVersion { .. } | DataError::CorruptManifest { .. }) => Ok(None),
        Err(error) => Err(error),
    })
    .await
}

async fn missing(store: &Store, manifest: &Arc<Manifest>) -> Result<Vec<ChunkRef>, DataError> {
    let (store, manifest) = (store.clone(), manifest.clone());
    blocking(move || store.missing_refreshed(&manifest)).await
}

fn distinct(manifest: &Manifest) -> u64 {
    manifest.chunks().map(|chunk| chunk.digest).collect::<crate::index::DigestSet>().len() as u64
}

async fn remote_manifest<D: Dial>(
    version: VersionId,
    sources: &[Source<D>],
    states: &mut [SourceState],
    options: &FetchOptions,
    wire: &AtomicU64,
) -> Result<Manifest, FetchError> {
    for (source, state) in sources.iter().zip(states.iter_mut()) {
        match ask_manifest(version, source, options.stall, wire).await {
            Ok(manifest) => return Ok(manifest),
            Err(fault) => state.fault = Some(fault),
        }
    }
    Err(no_source(version, sources, states))
}

async fn ask_manifest<D: Dial>(
    version: VersionId,
    source: &Source<D>,
    stall: Duration,
    wire: &AtomicU64,
) -> Result<Manifest, Fault> {
    let mut stream = Stream::open(source, stall, wire).await?;
    stream.ask(version, Wanted::Manifest).await?;
    let length = match stream.answer().await? {
        Answer::Manifest { bytes } if bytes <= MANIFEST_BYTES_MAX as u64 => bytes as usize,
        Answer::Manifest { bytes } => return Err(Fault::Failed(format!("its manifest has {bytes} bytes"))),
        Answer::Absent(why) => return Err(Fault::Failed(why)),
        answer => return Err(unexpected(answer)),
    };
    let mut encoded = Vec::new();
    while encoded.len() < length {
        match stream.answer().await? {
            Answer::Piece(piece) if !piece.is_empty() && encoded.len() + piece.len() <= length => {
                encoded.extend_from_slice(&piece);
            }
            answer => return Err(unexpected(answer)),
        }
    }
    if version_of(&encoded) != version {
        return Err(Fault::Failed("it lied: its manifest is another version's".to_owned()));
    }
    Manifest::decode(&encoded).map_err(|e| Fault::Failed(format!("its manifest is not valid: {e}")))
}

fn unexpected(answer: Answer) -> Fault {
    match answer {
        Answer::Refused(why) => Fault::Refused(why),
        _ => Fault::Failed("it gave an answer that doesn't fit the question".to_owned()),
    }
}

fn no_source<D>(version: VersionId, sources: &[Source<D>], states: &[SourceState]) -> FetchError {
    let refusal = |state: &SourceState| matches!(state.fault, Some(Fault::Refused(_)));
    if let (Some(source), Some(Fault::Refused(reason)), true) =
        (sources.first(), states.first().and_then(|state| state.fault.clone()), states.iter().all(refusal))
    {
        return FetchError::Refused { version, source_name: source.name.clone(), reason };
    }
    let reason = |state: &SourceState| match (&state.fault, &state.lacks) {
        (Some(fault), _) => fault.text().to_owned(),
        (None, Some(lacks)) => lacks.clone(),
        (None, None) => "it wasn't asked".to_owned(),
    };
    let fault =
        |(source, state): (&Source<D>, &SourceState)| SourceFault { name: source.name.clone(), reason: reason(state) };
    FetchError::NoSourceLeft { version, sources: sources.iter().zip(states).map(fault).collect() }
}

/// One stream to a source.
struct Stream<'a, D: Dial> {
    source: &'a Source<D>,
    send: D::Send,
    recv: D::Recv,
    stall: Duration,
    wire: &'a AtomicU64,
}

impl<'a, D: Dial> Stream<'a, D> {
    async fn open(source: &'a Source<D>, stall: Duration, wire: &'a AtomicU64) -> Result<Stream<'a, D>, Fault> {
        if source.grant.len() > GRANT_BYTES_MAX {
            return Err(Fault::Failed(format!("its grant is longer than {GRANT_BYTES_MAX} bytes")));
        }
        let (send, recv) = in_time(stall, source.dial.open()).await?;
        Ok(Stream { source, send, recv, stall, wire })
    }

    async fn ask(&mut self, version: VersionId, what: Wanted) -> Result<(), Fault> {
        let request = Request { version, grant: self.source.grant.clone(), what };
        let bytes = in_time(self.stall, write_request(&mut self.send, &request)).await?;
        self.wire.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    async fn answer(&mut self) -> Result<Answer, Fault> {
        let (answer, bytes) = in_time(self.stall, read_answer(&mut self.recv)).await?;
        self.wire.fetch_add(bytes, Ordering::Relaxed);
        Ok(answer)
    }
}

async fn in_time<T>(stall: Duration, work: impl Future<Output = std::io::Result<T>>) -> Result<T, Fault> {
    match tokio::time::timeout(stall, work).await {
        Ok(outcome) => outcome.map_err(|e| Fault::Failed(e.to_string())),
        Err(_) => Err(Fault::Failed(format!("it was silent for {} ms", stall.as_millis()))),
    }
}

struct Fetching<'a, D> {
    version: VersionId,
    sources: &'a [Source<D>],
    options: &'a FetchOptions,
    session: &'a Arc<Keeping>,
    wire: &'a AtomicU64,
    queue: Mutex<Queue>,
    changed: Notify,
    done: AtomicU64,
    chunks: AtomicU64,
    /// An error of this side's, which no other source would mend.
    failed: Mutex<Option<DataError>>,
    total: u64,
}

impl<'a, D: Dial> Fetching<'a, D> {
    fn new(
        version: VersionId,
        sources: &'a [Source<D>],
        options: &'a FetchOptions,
        session: &'a Arc<Keeping>,
        wire: &'a AtomicU64,
        queue: Queue,
    ) -> Fetching<'a, D> {
        Fetching {
            version,
            sources,
            options,
            session,
            wire,
            total: queue.bytes(),
            queue: Mutex::new(queue),
            changed: Notify::new(),
            done: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            failed: Mutex::default(),
        }
    }

    async fn run(self, fetched: &mut Fetched) -> Result<Vec<SourceState>, FetchError> {
        let parallel = self.options.parallel.clamp(1, PARALLEL_MAX);
        let streams = parallel * self.sources.len().max(1);
        let bytes_each = (self.options.bytes_in_flight / streams as u64).max(CHUNK_BYTES_MAX as u64);
        let each = (0..parallel).flat_map(|_| 0..self.sources.len()).map(|source| self.stream(source, bytes_each));
        join_all(each).await;
        fetched.bytes_raw += self.done.load(Ordering::Relaxed);
        fetched.chunks += self.chunks.load(Ordering::Relaxed);
        if let Some(error) = lock(&self.failed).take() {
            return Err(error.into());
        }
        let queue = self.queue.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if queue.is_done() { Ok(queue.sources) } else { Err(no_source(self.version, self.sources, &queue.sources)) }
    }

    async fn stream(&self, source: usize, bytes_each: u64) {
        let mut stream = None;
        while let Some(mut owed) = self.next(source, bytes_each).await {
            let outcome = self.batch(source, &mut stream, &mut owed).await;
            let mut queue = lock(&self.queue);
            match outcome {
                Ok(()) => {}
                Err(Trouble::Theirs(fault)) => {
                    tracing::warn!(source = self.sources[source].name, why = fault.text(), "a source is dropped");
                    queue.drop_source(source, owed, fault);
                }
                Err(Trouble::Ours(error)) => {
                    queue.give_back(owed);
                    lock(&self.failed).get_or_insert(error);
                }
            }
            drop(queue);
            self.changed.notify_waiters();
        }
    }

    /// What to ask the source for next; None when there is nothing more for it.
    async fn next(&self, source: usize, bytes_each: u64) -> Option<Vec<ChunkRef>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if lock(&self.failed).is_some() {
                return None;
            }
            let next = lock(&self.queue).next(source, bytes_each, REQUEST_CHUNKS_MAX);
            match next {
                Next::Ask(batch) => return Some(batch),
                Next::Over => return None,
                Next::Wait => changed.await,
            }
        }
    }

    /// Asks for `owed` and takes away from it what came or turned out absent.
    async fn batch(
        &self,
        source: usize,
        slot: &mut Option<Stream<'a, D>>,
        owed: &mut Vec<ChunkRef>,
    ) -> Result<(), Trouble> {
        let stream = match slot {
            Some(stream) => stream,
            None => slot.insert(Stream::open(&self.sources[source], self.options.stall, self.wire).await?),
        };
        let wanted = owed.iter().map(|chunk| chunk.digest).collect();
        stream.ask(self.version, Wanted::Chunks(wanted)).await?;
        let (mut came, mut fault) = (Vec::new(), None);
        for chunk in owed.clone() {
            match stream.answer().await {
                Ok(Answer::Chunk { raw, stored }) if raw == chunk.bytes => came.push((chunk, stored)),
                Ok(Answer::Chunk { raw, .. }) => {
                    let why = format!("it lied: chunk {} is {raw} bytes long", chunk.digest.short());
                    fault = Some(Fault::Failed(why));
                    break;
                }
                Ok(Answer::Absent(why)) => {
                    lock(&self.queue).absent(source, chunk, &why);
                    owed.retain(|owed| owed.digest != chunk.digest);
                    self.changed.notify_waiters();
                }
                Ok(answer) => {
                    fault = Some(unexpected(answer));
                    break;
                }
                Err(broken) => {
                    fault = Some(broken);
                    break;
                }
            }
        }
        let kept = self.keep(came, owed).await;
        kept.and_then(|()| fault.map_or(Ok(()), |fault| Err(Trouble::Theirs(fault))))
    }

    /// Verifies what came and stores it; a lie ends it, but what came before is kept.
    async fn keep(&self, came: Vec<(ChunkRef, Vec<u8>)>, owed: &mut Vec<ChunkRef>) -> Result<(), Trouble> {
        let session = self.session.clone();
        let (kept, outcome) = blocking(move || Ok(store_all(&session.0, came))).await.map_err(Trouble::Ours)?;
        let bytes: u64 = kept.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        self.chunks.fetch_add(kept.len() as u64, Ordering::Relaxed);
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        lock(&self.queue).came(kept.len());
        // Both are in the order of the request.
        let mut kept = kept.into_iter().peekable();
        owed.retain(|chunk| kept.next_if_eq(chunk).is_none());
        if let Some(progress) = &self.options.progress {
            progress(done, self.total);
        }
        outcome
    }
}

enum Trouble {
    /// The source's.
    Theirs(Fault),
    /// This side's.
    Ours(DataError),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Theirs(fault)
    }
}

fn store_all(session: &Session, came: Vec<(ChunkRef, Vec<u8>)>) -> (Vec<ChunkRef>, Result<(), Trouble>) {
    let mut kept = Vec::with_capacity(came.len());
    for (chunk, stored) in came {
        let checked = codec::decode(stored.clone(), chunk.bytes, &chunk.digest);
        if let Err(why) = checked {
            let why = format!("it lied: chunk {}: {why}", chunk.digest.short());
            return (kept, Err(Trouble::Theirs(Fault::Failed(why))));
        }
        if session.claim(&chunk.digest)
            && let Err(error) = session.put(chunk.digest, chunk.bytes, &stored)
        {
            return (kept, Err(Trouble::Ours(error)));
        }
        kept.push(chunk);
    }
    (kept, Ok(()))
}
