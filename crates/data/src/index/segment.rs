//! One file of the index: where chunks are, sorted by digest, so that a few reads answer for any number of them.
//!
//! # Format
//! Numbers are little-endian.
//! ```text
//! blocks   4096 bytes each: 84 entries (digest 32 bytes, pack u32, offset u32, stored u32, raw u32; zeros after the
//!          last), then BLAKE3 of these 4032 bytes, keyed with the block's number (u32), then 32 bytes of zeros
//! packs    12 bytes each, in order: session u64, number u32; an entry's pack is a place in this list
//! fence    per block: the first 8 bytes of its first digest, u64 (big-endian's order)
//! filter   u64 words, see [`Filter`]
//! trailer  "TOMBIDX2", entries u64, packs u32, blocks u32, words u64, BLAKE3 of packs and fence, BLAKE3 of the
//!          filter, BLAKE3 of the trailer so far: 128 bytes
//! ```
//! A chunk that is in several packs has several entries.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tombolo_core::Digest;

use super::merge::Placed;
use super::{Location, PackId};
use crate::pack::{le_u32, le_u64};

const MAGIC: &[u8; 8] = b"TOMBIDX2";
const BLOCK_BYTES: usize = 4096;
const ENTRY_BYTES: usize = 48;
const BLOCK_ENTRIES: usize = 84;
const ENTRIES_BYTES: usize = BLOCK_ENTRIES * ENTRY_BYTES;
const TRAILER_BYTES: usize = 128;
const PACK_BYTES: usize = 12;
/// Blocks in one segment: 5 thousand million chunks.
const BLOCKS_MAX: u32 = 1 << 26;

/// An entry of a segment: a digest, and its place among the segment's packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub digest: Digest,
    pub pack: u32,
    pub offset: u32,
    pub stored: u32,
    pub raw: u32,
}

pub(super) struct Segment {
    pub name: String,
    pub entries: u64,
    /// In order.
    pub packs: Vec<PackId>,
    file: File,
    blocks: u32,
    /// The first keys of every `stride`th block.
    fence: Vec<u64>,
    stride: u32,
    filter: Option<Filter>,
    words: u64,
    filter_hash: [u8; 32],
}

/// How much of the memory that the index may use goes to one segment.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub fence_bytes: usize,
    pub filter_bytes: usize,
}

/// Why a segment can't be used; it is made anew from the packs then.
#[derive(Debug)]
pub(super) struct Unusable(pub String);

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Unusable {
        Unusable(error.to_string())
    }
}

fn unusable<T>(why: &str) -> Result<T, Unusable> {
    Err(Unusable(why.to_owned()))
}

