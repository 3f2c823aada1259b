//! A version's table of contents: its files in order of their paths, and the chunks that each is made of.
//!
//! # Encoding
//! There is one encoding for each tree, so that equal trees have equal versions. Numbers are little-endian.
//! ```text
//! magic    8 bytes   "TOMBMAN1"
//! count    u32       entries
//! entry    kind u8 (0 file, 1 executable file, 2 symbolic link, 3 empty directory)
//!          length u16, path (UTF-8)
//!          files: count u32, then per chunk: digest 32 bytes (BLAKE3 of the raw bytes), length u32 (raw, 1..=256 Ki)
//!          links: length u16, target (UTF-8)
//! ```
//! Entries are sorted by the bytes of their paths and none occurs twice; a path that is a file, a link or an
//! empty directory has nothing beneath it. The version is the BLAKE3 digest of the encoding.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod members;
pub(crate) mod pages;

use std::collections::HashSet;

use tombolo_core::{Digest, VersionId};

use crate::chunker::CHUNK_BYTES_MAX;
use crate::pack::le_u32;
use crate::seal::SEAL_BYTES;

/// Largest encoded manifest, in bytes: 11 million chunks, 165 GB in those of 16 KiB, 670 GB in those of large files.
pub const MANIFEST_BYTES_MAX: usize = 384 << 20;
/// What is read of a manifest's file, sealed or not, in bytes: one more than it may have.
pub(crate) const MANIFEST_FILE_BYTES_MAX: u64 = (MANIFEST_BYTES_MAX + SEAL_BYTES) as u64 + 1;
/// Longest path within a version, in bytes (Linux's PATH_MAX leaves room for where the version is put).
pub const PATH_BYTES_MAX: usize = 3072;
/// Longest single name within a path, in bytes (Linux's NAME_MAX).
pub const COMPONENT_BYTES_MAX: usize = 255;

const MAGIC: &[u8; 8] = b"TOMBMAN1";
const CHUNK_REF_BYTES: usize = 36;
const ENTRY_BYTES_MIN: usize = 1 + 2 + 1 + 2;

/// The contents of one version. Every value of this type is valid and has one encoding.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Relative, components separated by `/`.
    pub path: String,
    pub node: Node,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    File {
        executable: bool,
        chunks: Vec<ChunkRef>,
    },
    /// Its target is relative and stays within the tree.
    Link {
        target: String,
    },
    EmptyDir,
}

/// A chunk by its content: the BLAKE3 digest and the length in bytes of what it holds, uncompressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ChunkRef {
    pub digest: Digest,
    pub bytes: u32,
}

/// What a version amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Files and links.
    pub files: u64,
    /// Raw, before deduplication and compression.
    pub bytes: u64,
    /// References to chunks, each occurrence counted.
    pub chunks: u64,
}

/// Why bytes or entries are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    #[error("it doesn't begin with the magic of a manifest")]
    Magic,
    #[error("it ends in the middle of entry {entry}")]
    Short { entry: usize },
    #[error("{0} bytes follow its last entry")]
    Trailing(usize),
    #[error("{bytes} bytes are more than {MANIFEST_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("entry {entry} has the unknown kind {kind}")]
    Kind { entry: usize, kind: u8 },
    #[error("path {path:?}: {why}")]
    Path { path: String, why: PathFault },
    #[error("{path:?} is out of order or occurs twice")]
    Order { path: String },
    #[error("{path:?} lies beneath {above:?}, which is no directory with contents")]
    Beneath { path: String, above: String },
    #[error("{path:?} has a chunk of {bytes} bytes; 1 to {CHUNK_BYTES_MAX} are allowed")]
    ChunkBytes { path: String, bytes: u32 },
    #[error("the link {path:?} points to {target:?}: {why}")]
    Link { path: String, target: String, why: LinkFault },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is absolute")]
    Absolute,
    #[error("it has an empty component")]
    EmptyComponent,
    #[error("it has the component '.' or '..'")]
    Dots,
    #[error("it has a component of more than {COMPONENT_BYTES_MAX} bytes")]
    LongComponent,
    #[error("it contains a NUL")]
    Nul,
    #[error("it isn't UTF-8")]
    NotUtf8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    #[error("a link's target can't be empty")]
    Empty,
    #[error("the target is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("the target is absolute, and a version must stand by itself")]
    Absolute,
    #[error("the target is outside the tree")]
    Outside,
    #[error("'..' may only stand at the beginning of a target")]
    DotsWithin,
    #[error("the target contains a NUL")]
    Nul,
}

