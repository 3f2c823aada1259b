//! Where each chunk is: in memory only, made from the packs' footers, so there is nothing to lose or to repair.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::Arc;

use tombolo_core::Digest;

use crate::error::{At, DataError};
use crate::pack::{self, PackEntry, PackFault};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Location {
    pub pack: u32,
    pub offset: u32,
    pub stored: u32,
    pub raw: u32,
}

#[derive(Default)]
pub(crate) struct Index {
    chunks: HashMap<Digest, Location, BuildHasherDefault<DigestHasher>>,
    packs: HashMap<u32, Arc<str>>,
    names: HashMap<Arc<str>, u32>,
    /// Packs whose footer can't be read, and why.
    damaged: BTreeMap<String, String>,
    /// Numbers are never used twice, so that an old number can't mean another pack.
    next: u32,
}

impl Index {
    pub(crate) fn get(&self, digest: &Digest) -> Option<Location> {
        self.chunks.get(digest).copied()
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.chunks.contains_key(digest)
    }

    pub(crate) fn pack_name(&self, pack: u32) -> Option<Arc<str>> {
        self.packs.get(&pack).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.chunks.len()
    }

    pub(crate) fn insert_pack(&mut self, name: &str, entries: &[PackEntry]) {
        if self.names.contains_key(name) {
            return;
        }
        let name: Arc<str> = name.into();
        let pack = self.next;
        self.next += 1;
        self.packs.insert(pack, name.clone());
        self.names.insert(name, pack);
        for entry in entries {
            let location = Location { pack, offset: entry.offset, stored: entry.stored, raw: entry.raw };
            self.chunks.insert(entry.digest, location);
        }
    }

    /// Takes in what other processes added to and removed from `packs_dir`.
    pub(crate) fn refresh(&mut self, packs_dir: &Path) -> Result<(), DataError> {
        let found = pack_names(packs_dir)?;
        if self.names.keys().any(|name| !found.contains(&**name)) {
            // A vanished pack's chunks may be in another one too, which only the footers know.
            *self = Index { next: self.next, ..Index::default() };
        }
        self.damaged.retain(|name, _| found.contains(name));
        for name in found {
            if self.names.contains_key(name.as_str()) || self.damaged.contains_key(&name) {
                continue;
            }
            match pack::read_entries(&packs_dir.join(&name)) {
                Ok(entries) => self.insert_pack(&name, &entries),
                Err(PackFault::Gone) => {}
                Err(PackFault::Damaged(why)) => {
                    tracing::warn!(pack = name, why, "a damaged pack is left out");
                    self.damaged.insert(name, why);
                }
                Err(PackFault::Other(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The names of the packs in a directory.
pub(crate) fn pack_names(packs_dir: &Path) -> Result<HashSet<String>, DataError> {
    let mut names = HashSet::new();
    for entry in std::fs::read_dir(packs_dir).at("can't list", packs_dir)? {
        let name = entry.at("can't list", packs_dir)?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".pack")) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// A digest is as good a hash as any: its first 8 bytes are taken.
#[derive(Default)]
pub(crate) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

pub(crate) type DigestSet = HashSet<Digest, BuildHasherDefault<DigestHasher>>;