impl Segment {
    /// Reads the tables at the end; what they need is at most as long as the file.
    pub(super) fn open(path: &Path, name: &str) -> Result<Segment, Unusable> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let Some(at) = length.checked_sub(TRAILER_BYTES as u64) else { return unusable("it is too short") };
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, at)?;
        if trailer[..8] != *MAGIC || blake3::hash(&trailer[..96]).as_bytes()[..] != trailer[96..] {
            return unusable("its trailer is damaged");
        }
        let (entries, packs, blocks) = (le_u64(&trailer[8..]), le_u32(&trailer[16..20]), le_u32(&trailer[20..24]));
        let words = le_u64(&trailer[24..]);
        let tables = u64::from(packs) * PACK_BYTES as u64 + u64::from(blocks) * 8;
        let data = u64::from(blocks) * BLOCK_BYTES as u64;
        let fits = words.checked_mul(8).and_then(|filter| filter.checked_add(tables + data)) == Some(at);
        if !fits || blocks > BLOCKS_MAX || entries.div_ceil(BLOCK_ENTRIES as u64) != u64::from(blocks) {
            return unusable("its length isn't what its trailer says");
        }
        let mut bytes = vec![0; tables as usize];
        file.read_exact_at(&mut bytes, data)?;
        if blake3::hash(&bytes).as_bytes()[..] != trailer[32..64] {
            return unusable("its tables are damaged");
        }
        let (pack_bytes, fence_bytes) = bytes.split_at(packs as usize * PACK_BYTES);
        let pack = |bytes: &[u8]| PackId { session: le_u64(bytes), number: le_u32(&bytes[8..]) };
        let mut filter_hash = [0; 32];
        filter_hash.copy_from_slice(&trailer[64..96]);
        Ok(Segment {
            name: name.to_owned(),
            entries,
            packs: pack_bytes.chunks_exact(PACK_BYTES).map(pack).collect(),
            file,
            blocks,
            fence: fence_bytes.chunks_exact(8).map(le_u64).collect(),
            stride: 1,
            filter: None,
            words,
            filter_hash,
        })
    }

    /// Fits what is kept in memory into the room, and takes the filter in where there is room for it.
    pub(super) fn fit(&mut self, room: Room) -> Result<(), Unusable> {
        while self.fence.len() * 8 > room.fence_bytes.max(8) {
            self.stride *= 2;
            self.fence = self.fence.iter().step_by(2).copied().collect();
        }
        self.fence.shrink_to_fit();
        if self.filter_bytes() <= room.filter_bytes && self.filter.is_none() {
            let mut bytes = vec![0; self.filter_bytes()];
            let at = u64::from(self.blocks) * (BLOCK_BYTES + 8) as u64 + (self.packs.len() * PACK_BYTES) as u64;
            self.file.read_exact_at(&mut bytes, at)?;
            if *blake3::hash(&bytes).as_bytes() != self.filter_hash {
                return unusable("its filter is damaged");
            }
            self.filter = Some(Filter { words: bytes.chunks_exact(8).map(le_u64).collect() });
        } else if self.filter_bytes() > room.filter_bytes {
            self.filter = None;
        }
        Ok(())
    }

    fn filter_bytes(&self) -> usize {
        self.words as usize * 8
    }

    /// Bytes of memory that the filter takes.
    pub(super) fn kept_filter_bytes(&self) -> usize {
        self.filter.as_ref().map_or(0, |filter| filter.words.len() * 8)
    }

    /// Bytes of memory that the segment's fence and filter take.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.fence.len() * 8 + self.kept_filter_bytes()
    }

    pub(super) fn covers(&self, pack: PackId) -> bool {
        self.packs.binary_search(&pack).is_ok()
    }

    /// Whether it is worth looking for a chunk.
    pub(super) fn may_hold(&self, digest: &Digest) -> bool {
        self.blocks > 0 && self.filter.as_ref().is_none_or(|filter| filter.may_hold(digest))
    }

    pub(super) fn placed(&self, row: &Row) -> Result<Placed, Unusable> {
        let Some(pack) = self.packs.get(row.pack as usize) else { return unusable("an entry has no pack") };
        Ok((row.digest, Location { pack: *pack, offset: row.offset, stored: row.stored, raw: row.raw }))
    }

    /// The last block that begins before `wanted`: entries with that key begin in it or right after it.
    pub(super) fn first_block(&self, wanted: u64) -> Result<u32, Unusable> {
        let fence = self.fence.partition_point(|first| *first < wanted).saturating_sub(1) as u32;
        let (mut low, mut high) = (fence * self.stride, ((fence + 1) * self.stride).min(self.blocks));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let first = self.block(middle)?.next().map(|row| key(&row.digest));
            if first.is_some_and(|first| first < wanted) { low = middle } else { high = middle }
        }
        Ok(low)
    }

    /// The rows of a block, verified.
    pub(super) fn block(&self, number: u32) -> Result<Rows, Unusable> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        self.file.read_exact_at(&mut bytes[..], u64::from(number) * BLOCK_BYTES as u64)?;
        if block_hash(number, &bytes[..ENTRIES_BYTES]) != bytes[ENTRIES_BYTES..ENTRIES_BYTES + 32] {
            return unusable("a block is damaged");
        }
        let before = u64::from(number) * BLOCK_ENTRIES as u64;
        let count = (self.entries.saturating_sub(before)).min(BLOCK_ENTRIES as u64) as usize;
        Ok(Rows { bytes, next: 0, count })
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }
}