impl Manifest {
    /// Sorts the entries and checks them.
    pub fn new(mut entries: Vec<Entry>) -> Result<Manifest, BadManifest> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Manifest { entries };
        manifest.check()?;
        let bytes = manifest.encoded_len();
        if bytes > MANIFEST_BYTES_MAX {
            return Err(BadManifest::TooLong { bytes });
        }
        Ok(manifest)
    }

    /// Entries in order of their paths.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok().map(|i| &self.entries[i])
    }

    /// Every reference to a chunk, in order, repeated ones too.
    pub fn chunks(&self) -> impl Iterator<Item = &ChunkRef> {
        self.entries.iter().flat_map(|entry| entry.chunks())
    }

    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for entry in &self.entries {
            summary.files += u64::from(!matches!(entry.node, Node::EmptyDir));
            summary.bytes += entry.bytes();
            summary.chunks += entry.chunks().len() as u64;
        }
        summary
    }

    pub fn version(&self) -> VersionId {
        version_of(&self.encode())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            out.push(match entry.node {
                Node::File { executable: false, .. } => 0,
                Node::File { executable: true, .. } => 1,
                Node::Link { .. } => 2,
                Node::EmptyDir => 3,
            });
            put_text(&mut out, &entry.path);
            match &entry.node {
                Node::File { chunks, .. } => {
                    out.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
                    for chunk in chunks {
                        out.extend_from_slice(&chunk.digest.0);
                        out.extend_from_slice(&chunk.bytes.to_le_bytes());
                    }
                }
                Node::Link { target } => put_text(&mut out, target),
                Node::EmptyDir => {}
            }
        }
        out
    }

    /// Reads an encoding; allocates no more than a small multiple of `bytes.len()`, whatever the bytes claim.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, BadManifest> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(BadManifest::TooLong { bytes: bytes.len() });
        }
        let mut reader = Reader { rest: bytes, entry: 0 };
        if reader.take(MAGIC.len()).map_err(|_| BadManifest::Magic)? != MAGIC {
            return Err(BadManifest::Magic);
        }
        let count = reader.u32()? as usize;
        let mut entries = Vec::with_capacity(count.min(reader.rest.len() / ENTRY_BYTES_MIN));
        for entry in 0..count {
            reader.entry = entry;
            entries.push(reader.entry()?);
        }
        if !reader.rest.is_empty() {
            return Err(BadManifest::Trailing(reader.rest.len()));
        }
        let manifest = Manifest { entries };
        manifest.check()?;
        Ok(manifest)
    }

    pub(crate) fn encoded_len(&self) -> usize {
        let entry_len = |entry: &Entry| {
            3 + entry.path.len()
                + match &entry.node {
                    Node::File { chunks, .. } => 4 + CHUNK_REF_BYTES * chunks.len(),
                    Node::Link { target } => 2 + target.len(),
                    Node::EmptyDir => 0,
                }
        };
        MAGIC.len() + 4 + self.entries.iter().map(entry_len).sum::<usize>()
    }

    fn check(&self) -> Result<(), BadManifest> {
        let leaves: HashSet<&str> = self.entries.iter().map(|entry| entry.path.as_str()).collect();
        let mut before: Option<&str> = None;
        for entry in &self.entries {
            let path = entry.path.as_str();
            check_path(path).map_err(|why| BadManifest::Path { path: path.to_owned(), why })?;
            if before.is_some_and(|before| before >= path) {
                return Err(BadManifest::Order { path: path.to_owned() });
            }
            before = Some(path);
            for (slash, _) in path.match_indices('/') {
                if leaves.contains(&path[..slash]) {
                    return Err(BadManifest::Beneath { path: path.to_owned(), above: path[..slash].to_owned() });
                }
            }
            match &entry.node {
                Node::File { chunks, .. } => {
                    let fits = |chunk: &&ChunkRef| chunk.bytes == 0 || chunk.bytes as usize > CHUNK_BYTES_MAX;
                    if let Some(chunk) = chunks.iter().find(fits) {
                        return Err(BadManifest::ChunkBytes { path: path.to_owned(), bytes: chunk.bytes });
                    }
                }
                Node::Link { target } => check_link(path, target).map_err(|why| BadManifest::Link {
                    path: path.to_owned(),
                    target: target.clone(),
                    why,
                })?,
                Node::EmptyDir => {}
            }
        }
        Ok(())
    }
}

impl Entry {
    pub fn chunks(&self) -> &[ChunkRef] {
        match &self.node {
            Node::File { chunks, .. } => chunks,
            Node::Link { .. } | Node::EmptyDir => &[],
        }
    }

    pub fn bytes(&self) -> u64 {
        self.chunks().iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }
}

