//! Where each chunk is: derived from the packs' footers, and kept on disk so that it needs little memory.
//!
//! `index/` holds segments (see [`segment`]), each of which covers some packs whole, and `HEAD`, which lists those in
//! use. What was added since the last segment was written is in memory. A segment is never changed; smaller ones are
//! merged into larger ones, so that there are about as many as the logarithm of the store's size.
//!
//! # Why it can't lie
//! - Packs never change and their names are never used again, so an entry is right or its pack is gone; and every
//!   look-up asks whether the pack is among those that were there at the last listing.
//! - Every block that is read is checked. A segment that is torn, lost or damaged is dropped, and the footers of the
//!   packs that no other segment covers are read again.
//! - Segments are durable before `HEAD` names them. `HEAD` is replaced under `index/lock`, by one process at a time;
//!   the others see it at their next refresh, and meanwhile read on in the files that they have open.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod lookup;
mod merge;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tombolo_core::Digest;

use crate::pack::PackEntry;
use merge::{Broken, Merge, MergeFault, Placed};
use segment::{Room, Segment};

const HEAD: &str = "HEAD";
const HEAD_MAGIC: &str = "tombolo-index 1";
/// Longest `HEAD` that is read, in bytes.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Packs that are only in memory before a segment is made of them; so many footers are read at an opening, at most.
const MEMORY_PACKS_MAX: usize = 16;
/// Memory for one chunk that is in no segment yet, in bytes.
const MEMORY_CHUNK_BYTES: usize = 44 + 56 * 2;
/// A segment is merged with those after it when they are together at least this part of its size.
const MERGE_FACTOR: u64 = 4;
/// How often what `HEAD` lists is looked at again, because it changed meanwhile.
const RELOADS_MAX: u32 = 3;
/// Least memory that the index gets, in bytes.
const MEMORY_BYTES_MIN: usize = 1 << 20;

/// A pack's name, `<session, 16 hex digits>-<number>.pack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackId {
    pub session: u64,
    pub number: u32,
}

impl PackId {
    pub(crate) fn parse(name: &str) -> Option<PackId> {
        let (session, number) = name.strip_suffix(".pack")?.split_once('-')?;
        let pack = PackId { session: u64::from_str_radix(session, 16).ok()?, number: number.parse().ok()? };
        (pack.to_string() == name).then_some(pack)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}.pack", self.session, self.number)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub pack: PackId,
    pub offset: u32,
    pub stored: u32,
    pub raw: u32,
}

/// The packs that there are.
#[derive(Default)]
pub(crate) struct Listing {
    pub packs: HashSet<PackId>,
    /// Those among them that nothing new may rely on.
    pub condemned: HashSet<PackId>,
    /// Those that are gone or going, also where this process has sealed them lately.
    pub doomed: HashSet<PackId>,
}

pub(crate) struct Index {
    dir: PathBuf,
    memory_bytes_max: usize,
    /// The packs of the last listing, and those that this process has sealed since.
    live: HashSet<PackId>,
    /// Of these, the packs that may be read but nothing new may rely on.
    condemned: HashSet<PackId>,
    sealed: HashMap<PackId, Instant>,
    memory: Memory,
    /// The largest first.
    segments: Vec<Arc<Segment>>,
    head: Vec<u8>,
    /// Segments that turned out damaged; they aren't opened again.
    bad: HashSet<String>,
    /// Packs whose footer can't be read, and why.
    damaged: BTreeMap<PackId, String>,
    /// A segment was lost since the last listing, so that there are packs of which nothing is known.
    incomplete: bool,
}

/// The packs that no segment covers yet.
#[derive(Default)]
struct Memory {
    packs: HashMap<PackId, Vec<PackEntry>>,
    chunks: HashMap<Digest, Location, BuildHasherDefault<DigestHasher>>,
    entries: usize,
}

impl Memory {
    fn insert(&mut self, pack: PackId, entries: &[PackEntry]) {
        self.entries += entries.len();
        self.chunks.extend(entries.iter().map(|entry| place(pack, entry)));
        self.packs.insert(pack, entries.to_vec());
    }

