//! One writer at work: chunks go into packs of its own, and at the end a manifest makes them a version.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use tombolo_core::{Digest, VersionId};

use crate::error::DataError;
use crate::index::DigestSet;
use crate::lease::Lease;
use crate::manifest::{ChunkRef, Manifest};
use crate::pack::PackWriter;
use crate::store::Store;

/// How often a commit that took too long looks again whether its chunks are there.
const LOOKS_MAX: u32 = 5;

/// A writer. Any number of threads may put chunks at once.
pub(crate) struct Session {
    store: Store,
    lease: Lease,
    packs: AtomicU32,
    /// The pack that takes the next chunk; full ones are sealed outside the lock.
    open: Mutex<Option<PackWriter>>,
    /// Chunks that are being written and aren't in the index yet.
    claimed: Mutex<DigestSet>,
    pub(crate) chunks_new: AtomicU64,
    pub(crate) bytes_new: AtomicU64,
}

/// What a commit found.
pub(crate) enum Commit {
    Done,
    /// Chunks that were here and that a gc has removed meanwhile.
    Missing(Vec<ChunkRef>),
}

impl Session {
    pub(crate) fn start(store: &Store) -> Result<Session, DataError> {
        store.check_form()?;
        let lease = store.lease(&[])?;
        store.refresh()?;
        Ok(Session {
            store: store.clone(),
            lease,
            packs: AtomicU32::new(0),
            open: Mutex::new(None),
            claimed: Mutex::new(DigestSet::default()),
            chunks_new: AtomicU64::new(0),
            bytes_new: AtomicU64::new(0),
        })
    }

    /// True for the first who asks for a chunk that isn't here; that one has to put it.
    pub(crate) fn claim(&self, digest: &Digest) -> bool {
        // The order matters: a chunk enters the index before it leaves the claims.
        let mut claimed = lock(&self.claimed);
        !claimed.contains(digest) && !self.store.knows(digest) && claimed.insert(*digest)
    }

    /// Puts a chunk by its stored form.
    pub(crate) fn put(&self, digest: Digest, raw: u32, stored: &[u8]) -> Result<(), DataError> {
        self.put_record(digest, raw, &self.store.record_of(&digest, raw, stored)?)
    }

    /// Puts a chunk by its record, as it lies in another pack of this store.
    pub(crate) fn put_record(&self, digest: Digest, raw: u32, record: &[u8]) -> Result<(), DataError> {
        let mut open = lock(&self.open);
        let mut pack = match open.take() {
            Some(pack) => pack,
            None => PackWriter::create(self.store.path(&["tmp", &self.next_name()]), self.store.records())?,
        };
        // A pack that can't be written is dropped and gives its space back.
        pack.put(digest, raw, record)?;
        self.chunks_new.fetch_add(1, Ordering::Relaxed);
        self.bytes_new.fetch_add(record.len() as u64, Ordering::Relaxed);
        if pack.is_full(self.store.pack_bytes()) {
            drop(open);
            return self.seal(pack);
        }
        *open = Some(pack);
        Ok(())
    }

    /// Makes everything durable that was put; only when no other thread is putting is that all of it.
    pub(crate) fn flush(&self) -> Result<(), DataError> {
        let pack = lock(&self.open).take();
        pack.map_or(Ok(()), |pack| self.seal(pack))
    }

    /// Makes the version durable: its chunks first, then its manifest. It is acknowledged when this returns.
    pub(crate) fn commit(&self, manifest: &Manifest) -> Result<(VersionId, Commit), DataError> {
        self.flush()?;
        let encoded = manifest.encode();
        let version = crate::manifest::version_of(&encoded);
        // While this is held nothing is removed, so what is here now is here when the manifest is.
        let _held = self.store.lock_shared()?;
        for _ in 0..LOOKS_MAX {
            let looked = Instant::now();
            self.store.refresh()?;
            let missing = self.store.missing(manifest)?;
            if !missing.is_empty() {
                return Ok((version, Commit::Missing(missing)));
            }
            if self.store.write_manifest(version, &self.lease, &encoded, looked)? {
                return Ok((version, Commit::Done));
            }
        }
        Err(DataError::LeaseLapsed { session: self.lease.session.clone() })
    }

    /// Where files lie that end with this writer.
    pub(crate) fn tmp_dir(&self) -> std::path::PathBuf {
        self.store.path(&["tmp"])
    }

    pub(crate) fn name(&self) -> &str {
        &self.lease.session
    }

    fn seal(&self, pack: PackWriter) -> Result<(), DataError> {
        let name = self.next_name();
        let digests: Vec<Digest> = pack.digests().collect();
        self.store.seal(pack, &name)?;
        let mut claimed = lock(&self.claimed);
        for digest in &digests {
            claimed.remove(digest);
        }
        Ok(())
    }

    fn next_name(&self) -> String {
        format!("{}-{}.pack", self.lease.session, self.packs.fetch_add(1, Ordering::Relaxed))
    }
}

/// A thread that panicked can't have left these values half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