pub(super) struct Rows {
    bytes: Box<[u8; BLOCK_BYTES]>,
    next: usize,
    count: usize,
}

impl Rows {
    fn row(&self, at: usize) -> Row {
        let bytes = &self.bytes[at * ENTRY_BYTES..][..ENTRY_BYTES];
        let mut digest = Digest([0; 32]);
        digest.0.copy_from_slice(&bytes[..32]);
        let number = |at: usize| le_u32(&bytes[at..at + 4]);
        Row { digest, pack: number(32), offset: number(36), stored: number(40), raw: number(44) }
    }

    /// The rows of the digest, if there are any, and those after them.
    pub(super) fn from(&self, digest: &Digest) -> impl Iterator<Item = Row> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.bytes[middle * ENTRY_BYTES..][..32] < digest.0[..] { low = middle + 1 } else { high = middle }
        }
        (low..self.count).map(|at| self.row(at))
    }

    /// Whether what there is of the digest begins in this block.
    pub(super) fn surround(&self, digest: &Digest) -> bool {
        let last = self.count.checked_sub(1).map(|last| self.row(last).digest);
        last.is_some_and(|last| *digest <= last) && self.row(0).digest < *digest
    }
}

impl Iterator for Rows {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.next == self.count {
            return None;
        }
        self.next += 1;
        Some(self.row(self.next - 1))
    }
}

/// The first 8 bytes as a number, in the digests' own order.
pub(super) fn key(digest: &Digest) -> u64 {
    digest.0.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// Keyed with the number, so that the entries are hashed from their beginning: several times as fast as after 4 bytes.
fn block_hash(number: u32, entries: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    *blake3::keyed_hash(&key, entries).as_bytes()
}

/// A Bloom filter with 8 bits for each chunk, of which the four that matter to a chunk are in one word: about one
/// absent chunk in twenty passes it.
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// One that needs more than `bytes_max` isn't made: there would be no room to read it in either.
    fn new(entries_max: u64, bytes_max: usize) -> Filter {
        let words = entries_max.div_ceil(8);
        Filter { words: if words * 8 <= bytes_max as u64 { vec![0; words as usize] } else { Vec::new() } }
    }

    fn place(&self, digest: &Digest) -> (usize, u64) {
        // The first 8 bytes are the key; any others are as good as random.
        let word = le_u64(&digest.0[8..16]) % self.words.len().max(1) as u64;
        let bits = digest.0[16..20].iter().fold(0, |bits, byte| bits | 1_u64 << (byte % 64));
        (word as usize, bits)
    }

    fn add(&mut self, digest: &Digest) {
        let (word, bits) = self.place(digest);
        if let Some(held) = self.words.get_mut(word) {
            *held |= bits;
        }
    }

    fn may_hold(&self, digest: &Digest) -> bool {
        let (word, bits) = self.place(digest);
        self.words.get(word).is_none_or(|held| held & bits == bits)
    }
}