    fn retain(&mut self, keep: impl Fn(PackId) -> bool) {
        let before = self.packs.len();
        self.packs.retain(|pack, _| keep(*pack));
        if self.packs.len() != before {
            // A chunk of a pack that went may be in another one too.
            self.rebuild(&HashSet::new());
        }
    }

    /// Of a chunk that is in several packs, one is known that isn't in `last`, where there is one.
    fn rebuild(&mut self, last: &HashSet<PackId>) {
        let mut packs: Vec<_> = std::mem::take(&mut self.packs).into_iter().collect();
        packs.sort_by_key(|(pack, _)| !last.contains(pack));
        *self = Memory::default();
        for (pack, entries) in packs {
            self.insert(pack, &entries);
        }
    }
}

fn place(pack: PackId, entry: &PackEntry) -> Placed {
    (entry.digest, Location { pack, offset: entry.offset, stored: entry.stored, raw: entry.raw })
}

/// A segment turned out damaged; [`Index::discard`] drops it.
#[derive(Debug)]
pub(crate) struct Damaged {
    pub segment: String,
    pub why: String,
}

impl From<Broken> for Damaged {
    fn from(broken: Broken) -> Damaged {
        Damaged { segment: broken.segment, why: broken.why.0 }
    }
}

impl Index {
    /// An index in `dir`, which exists. Nothing is read before the first listing.
    pub(crate) fn new(dir: PathBuf, memory_bytes_max: usize) -> Index {
        Index {
            dir,
            memory_bytes_max: memory_bytes_max.max(MEMORY_BYTES_MIN),
            live: HashSet::new(),
            condemned: HashSet::new(),
            sealed: HashMap::new(),
            memory: Memory::default(),
            segments: Vec::new(),
            head: Vec::new(),
            bad: HashSet::new(),
            damaged: BTreeMap::new(),
            incomplete: false,
        }
    }

    /// Distinct chunks; this looks at all of them.
    pub(crate) fn count(&self) -> Result<u64, Damaged> {
        let memory = self.memory.chunks.iter().map(|(digest, location)| (*digest, *location)).collect();
        let mut merge = Merge::new(&self.segments, memory)?;
        let (mut count, mut last) = (0, None);
        while let Some((digest, location)) = merge.next()? {
            if last != Some(digest) && self.live.contains(&location.pack) {
                count += 1;
                last = Some(digest);
            }
        }
        Ok(count)
    }

    /// Takes in a pack's entries, whose own footer or writer they come from.
    pub(crate) fn insert_pack(&mut self, pack: PackId, entries: &[PackEntry]) {
        if !self.knows_pack(pack) {
            self.memory.insert(pack, entries);
            if self.condemned.contains(&pack) {
                self.memory.rebuild(&self.condemned);
            }
        }
    }

    /// Takes in a pack that this process has made durable just now.
    pub(crate) fn insert_sealed(&mut self, pack: PackId, entries: &[PackEntry]) {
        self.sealed.insert(pack, Instant::now());
        self.live.insert(pack);
        self.insert_pack(pack, entries);
    }

    pub(crate) fn insert_damaged(&mut self, pack: PackId, why: String) {
        self.damaged.insert(pack, why);
    }

    /// Takes in a listing of the packs, and the segments that other processes have written. Returns the packs whose
    /// footers have to be read. Packs that were sealed here at or after `since` stay though they aren't listed.
    pub(crate) fn take_listing(&mut self, listing: Listing, since: Instant) -> Vec<PackId> {
        self.live = listing.packs;
        self.condemned = listing.condemned;
        self.sealed.retain(|pack, at| *at >= since && !listing.doomed.contains(pack));
        self.live.extend(self.sealed.keys());
        let live = &self.live;
        self.damaged.retain(|pack, _| live.contains(pack));
        self.memory.retain(|pack| live.contains(&pack));
        if self.memory.packs.keys().any(|pack| self.condemned.contains(pack)) {
            self.memory.rebuild(&self.condemned);
        }
        self.reload();
        // The caller brings what is lacking.
        self.incomplete = false;
        self.unknown().collect()
    }

