//! What can go wrong with stored data, with the file, chunk or pack that it happened to.

use std::io;
use std::path::{Path, PathBuf};

use tombolo_core::{Digest, VersionId};

use crate::seal::KeyId;

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system is full or the quota is used up; what was acknowledged before is still whole.
    #[error("no space left on the device of {}", path.display())]
    NoSpace { path: PathBuf },
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// A chunk whose bytes are not what its digest says. [`crate::Store::check_pack`] sets the pack aside.
    #[error("chunk {} in pack {pack} is damaged: {reason}", chunk.short())]
    CorruptChunk { chunk: Digest, pack: String, reason: String },
    #[error("pack {pack} is damaged: {reason}")]
    CorruptPack { pack: String, reason: String },
    #[error("the manifest of version {} is damaged: {reason}", version.short())]
    CorruptManifest { version: VersionId, reason: String },
    #[error("chunk {} is not in this store", chunk.short())]
    NoChunk { chunk: Digest },
    #[error("version {} is not in this store", version.short())]
    NoVersion { version: VersionId },
    #[error("version {} has no file {path:?}", version.short())]
    NoFile { version: VersionId, path: String },
    #[error("version {} has {}", version.short(), which(files))]
    WhichFile { version: VersionId, files: Vec<String> },
    #[error("{path:?} is {bytes} bytes long; at most {bytes_max} are read at once")]
    FileTooLong { path: String, bytes: u64, bytes_max: u64 },
    #[error("{} changed while it was being added: {how}", path.display())]
    Changed { path: PathBuf, how: String },
    /// A path that can't be in a version: its name, its kind, or where it points.
    #[error("{} can't be added: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
    #[error("the manifest is not valid: {0}")]
    Manifest(#[from] crate::manifest::BadManifest),
    #[error("{} is not empty; a version is written into a new or an empty directory", path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} is not a chunk store: {why}", path.display())]
    NotAStore { path: PathBuf, why: String },
    #[error(
        "{name:?} can't be a pin's name: use letters, digits, '.', '-' and '_', at most 200, not beginning with '.'"
    )]
    BadPin { name: String },
    /// Chunks went missing again and again while a version was being committed.
    #[error("version {} could not be committed: {missing} of its chunks were removed meanwhile, {attempts} times", version.short())]
    Outrun { version: VersionId, missing: usize, attempts: u32 },
    #[error("{url:?} can't be a store's bucket: {why}")]
    BadBucket { url: String, why: String },
    #[error("{doing} object {key}: {source}")]
    Bucket { doing: &'static str, key: String, source: Box<object_store::Error> },
    /// A process that doesn't keep to the protocol, or damage: nothing is removed or relied on until it is mended.
    #[error("the bucket's list of condemned packs has the line {line:?}, which isn't valid")]
    BadCondemned { line: String },
    #[error("the bucket's list of condemned packs was changed by others {tries} times on end")]
    Contended { tries: u32 },
    /// Another process's gc took this version for one that nobody wants, and has begun to remove it.
    #[error("version {} is being removed by a gc; try again when that is done", version.short())]
    BeingRemoved { version: VersionId },
    /// The bucket couldn't be reached for too long.
    #[error("the lease of session {session} wasn't renewed in time, so its chunks may be gone; try again")]
    LeaseLapsed { session: String },
    #[error("{at} is encrypted under the key {key}, and no key was given")]
    NoKey { at: String, key: KeyId },
    #[error("{at} is encrypted under the key {key}, and the key that was given is {given}")]
    WrongKey { at: String, key: KeyId, given: KeyId },
    #[error("{at} is not encrypted, and a key was given")]
    NotEncrypted { at: String },
    /// Of an encrypted store in one that isn't, or the other way round.
    #[error("pack {pack} is of a store that is encrypted otherwise than this one")]
    ForeignPack { pack: String },
    #[error("the key {} can't be read: {source}", path.display())]
    KeyFile { path: PathBuf, source: io::Error },
    #[error("cancelled")]
    Cancelled,
}

impl DataError {
    pub fn is_no_space(&self) -> bool {
        matches!(self, DataError::NoSpace { .. })
    }

    /// An input/output error at a path; a full disk is told apart from the rest.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, source: io::Error) -> DataError {
        let path = path.as_ref().to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DataError::NoSpace { path },
            _ => DataError::Io { doing, path, source },
        }
    }
}

/// Names the path in an [`io::Result`]'s error.
pub(crate) trait At<T> {
    fn at(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, DataError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, DataError> {
        self.map_err(|source| DataError::io(doing, path, source))
    }
}

fn which(files: &[String]) -> String {
    match files {
        [] => "no file".to_owned(),
        files => format!("several files, such as {}: name one", files.join(", ")),
    }
}