/// A file whose checksums are right, whatever else is in it.
#[cfg(any(test, fuzzing))]
pub(super) fn sealed(draw: &mut crate::fuzz::Draw) -> Vec<u8> {
    let (entries, packs) = (draw.within(0..=500) as u64, draw.within(0..=9));
    let (blocks, words) = (entries.div_ceil(BLOCK_ENTRIES as u64) as usize, draw.within(0..=40));
    let mut file = Vec::new();
    for number in 0..blocks {
        let mut block = draw.bytes(ENTRIES_BYTES).to_vec();
        block.resize(ENTRIES_BYTES, 0);
        block.extend_from_slice(&block_hash(number as u32, &block));
        block.resize(BLOCK_BYTES, 0);
        file.extend_from_slice(&block);
    }
    let mut trailer = MAGIC.to_vec();
    trailer.extend_from_slice(&entries.to_le_bytes());
    trailer.extend_from_slice(&(packs as u32).to_le_bytes());
    trailer.extend_from_slice(&(blocks as u32).to_le_bytes());
    trailer.extend_from_slice(&(words as u64).to_le_bytes());
    for length in [packs * PACK_BYTES + blocks * 8, words * 8] {
        let mut table = draw.bytes(length).to_vec();
        table.resize(length, 0);
        trailer.extend_from_slice(blake3::hash(&table).as_bytes());
        file.extend_from_slice(&table);
    }
    let hash = blake3::hash(&trailer);
    file.extend_from_slice(&trailer);
    file.extend_from_slice(hash.as_bytes());
    file
}

/// Writes a segment; the rows come in order of their digests.
pub(super) struct SegmentWriter {
    out: BufWriter<File>,
    packs: Vec<PackId>,
    block: Vec<u8>,
    fence: Vec<u64>,
    filter: Filter,
    entries: u64,
}

impl SegmentWriter {
    /// `packs` is in order; at most `entries_max` rows will come.
    pub(super) fn create(
        path: &Path,
        packs: Vec<PackId>,
        entries_max: u64,
        filter_bytes_max: usize,
    ) -> io::Result<SegmentWriter> {
        let file = File::options().write(true).create_new(true).open(path)?;
        Ok(SegmentWriter {
            out: BufWriter::with_capacity(256 << 10, file),
            packs,
            block: Vec::with_capacity(BLOCK_BYTES),
            fence: Vec::new(),
            filter: Filter::new(entries_max, filter_bytes_max),
            entries: 0,
        })
    }

    /// An entry of a pack that isn't among the segment's is left out.
    pub(super) fn put(&mut self, digest: &Digest, location: &Location) -> io::Result<()> {
        let Ok(pack) = self.packs.binary_search(&location.pack) else { return Ok(()) };
        if self.block.is_empty() {
            self.fence.push(key(digest));
        }
        self.filter.add(digest);
        self.block.extend_from_slice(&digest.0);
        for number in [pack as u32, location.offset, location.stored, location.raw] {
            self.block.extend_from_slice(&number.to_le_bytes());
        }
        self.entries += 1;
        if self.block.len() == ENTRIES_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.block.resize(ENTRIES_BYTES, 0);
        let hash = block_hash(self.fence.len() as u32 - 1, &self.block);
        self.block.extend_from_slice(&hash);
        self.block.resize(BLOCK_BYTES, 0);
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    /// Writes the tables and makes the file durable, so that a power cut doesn't cost making it anew.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let mut tables = Vec::with_capacity(self.packs.len() * PACK_BYTES + self.fence.len() * 8);
        for pack in &self.packs {
            tables.extend_from_slice(&pack.session.to_le_bytes());
            tables.extend_from_slice(&pack.number.to_le_bytes());
        }
        tables.extend(self.fence.iter().flat_map(|first| first.to_le_bytes()));
        self.out.write_all(&tables)?;
        let mut filter_hash = blake3::Hasher::new();
        for words in self.filter.words.chunks(8192) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            filter_hash.update(&bytes);
            self.out.write_all(&bytes)?;
        }
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend_from_slice(MAGIC);
        trailer.extend_from_slice(&self.entries.to_le_bytes());
        trailer.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        trailer.extend_from_slice(&(self.fence.len() as u32).to_le_bytes());
        trailer.extend_from_slice(&(self.filter.words.len() as u64).to_le_bytes());
        trailer.extend_from_slice(blake3::hash(&tables).as_bytes());
        trailer.extend_from_slice(filter_hash.finalize().as_bytes());
        let hash = blake3::hash(&trailer);
        trailer.extend_from_slice(hash.as_bytes());
        self.out.write_all(&trailer)?;
        self.out.flush()?;
        self.out.get_ref().sync_all()
    }
}
