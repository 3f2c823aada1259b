//! The fetching side: first the manifest, then the chunks that lack, then the version is made durable.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tombolo_core::VersionId;

use super::Dial;
use super::budget::Budget;
use super::chunks::Fetching;
use super::obtain::obtain;
use super::queue::{Fault, Queue, SourceState};
use super::serve::blocking;
use crate::add::Progress;
use crate::error::DataError;
use crate::manifest::{ChunkRef, Manifest};
use crate::pack::le_u64;
use crate::session::{Commit, Session, lock};
use crate::store::Store;

/// How often a fetch goes on because a gc has removed chunks that were here when it began.
const ATTEMPTS_MAX: u32 = 3;

/// The budget of a fetch that wasn't given one, in bytes. One fetch alone uses half of it.
pub const BUDGET_BYTES: u64 = 64 << 20;

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
    /// The memory that the transfers of a process share.
    pub budget: Budget,
    /// How long a source may be silent before it is dropped; what a limit of the link holds back is no silence.
    pub stall: Duration,
    /// In raw bytes of what was missing.
    pub progress: Option<Progress>,
    pub cancel: CancellationToken,
    pub seal: Seal,
}

/// How soon what has come is durable, so that a kill costs no more than that: when it is of so many stored bytes, but
/// not more often than that, so that a fast line makes no small packs. The first bytes of a fetch are durable sooner, as
/// somebody may be waiting for them.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    pub bytes: u64,
    pub after: Duration,
}

/// What is durable first, in stored bytes.
const FIRST_BYTES: u64 = 512 << 10;

impl Default for Seal {
    fn default() -> Seal {
        Seal { bytes: 8 << 20, after: Duration::from_secs(2) }
    }
}

impl Default for FetchOptions {
    fn default() -> FetchOptions {
        FetchOptions {
            parallel: 4,
            budget: Budget::new(BUDGET_BYTES),
            stall: Duration::from_secs(60),
            progress: None,
            cancel: CancellationToken::new(),
            seal: Seal::default(),
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
    let (manifest, mut begun) = match local_manifest(store, version).await? {
        Some(manifest) => (manifest, None),
        None => {
            let (manifest, source, stream) = obtain(store, version, sources, &mut states, options, &wire).await?;
            (manifest, Some((source, stream)))
        }
    };
    let (manifest, local) = (Arc::new(manifest), begun.is_none());
    let session = {
        let (store, seal) = (store.clone(), options.seal);
        // Should the fetch be dropped half-way, the last of its tasks to end keeps what has come.
        Arc::new(blocking(move || Keeping::start(&store, seal)).await?)
    };
    // For as long as it takes, readers may follow.
    let _shown = {
        let (store, session, manifest) = (store.clone(), session.clone(), manifest.clone());
        blocking(move || store.show_coming(session.session().name(), version, &manifest.encode())).await?
    };
    let mut fetched = Fetched::default();
    for attempt in 0..ATTEMPTS_MAX {
        let missing = missing(store, &manifest).await?;
        if attempt == 0 {
            let manifest = manifest.clone();
            let distinct = blocking(move || Ok(distinct(&manifest))).await?;
            fetched.chunks_already_here = distinct - missing.len() as u64;
            if missing.is_empty() && local {
                return Ok(fetched);
            }
        }
        let fetching = Fetching::new(version, sources, options, &session, &wire, Queue::new(missing, states));
        states = fetching.run(&mut fetched, begun.take()).await?;
        fetched.bytes_wire = wire.load(Ordering::Relaxed);
        let (session, bytes, manifest) = (session.clone(), manifest.encoded_len() as u64, manifest.clone());
        match blocking(move || session.session().commit(&manifest)).await? {
            (_, Commit::Done) => {
                store.in_flight().note_brought(version, bytes);
                return Ok(fetched);
            }
            (_, Commit::Missing(gone)) => tracing::debug!(gone = gone.len(), "chunks were removed during a fetch"),
        }
    }
    let missing = missing(store, &manifest).await?.len();
    Err(DataError::Outrun { version, missing, attempts: ATTEMPTS_MAX }.into())
}

/// A session whose chunks are made durable while they come, and also when the fetch fails.
pub(super) struct Keeping {
    session: Session,
    seal: Seal,
    /// The store seals packs of so many bytes by itself.
    pack_bytes: u64,
    began: Instant,
    /// When what had come was last durable, and how many bytes that were.
    sealed: Mutex<(Instant, u64)>,
}

impl Keeping {
    fn start(store: &Store, seal: Seal) -> Result<Keeping, DataError> {
        let began = Instant::now();
        let sealed = Mutex::new((began, 0));
        Ok(Keeping { session: Session::start(store)?, seal, pack_bytes: store.pack_bytes(), began, sealed })
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Makes what has come durable, if it is time.
    pub(super) fn keep(&self) -> Result<(), DataError> {
        let come = self.session.bytes_new.load(Ordering::Relaxed);
        let new = {
            let mut sealed = lock(&self.sealed);
            let new = come.saturating_sub(sealed.1);
            let bytes = (come / 2).clamp(FIRST_BYTES.min(self.seal.bytes), self.seal.bytes);
            let after = (self.began.elapsed() / 2).min(self.seal.after);
            if new < bytes || sealed.0.elapsed() < after {
                return Ok(());
            }
            *sealed = (Instant::now(), come);
            new
        };
        if new < self.pack_bytes { self.session.flush() } else { Ok(()) }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Err(error) = self.session.flush() {
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

/// How many chunks differ, by the beginnings of their digests: a number for people, and a set of millions is large.
fn distinct(manifest: &Manifest) -> u64 {
    let mut beginnings: Vec<u64> = manifest.chunks().map(|chunk| le_u64(&chunk.digest.0)).collect();
    beginnings.sort_unstable();
    beginnings.dedup();
    beginnings.len() as u64
}

pub(super) fn no_source<D>(version: VersionId, sources: &[Source<D>], states: &[SourceState]) -> FetchError {
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