/// The version whose encoded manifest these bytes are.
pub fn version_of(encoded: &[u8]) -> VersionId {
    VersionId(Digest(*blake3::hash(encoded).as_bytes()))
}

/// Calls `each` with where each reference to a chunk begins. Of an encoding that isn't valid it may miss that.
pub(crate) fn each_chunk(encoded: &[u8], mut each: impl FnMut(usize)) -> Result<(), BadManifest> {
    let mut reader = Reader { rest: encoded, entry: 0 };
    if reader.take(MAGIC.len()).map_err(|_| BadManifest::Magic)? != MAGIC {
        return Err(BadManifest::Magic);
    }
    for entry in 0..reader.u32()? as usize {
        reader.entry = entry;
        let [kind] = reader.array()?;
        reader.bytes()?;
        match kind {
            0 | 1 => {
                let count = reader.u32()? as usize;
                let at = encoded.len() - reader.rest.len();
                reader.take(count.saturating_mul(CHUNK_REF_BYTES))?;
                (0..count).for_each(|chunk| each(at + chunk * CHUNK_REF_BYTES));
            }
            2 => {
                reader.bytes()?;
            }
            3 => {}
            kind => return Err(BadManifest::Kind { entry, kind }),
        }
    }
    Ok(())
}

/// Raw bytes of all files of an encoding, as [`Summary`] has them.
pub(crate) fn bytes_of(encoded: &[u8]) -> Result<u64, BadManifest> {
    let mut bytes = 0_u64;
    each_chunk(encoded, |at| bytes += u64::from(le_u32(&encoded[at + 32..])))?;
    Ok(bytes)
}

/// Whether a path can be in a version.
pub fn check_path(path: &str) -> Result<(), PathFault> {
    if path.is_empty() {
        return Err(PathFault::Empty);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(PathFault::TooLong);
    }
    if path.starts_with('/') {
        return Err(PathFault::Absolute);
    }
    if path.contains('\0') {
        return Err(PathFault::Nul);
    }
    for component in path.split('/') {
        match component {
            "" => return Err(PathFault::EmptyComponent),
            "." | ".." => return Err(PathFault::Dots),
            _ if component.len() > COMPONENT_BYTES_MAX => return Err(PathFault::LongComponent),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the link at `path` stays within the tree, whatever the other links are.
///
/// `..` is allowed only at the beginning, where it climbs real directories: after another link it would climb
/// from wherever that one leads.
pub fn check_link(path: &str, target: &str) -> Result<(), LinkFault> {
    if target.is_empty() {
        return Err(LinkFault::Empty);
    }
    if target.len() > PATH_BYTES_MAX {
        return Err(LinkFault::TooLong);
    }
    if target.starts_with('/') {
        return Err(LinkFault::Absolute);
    }
    if target.contains('\0') {
        return Err(LinkFault::Nul);
    }
    let depth = path.matches('/').count();
    let (mut climbed, mut within) = (0, false);
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." if within => return Err(LinkFault::DotsWithin),
            ".." => climbed += 1,
            _ => within = true,
        }
    }
    if climbed > depth { Err(LinkFault::Outside) } else { Ok(()) }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a> {
    rest: &'a [u8],
    entry: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], BadManifest> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(BadManifest::Short { entry: self.entry })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadManifest> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, BadManifest> {
        self.array().map(u32::from_le_bytes)
    }

    /// A text that isn't looked at.
    fn bytes(&mut self) -> Result<&'a [u8], BadManifest> {
        let length = u16::from_le_bytes(self.array()?) as usize;
        self.take(length)
    }

    fn text(&mut self) -> Result<String, BadManifest> {
        let bytes = self.bytes()?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(BadManifest::Path {
                path: String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned(),
                why: PathFault::NotUtf8,
            }),
        }
    }

    fn entry(&mut self) -> Result<Entry, BadManifest> {
        let [kind] = self.array()?;
        let path = self.text()?;
        let node = match kind {
            0 | 1 => Node::File { executable: kind == 1, chunks: self.chunks()? },
            2 => Node::Link { target: self.text()? },
            3 => Node::EmptyDir,
            kind => return Err(BadManifest::Kind { entry: self.entry, kind }),
        };
        Ok(Entry { path, node })
    }

    fn chunks(&mut self) -> Result<Vec<ChunkRef>, BadManifest> {
        let count = self.u32()? as usize;
        // The bytes must be there before room is made for what they claim to be.
        if count > self.rest.len() / CHUNK_REF_BYTES {
            return Err(BadManifest::Short { entry: self.entry });
        }
        (0..count).map(|_| Ok(ChunkRef { digest: Digest(self.array()?), bytes: self.u32()? })).collect()
    }
}

#[cfg(test)]
mod tests;
