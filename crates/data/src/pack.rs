//! Packs: files that hold many chunks.
//!
//! # Format
//! Numbers are little-endian.
//! ```text
//! header   8 bytes   "TOMBPAK1", or "TOMBPAK2" in an encrypted store
//! chunks   their records one after the other, nothing between them: the stored forms (see [`crate::codec`]), which
//!          are sealed in an encrypted store (see [`crate::SiteKey`])
//! footer   per chunk: digest 32 bytes, its record's length u32, raw length u32
//! trailer  BLAKE3 of the footer 32 bytes, count u32, reserved u32 (0), "TOMBPEND" 8 bytes
//! ```
//! A chunk's place is the sum of the records' lengths before it. The file's length must be what the footer says,
//! so a truncated or extended pack is known at once; the chunks are covered by their own digests. A pack never
//! changes once it has its name, `<session>-<number>.pack`, where the session is the 16 hex digits of its writer.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tombolo_core::Digest;

use crate::chunker::CHUNK_BYTES_MAX;
use crate::error::{At, DataError};
use crate::seal::SEAL_BYTES;

const HEADER_BYTES: u64 = 8;
const END: &[u8; 8] = b"TOMBPEND";
const ENTRY_BYTES: u64 = 40;
const TRAILER_BYTES: u64 = 48;
/// Chunks in one pack.
pub(crate) const PACK_CHUNKS_MAX: usize = 200_000;
/// Stored bytes in one pack; offsets then fit in a u32.
pub(crate) const PACK_BYTES_MAX: u64 = 1 << 30;

/// What lies in the packs of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    Plain,
    Sealed,
}

