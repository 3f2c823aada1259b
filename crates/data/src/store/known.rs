//! What a handle knows of the packs: listings taken in, chunks looked up, damaged parts of the index made anew.

use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tombolo_core::Digest;

use super::Store;
use crate::bucket;
use crate::error::DataError;
use crate::index::{self, Damaged, DigestSet, Index, Listing, Location, PackId};
use crate::manifest::{ChunkRef, Manifest};
use crate::pack::{self, PackEntry, PackFault};
use crate::session::lock;

/// How often packs are listed again because parts of the index turn out damaged: more than there are parts.
const REFRESHES_MAX: u32 = 40;
/// Chunks that are looked up in the order of their digests: in a store of millions many of them share a block.
const SORTED_CHUNKS: usize = 1 << 20;
/// Chunks that are looked up before others may change the index.
const HELD_CHUNKS: usize = 4096;

impl Store {
    /// Takes in what other processes have added and removed.
    pub fn refresh(&self) -> Result<(), DataError> {
        let _turn = lock(&self.inner.refreshing);
        for _ in 0..REFRESHES_MAX {
            self.refresh_once()?;
            if !self.index().is_incomplete() {
                break;
            }
        }
        Ok(())
    }

    fn refresh_once(&self) -> Result<(), DataError> {
        let (now, packs) = (Instant::now(), self.path(&["packs"]));
        let (since, listing) = match &self.inner.bucket {
            Some(bucket) => (now.checked_sub(bucket::LAG).unwrap_or(now), bucket.packs()?),
            None => {
                let packs = pack::pack_names(&packs)?.iter().filter_map(|name| PackId::parse(name)).collect();
                (now, Listing { packs, ..Listing::default() })
            }
        };
        let unknown = self.index_mut().take_listing(listing, since);
        for id in unknown {
            let entries = match &self.inner.bucket {
                Some(bucket) => bucket.entries(&id.to_string(), self.records()),
                None => pack::read_entries(&packs.join(id.to_string()), self.records()),
            };
            match entries {
                Ok(entries) => self.index_mut().insert_pack(id, &entries),
                Err(PackFault::Gone) => {}
                Err(PackFault::Damaged(why)) => {
                    tracing::warn!(pack = %id, why, "a damaged pack is left out");
                    self.index_mut().insert_damaged(id, why);
                }
                Err(PackFault::Other(error)) => return Err(error),
            }
            self.maintain_index(Index::is_full);
        }
        self.maintain_index(Index::is_due);
        Ok(())
    }

    /// Writes to disk what the index has in memory, if it is time. Without it the index only takes more memory.
    fn maintain_index(&self, is_time: impl Fn(&Index) -> bool) {
        if is_time(&self.index())
            && let Err(error) = index::maintain(&self.inner.index)
        {
            tracing::warn!(%error, store = %self.inner.dir.display(), "the index can't be written");
        }
    }

    /// Takes in a pack that this process has made durable.
    pub(crate) fn sealed(&self, name: &str, entries: &[PackEntry]) {
        if let Some(pack) = PackId::parse(name) {
            self.index_mut().insert_sealed(pack, entries);
            self.maintain_index(Index::is_due);
        }
    }

    pub(crate) fn locate(&self, digest: &Digest) -> Result<Option<Location>, DataError> {
        self.with_index(|index| index.get(digest))
    }

    /// The distinct chunks of a manifest that aren't here, in its order; no more are looked for once there are `enough`.
    pub(super) fn absent(
        &self,
        manifest: &Manifest,
        holds: fn(&Index, &[Digest]) -> Result<Vec<bool>, Damaged>,
        enough: usize,
    ) -> Result<Vec<ChunkRef>, DataError> {
        let (mut seen, mut absent) = (DigestSet::default(), Vec::new());
        let mut chunks = manifest.chunks().peekable();
        while chunks.peek().is_some() && absent.len() < enough {
            let part: Vec<&ChunkRef> = chunks.by_ref().take(SORTED_CHUNKS).collect();
            let mut sorted: Vec<Digest> = part.iter().map(|chunk| chunk.digest).collect();
            sorted.sort_unstable();
            sorted.dedup();
            let mut gone = DigestSet::default();
            for sorted in sorted.chunks(HELD_CHUNKS) {
                let held = self.with_index(|index| holds(index, sorted))?;
                gone.extend(sorted.iter().zip(held).filter(|(_, held)| !held).map(|(digest, _)| *digest));
            }
            let new = part.into_iter().filter(|chunk| gone.contains(&chunk.digest) && seen.insert(chunk.digest));
            absent.extend(new.copied());
        }
        Ok(absent)
    }

    /// Asks the index; parts of it that turn out damaged are made anew from the packs first.
    pub(super) fn with_index<T>(&self, ask: impl Fn(&Index) -> Result<T, Damaged>) -> Result<T, DataError> {
        loop {
            let asked = ask(&self.index());
            match asked {
                Ok(answer) => return Ok(answer),
                // One part less each time, and those that are made anew are whole.
                Err(damaged) => self.index_mut().discard(damaged),
            }
            self.refresh()?;
        }
    }

    /// Whether a chunk needn't be stored. Where that can't be told it has to be: twice is better than never.
    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        self.with_index(|index| index.get_relied(digest)).is_ok_and(|found| found.is_some())
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.inner.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.inner.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}
