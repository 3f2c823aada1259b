//! Many chunks in flight: several streams to each source, until all has come or no source is left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use tokio::sync::Notify;
use tombolo_core::VersionId;

use super::Dial;
use super::ask::{Stream, unexpected};
use super::fetch::{FetchError, FetchOptions, Fetched, Keeping, Source, no_source};
use super::queue::{Fault, Next, Queue, SourceState};
use super::serve::blocking;
use super::wire::{Answer, REQUEST_DIGESTS_MAX, Wanted};
use crate::chunker::CHUNK_BYTES_MAX;
use crate::codec;
use crate::error::DataError;
use crate::manifest::ChunkRef;
use crate::session::{Session, lock};

/// Streams to one source.
const PARALLEL_MAX: usize = 64;

/// The chunks of one version on their way.
pub(super) struct Fetching<'a, D> {
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
    pub(super) fn new(
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

    /// Brings what is in the queue. `begun` is a stream that is open already, with its source.
    pub(super) async fn run(
        self,
        fetched: &mut Fetched,
        begun: Option<(usize, Stream<'a, D>)>,
    ) -> Result<Vec<SourceState>, FetchError> {
        let parallel = self.options.parallel.clamp(1, PARALLEL_MAX);
        let streams = parallel * self.sources.len().max(1);
        let bytes_each = (self.options.bytes_in_flight / streams as u64).max(CHUNK_BYTES_MAX as u64);
        let mut begun = begun;
        let each = (0..parallel).flat_map(|_| 0..self.sources.len()).map(|source| {
            let stream = begun.take_if(|(of, _)| *of == source).map(|(_, stream)| stream);
            self.stream(source, stream, bytes_each)
        });
        join_all(each).await;
        fetched.bytes_raw += self.done.load(Ordering::Relaxed);
        fetched.chunks += self.chunks.load(Ordering::Relaxed);
        if let Some(error) = lock(&self.failed).take() {
            return Err(error.into());
        }
        let queue = self.queue.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if queue.is_done() { Ok(queue.sources) } else { Err(no_source(self.version, self.sources, &queue.sources)) }
    }

    async fn stream(&self, source: usize, mut stream: Option<Stream<'a, D>>, bytes_each: u64) {
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
            let next = lock(&self.queue).next(source, bytes_each, REQUEST_DIGESTS_MAX);
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
        let (kept, outcome) = blocking(move || Ok(store_all(session.session(), came))).await.map_err(Trouble::Ours)?;
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