    fn unknown(&self) -> impl Iterator<Item = PackId> {
        self.live.iter().filter(|pack| !self.knows_pack(**pack) && !self.damaged.contains_key(pack)).copied()
    }

    /// Whether a listing has to be taken in again, because a part of the index was lost after the last one.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    fn knows_pack(&self, pack: PackId) -> bool {
        self.memory.packs.contains_key(&pack) || self.segments.iter().any(|segment| segment.covers(pack))
    }

    /// Whether there is enough in memory for a segment.
    pub(crate) fn is_due(&self) -> bool {
        self.memory.packs.len() >= MEMORY_PACKS_MAX || self.is_full()
    }

    /// Whether there is more in memory than there should be.
    pub(crate) fn is_full(&self) -> bool {
        self.memory.entries * MEMORY_CHUNK_BYTES > self.memory_bytes_max / 4
    }

    /// Drops a segment; the packs that only it covered are unknown until the next listing.
    pub(crate) fn discard(&mut self, damaged: Damaged) {
        tracing::warn!(segment = damaged.segment, why = damaged.why, "a part of the index is damaged; it is made anew");
        self.segments.retain(|segment| segment.name != damaged.segment);
        self.bad.insert(damaged.segment);
        self.incomplete = true;
    }

    /// Bytes of memory that the segments' tables and the chunks in no segment take.
    #[cfg(test)]
    fn memory_bytes(&self) -> usize {
        let segments: usize = self.segments.iter().map(|segment| segment.memory_bytes()).sum();
        segments + self.memory.entries * MEMORY_CHUNK_BYTES
    }

    /// Opens what `HEAD` lists. What can't be opened is left out, and made anew by the next [`maintain`].
    fn reload(&mut self) {
        let mut head = read_head(&self.dir);
        if head == self.head {
            return;
        }
        let mut segments = self.open_listed(&head);
        for _ in 0..RELOADS_MAX {
            // A segment that is gone has been merged into another meanwhile.
            let again = read_head(&self.dir);
            if again == head {
                break;
            }
            segments = self.open_listed(&again);
            head = again;
        }
        segments.sort_by_key(|segment| std::cmp::Reverse(segment.entries));
        self.segments = segments;
        self.fit();
        self.head = head;
        let segments = &self.segments;
        self.memory.retain(|pack| !segments.iter().any(|segment| segment.covers(pack)));
        let incomplete = self.unknown().next().is_some();
        self.incomplete = incomplete;
    }

    fn open_listed(&self, head: &[u8]) -> Vec<Arc<Segment>> {
        let names = parse_head(head).unwrap_or_default();
        let mut segments = Vec::with_capacity(names.len());
        for name in names.iter().filter(|name| !self.bad.contains(**name)) {
            let known = self.segments.iter().find(|segment| segment.name == **name).cloned();
            match known.map_or_else(|| Segment::open(&self.dir.join(name), name).map(Arc::new), Ok) {
                Ok(segment) => segments.push(segment),
                Err(why) => tracing::debug!(segment = name, why = why.0, "a part of the index can't be opened"),
            }
        }
        segments
    }

    /// Shares the memory out: a quarter for the fences, by size; half for the filters, the smallest first, since
    /// those save most look-ups for a byte; the rest is for what is in no segment yet.
    fn fit(&mut self) {
        let entries: u64 = self.segments.iter().map(|segment| segment.entries).sum::<u64>().max(1);
        let mut filters = self.memory_bytes_max / 2;
        let mut fitted = Vec::with_capacity(self.segments.len());
        for segment in self.segments.drain(..).rev() {
            let share = self.memory_bytes_max as u128 / 4 * u128::from(segment.entries) / u128::from(entries);
            let room = Room { fence_bytes: share as usize, filter_bytes: filters };
            let name = segment.name.clone();
            // A shared one is opened anew, since a reader may be in it.
            let own = match Arc::try_unwrap(segment) {
                Ok(own) => Ok(own),
                Err(_) => Segment::open(&self.dir.join(&name), &name),
            };
            match own.and_then(|mut segment| segment.fit(room).map(|()| segment)) {
                Ok(segment) => {
                    filters = filters.saturating_sub(segment.kept_filter_bytes());
                    fitted.push(Arc::new(segment));
                }
                Err(why) => {
                    tracing::debug!(segment = name, why = why.0, "a part of the index can't be used");
                    self.bad.insert(name);
                }
            }
        }
        fitted.reverse();
        self.segments = fitted;
    }
}