impl Records {
    fn header(self) -> &'static [u8; HEADER_BYTES as usize] {
        match self {
            Records::Plain => b"TOMBPAK1",
            Records::Sealed => b"TOMBPAK2",
        }
    }

    /// What a record has beside the stored form, in bytes.
    fn overhead(self) -> u32 {
        match self {
            Records::Plain => 0,
            Records::Sealed => SEAL_BYTES as u32,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackEntry {
    pub digest: Digest,
    pub offset: u32,
    /// The record's bytes.
    pub stored: u32,
    pub raw: u32,
}

/// A pack that is being written, under a temporary name.
pub(crate) struct PackWriter {
    path: PathBuf,
    out: BufWriter<File>,
    entries: Vec<PackEntry>,
    length: u64,
    sealed: bool,
}

impl Drop for PackWriter {
    /// Gives the space back of a pack that was never sealed.
    fn drop(&mut self) {
        if !self.sealed {
            // What can't be removed now is removed by the next gc.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl PackWriter {
    pub(crate) fn create(path: PathBuf, records: Records) -> Result<PackWriter, DataError> {
        let file = File::options().write(true).create_new(true).open(&path).at("can't create", &path)?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        let header = out.write_all(records.header()).at("can't write", &path);
        let pack = PackWriter { path, out, entries: Vec::new(), length: HEADER_BYTES, sealed: false };
        header.map(|()| pack)
    }

    pub(crate) fn put(&mut self, digest: Digest, raw: u32, record: &[u8]) -> Result<(), DataError> {
        self.out.write_all(record).at("can't write", &self.path)?;
        self.entries.push(PackEntry { digest, offset: self.length as u32, stored: record.len() as u32, raw });
        self.length += record.len() as u64;
        Ok(())
    }

    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.entries.iter().map(|entry| entry.digest)
    }

    /// Whether another chunk should go into another pack.
    pub(crate) fn is_full(&self, pack_bytes: u64) -> bool {
        self.length >= pack_bytes || self.entries.len() >= PACK_CHUNKS_MAX
    }

    /// Ends the file and hands it over, under its temporary name.
    pub(crate) fn finish(mut self) -> Result<(PathBuf, Vec<PackEntry>), DataError> {
        self.out.write_all(&footer(&self.entries)).at("can't write", &self.path)?;
        self.out.flush().at("can't write", &self.path)?;
        self.sealed = true;
        Ok((self.path.clone(), std::mem::take(&mut self.entries)))
    }

    /// Makes the pack durable under its final name.
    pub(crate) fn seal(mut self, to: &Path) -> Result<Vec<PackEntry>, DataError> {
        let footer = footer(&self.entries);
        self.out.write_all(&footer).at("can't write", &self.path)?;
        self.out.flush().at("can't write", &self.path)?;
        self.out.get_ref().sync_all().at("can't sync", &self.path)?;
        std::fs::rename(&self.path, to).at("can't rename", &self.path)?;
        self.sealed = true;
        sync_dir(to.parent().unwrap_or(Path::new(".")))?;
        Ok(std::mem::take(&mut self.entries))
    }
}

fn footer(entries: &[PackEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_BYTES as usize + TRAILER_BYTES as usize);
    for entry in entries {
        out.extend_from_slice(&entry.digest.0);
        out.extend_from_slice(&entry.stored.to_le_bytes());
        out.extend_from_slice(&entry.raw.to_le_bytes());
    }
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(END);
    out
}

/// Why a pack's contents can't be listed.
pub(crate) enum PackFault {
    Gone,
    Damaged(String),
    Other(DataError),
}

/// The chunks of the pack at `path`, from its footer alone.
pub(crate) fn read_entries(path: &Path, records: Records) -> Result<Vec<PackEntry>, PackFault> {
    let file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => PackFault::Gone,
        _ => PackFault::Other(DataError::io("can't open", path, e)),
    })?;
    entries_of(&file, path, records)
}

/// The chunks of an open pack.
pub(crate) fn entries_of(file: &File, path: &Path, records: Records) -> Result<Vec<PackEntry>, PackFault> {
    let other = |e| PackFault::Other(DataError::io("can't read", path, e));
    let length = file.metadata().map_err(other)?.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    entries_from(&name, length, records, |offset, bytes| file.read_exact_at(bytes, offset).map_err(other))
}

/// The chunks of a pack of `length` bytes, of which `read` reads what is asked for.
pub(crate) fn entries_from(
    name: &str,
    length: u64,
    records: Records,
    read: impl Fn(u64, &mut [u8]) -> Result<(), PackFault>,
) -> Result<Vec<PackEntry>, PackFault> {
    let damaged = |why: &str| PackFault::Damaged(why.to_owned());
    if length < HEADER_BYTES + TRAILER_BYTES {
        return Err(damaged("it is too short"));
    }
    let mut header = [0; 8];
    read(0, &mut header)?;
    let mut trailer = [0; TRAILER_BYTES as usize];
    read(length - TRAILER_BYTES, &mut trailer)?;
    if [Records::Plain, Records::Sealed].iter().any(|other| *other != records && header == *other.header()) {
        // Not damage: the store isn't what it is taken for, or the pack is another's.
        return Err(PackFault::Other(DataError::ForeignPack { pack: name.to_owned() }));
    }
    if header != *records.header() {
        return Err(damaged("its header is not a pack's"));
    }
    if trailer[40..] != *END || trailer[36..40] != [0; 4] {
        return Err(damaged("its trailer is not a pack's"));
    }
    let count = u64::from(le_u32(&trailer[32..36]));
    if count > PACK_CHUNKS_MAX as u64 || count * ENTRY_BYTES > length - HEADER_BYTES - TRAILER_BYTES {
        return Err(damaged("its footer doesn't fit"));
    }
    let mut footer = vec![0; (count * ENTRY_BYTES) as usize];
    let data_end = length - TRAILER_BYTES - footer.len() as u64;
    read(data_end, &mut footer)?;
    if blake3::hash(&footer).as_bytes()[..] != trailer[..32] {
        return Err(damaged("its footer doesn't match its checksum"));
    }
    parse_entries(&footer, data_end, records).ok_or_else(|| damaged("its length isn't what its footer says"))
}

fn parse_entries(footer: &[u8], data_end: u64, records: Records) -> Option<Vec<PackEntry>> {
    let (mut offset, overhead) = (HEADER_BYTES, records.overhead());
    let mut entries = Vec::with_capacity(footer.len() / ENTRY_BYTES as usize);
    for entry in footer.chunks_exact(ENTRY_BYTES as usize) {
        let mut digest = Digest([0; 32]);
        digest.0.copy_from_slice(&entry[..32]);
        let (stored, raw) = (le_u32(&entry[32..36]), le_u32(&entry[36..]));
        if raw as usize > CHUNK_BYTES_MAX || stored <= overhead || stored > raw + overhead {
            return None;
        }
        entries.push(PackEntry { digest, offset: u32::try_from(offset).ok()?, stored, raw });
        offset += u64::from(stored);
    }
    (offset == data_end).then_some(entries)
}

/// The number at the beginning of `bytes`; 0 where they are too short.
pub(crate) fn le_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The number at the beginning of `bytes`; 0 where they are too short.
pub(crate) fn le_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
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

pub(crate) fn sync_dir(dir: &Path) -> Result<(), DataError> {
    File::open(dir).and_then(|dir| dir.sync_all()).at("can't sync", dir)
}
