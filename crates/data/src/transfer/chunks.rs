//! Many chunks in flight: several streams to each source, until all has come or no source is left.
//!
//! A stream is three tasks in a row: one asks, one receives, one verifies and stores. None waits for the one after it
//! but for want of room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use tokio::sync::{Notify, mpsc};
use tombolo_core::VersionId;

use super::Dial;
use super::ask::{Answering, Asking, Stream, unexpected};
use super::budget::{Room, Share};
use super::fetch::{FetchError, FetchOptions, Fetched, Keeping, Source, no_source};
use super::queue::{Fault, Look, Queue, SourceState};
use super::serve::blocking;
use super::wire::{Answer, REQUEST_DIGESTS_MAX, Wanted};
use crate::codec;
use crate::error::DataError;
use crate::manifest::ChunkRef;
use crate::session::{Session, lock};

/// Streams to one source.
const PARALLEL_MAX: usize = 64;
/// Requests on a stream that aren't answered yet: while one is answered the next is on its way. More would keep what
/// a slow source was asked for from faster ones.
const ASKED_MAX: usize = 3;

/// The chunks of one version on their way.
pub(super) struct Fetching<'a, D> {
    version: VersionId,
    sources: &'a [Source<D>],
    options: &'a FetchOptions,
    session: &'a Arc<Keeping>,
    wire: &'a AtomicU64,
    share: Share,
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
            share: options.budget.join(),
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
        mut begun: Option<(usize, Stream<'a, D>)>,
    ) -> Result<Vec<SourceState>, FetchError> {
        let parallel = self.options.parallel.clamp(1, PARALLEL_MAX);
        let each = (0..parallel).flat_map(|_| 0..self.sources.len()).map(|source| {
            let stream = begun.take_if(|(of, _)| *of == source).map(|(_, stream)| stream);
            self.stream(source, stream)
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

    async fn stream(&self, source: usize, begun: Option<Stream<'a, D>>) {
        let Some(first) = self.next(source).await else { return };
        let opened = match begun {
            Some(stream) => Ok(stream),
            None => Stream::open(&self.sources[source], self.options.stall, self.wire).await,
        };
        let Stream { asking, answering } = match opened {
            Ok(stream) => stream,
            Err(fault) => return self.lose(source, first.owed, Trouble::Theirs(fault)),
        };
        let (asked, to_receive) = mpsc::channel(ASKED_MAX);
        let (came, to_store) = mpsc::channel(1);
        tokio::join!(
            self.ask(source, asking, first, asked),
            self.receive(source, answering, to_receive, came),
            self.store(source, to_store),
        );
    }

    async fn ask(&self, source: usize, mut asking: Asking<'a, D>, first: Batch, asked: mpsc::Sender<Batch>) {
        let mut next = Some(first);
        while let Some(batch) = next {
            let wanted = batch.owed.iter().map(|chunk| chunk.digest).collect();
            let wanted = if batch.sound { Wanted::Sound(wanted) } else { Wanted::Chunks(wanted) };
            let taken = match asking.ask(self.version, wanted).await {
                Ok(taken) => taken,
                Err(fault) => return self.lose(source, batch.owed, Trouble::Theirs(fault)),
            };
            // The receiver goes on for as long as this sends, and hears what became of a question that was not taken.
            let Ok(()) = asked.send(batch).await else { return };
            if !taken {
                return;
            }
            next = self.next(source).await;
        }
    }

    /// What to ask the source for next, with room for it; None when there is nothing more for it.
    async fn next(&self, source: usize) -> Option<Batch> {
        loop {
            self.until(source, |look| look != Look::Wait).await;
            let mut room = tokio::select! {
                room = self.share.take() => room,
                () = self.until(source, |look| look == Look::Over) => return None,
            };
            if self.look(source) == Look::Over {
                return None;
            }
            let mut queue = lock(&self.queue);
            let owed = queue.next(source, self.options.budget.request_bytes(), REQUEST_DIGESTS_MAX);
            let sound = queue.sources[source].sound;
            drop(queue);
            if !owed.is_empty() {
                room.shrink(owed.iter().map(|chunk| u64::from(chunk.bytes)).sum());
                return Some(Batch { owed, sound, room });
            }
        }
    }

    async fn until(&self, source: usize, reached: impl Fn(Look) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if reached(self.look(source)) {
                return;
            }
            changed.await;
        }
    }

    fn look(&self, source: usize) -> Look {
        if lock(&self.failed).is_some() { Look::Over } else { lock(&self.queue).look(source) }
    }

    async fn receive(
        &self,
        source: usize,
        mut answering: Answering<'a, D>,
        mut asked: mpsc::Receiver<Batch>,
        came: mpsc::Sender<Came>,
    ) {
        while let Some(mut batch) = asked.recv().await {
            if self.look(source) == Look::Over {
                self.give_back(batch.owed);
                continue;
            }
            let (chunks, fault) = self.answers(source, &mut answering, &mut batch.owed).await;
            if let Some(fault) = fault {
                // What came before it is kept.
                let lost = batch.owed.split_off(chunks.len());
                self.lose(source, lost, Trouble::Theirs(fault));
            }
            // The storing goes on for as long as this sends.
            let Ok(()) = came.send(Came { batch, chunks }).await else { return };
        }
    }

    /// The answers to one request, up to the first that is none. What turned out absent is no longer owed.
    async fn answers(
        &self,
        source: usize,
        answering: &mut Answering<'a, D>,
        owed: &mut Vec<ChunkRef>,
    ) -> (Vec<(ChunkRef, Vec<u8>)>, Option<Fault>) {
        let mut came = Vec::with_capacity(owed.len());
        for chunk in owed.clone() {
            match answering.answer().await {
                Ok(Answer::Chunk { raw, stored }) if raw == chunk.bytes => came.push((chunk, stored)),
                Ok(Answer::Chunk { raw, .. }) => {
                    let why = format!("it lied: chunk {} is {raw} bytes long", chunk.digest.short());
                    return (came, Some(Fault::Failed(why)));
                }
                Ok(Answer::Absent(why)) => {
                    lock(&self.queue).absent(source, chunk, &why);
                    owed.retain(|owed| owed.digest != chunk.digest);
                    self.changed.notify_waiters();
                }
                Ok(answer) => return (came, Some(unexpected(answer))),
                Err(fault) => return (came, Some(fault)),
            }
        }
        (came, None)
    }

    /// Verifies what came and stores it; damage and lies end it, but what came before is kept.
    async fn store(&self, source: usize, mut to_store: mpsc::Receiver<Came>) {
        while let Some(Came { batch: Batch { mut owed, sound, room }, chunks }) = to_store.recv().await {
            let session = self.session.clone();
            let stored = blocking(move || {
                let mut stored = store_all(session.session(), chunks, sound);
                if let (Err(error), None) = (session.keep(), &stored.1) {
                    stored.1 = Some(Trouble::Ours(error));
                }
                // The memory is free now, whether anybody waits for this or not.
                drop(room);
                Ok(stored)
            });
            let (kept, trouble) = stored.await.unwrap_or_else(|error| (0, Some(Trouble::Ours(error))));
            let rest = owed.split_off(kept);
            self.keep(&owed);
            match trouble {
                Some(trouble) => self.lose(source, rest, trouble),
                None => self.give_back(rest),
            }
        }
    }

    fn keep(&self, kept: &[ChunkRef]) {
        let bytes: u64 = kept.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        self.chunks.fetch_add(kept.len() as u64, Ordering::Relaxed);
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        lock(&self.queue).came(kept.len());
        self.changed.notify_waiters();
        if let Some(progress) = &self.options.progress {
            progress(done, self.total);
        }
    }

    fn give_back(&self, owed: Vec<ChunkRef>) {
        if !owed.is_empty() {
            lock(&self.queue).give_back(owed);
            self.changed.notify_waiters();
        }
    }

    fn lose(&self, source: usize, owed: Vec<ChunkRef>, trouble: Trouble) {
        match trouble {
            Trouble::Theirs(fault) => {
                tracing::warn!(source = self.sources[source].name, why = fault.text(), "a source is dropped");
                lock(&self.queue).drop_source(source, owed, fault);
            }
            Trouble::Damaged(why) => {
                tracing::warn!(source = self.sources[source].name, why, "a damaged chunk came; it is asked for again");
                let mut queue = lock(&self.queue);
                queue.sources[source].sound = true;
                queue.give_back(owed);
            }
            Trouble::Ours(error) => {
                lock(&self.queue).give_back(owed);
                lock(&self.failed).get_or_insert(error);
            }
        }
        self.changed.notify_waiters();
    }
}

/// Chunks that a source was asked for and still owes, and the room that they were given.
struct Batch {
    owed: Vec<ChunkRef>,
    /// They were asked for as ones that the source has verified.
    sound: bool,
    room: Room,
}

/// Stored forms of the first chunks that are owed.
struct Came {
    batch: Batch,
    chunks: Vec<(ChunkRef, Vec<u8>)>,
}

enum Trouble {
    /// The source's.
    Theirs(Fault),
    /// What the source has, and doesn't know to be damaged.
    Damaged(String),
    /// This side's.
    Ours(DataError),
}

/// How many were stored, and what is wrong with the one after them.
fn store_all(session: &Session, came: Vec<(ChunkRef, Vec<u8>)>, sound: bool) -> (usize, Option<Trouble>) {
    let all = came.len();
    for (kept, (chunk, stored)) in came.into_iter().enumerate() {
        if let Err(why) = codec::verify(&stored, chunk.bytes, &chunk.digest) {
            let why = format!("chunk {}: {why}", chunk.digest.short());
            return match sound {
                true => (kept, Some(Trouble::Theirs(Fault::Failed(format!("it lied: {why}"))))),
                false => (kept, Some(Trouble::Damaged(why))),
            };
        }
        if session.claim(&chunk.digest)
            && let Err(error) = session.put(chunk.digest, chunk.bytes, &stored)
        {
            return (kept, Some(Trouble::Ours(error)));
        }
    }
    (all, None)
}