/// Writes a segment of what is only in memory, merged with segments that aren't much larger. Where another process
/// is about it already, this one leaves it to that, unless its own memory is full.
pub(crate) fn maintain(index: &RwLock<Index>) -> io::Result<()> {
    let write = || index.write().unwrap_or_else(PoisonError::into_inner);
    let dir = index.read().unwrap_or_else(PoisonError::into_inner).dir.clone();
    let lock = File::options().read(true).write(true).create(true).truncate(false).open(dir.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) if write().is_full() => lock.lock()?,
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let (mut segments, memory, live, filter_bytes_max) = {
        let mut index = write();
        index.reload();
        if !index.is_due() {
            return Ok(());
        }
        let memory: Vec<Placed> = index
            .memory
            .packs
            .iter()
            .flat_map(|(pack, entries)| entries.iter().map(|entry| place(*pack, entry)))
            .collect();
        let packs: Vec<PackId> = index.memory.packs.keys().copied().collect();
        (index.segments.clone(), (packs, memory), index.live.clone(), index.memory_bytes_max / 4)
    };
    let mut merged = memory.1.len() as u64;
    let mut from = segments.len();
    while from > 0 && segments[from - 1].entries <= merged * MERGE_FACTOR {
        from -= 1;
        merged += segments[from].entries;
    }
    let (mut packs, inputs) = (memory.0, segments.split_off(from));
    packs.extend(inputs.iter().flat_map(|segment| &segment.packs).filter(|pack| live.contains(pack)));
    let name = format!("{:016x}.seg", getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?);
    match merge::write(&dir.join(&name), packs, &inputs, memory.1, filter_bytes_max) {
        Ok(()) => {}
        Err(MergeFault::Broken(broken)) => {
            write().discard(broken.into());
            // Its packs are read again at the next listing, and come into the next segment.
            return remove(&dir.join(&name));
        }
        Err(MergeFault::Io(error)) => {
            remove(&dir.join(&name))?;
            return Err(error);
        }
    }
    drop(inputs);
    let kept: Vec<&str> = segments.iter().map(|segment| segment.name.as_str()).chain([name.as_str()]).collect();
    write_head(&dir, &kept)?;
    drop_others(&dir, &kept)?;
    drop(segments);
    write().reload();
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes segments that aren't in use, among them those whose writer was killed.
fn drop_others(dir: &Path, kept: &[&str]) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".seg") && !kept.contains(&&*name) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// `HEAD`'s bytes; none where there is none or it can't be read, since the packs tell all that it does.
fn read_head(dir: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    let read = File::open(dir.join(HEAD))
        .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, HEAD_BYTES_MAX), &mut head));
    if read.is_err() {
        head.clear();
    }
    head
}

/// The segments that a `HEAD` lists; None where it is torn.
fn parse_head(head: &[u8]) -> Option<Vec<&str>> {
    let (body, hash) = std::str::from_utf8(head).ok()?.strip_suffix('\n')?.rsplit_once('\n')?;
    let mut lines = body.lines();
    let whole = hash == blake3::hash(body.as_bytes()).to_hex().as_str() && lines.next() == Some(HEAD_MAGIC);
    let plain = |name: &str| name.ends_with(".seg") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    let names: Vec<&str> = lines.collect();
    (whole && names.iter().all(|name| plain(name))).then_some(names)
}

fn write_head(dir: &Path, names: &[&str]) -> io::Result<()> {
    let mut body = HEAD_MAGIC.to_owned();
    for name in names {
        body.push('\n');
        body.push_str(name);
    }
    let hash = blake3::hash(body.as_bytes()).to_hex();
    let tmp = dir.join("HEAD.tmp");
    std::fs::write(&tmp, format!("{body}\n{hash}\n"))?;
    std::fs::rename(tmp, dir.join(HEAD))
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
