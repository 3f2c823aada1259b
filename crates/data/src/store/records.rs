//! Chunks as they lie in packs: records, which are their stored forms (see [`crate::codec`]), sealed where the store is
//! encrypted. What is read is opened and verified before anything else sees it.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tombolo_core::Digest;

use super::{OPEN_PACKS_MAX, Store};
use crate::codec;
use crate::error::{At, DataError};
use crate::index::{Location, PackId};
use crate::manifest::ChunkRef;
use crate::seal::Purpose;
use crate::session::lock;

impl Store {
    /// A chunk's raw bytes, verified.
    pub fn read_chunk(&self, chunk: &ChunkRef) -> Result<Vec<u8>, DataError> {
        let (record, location) = self.read_record(&chunk.digest)?;
        if location.raw != chunk.bytes {
            return Err(self.corrupt(&chunk.digest, &location, "its length isn't what the manifest says".into()));
        }
        let decode = |stored| codec::decode(stored, location.raw, &chunk.digest);
        self.checked(&chunk.digest, &location, record, decode)
    }

    /// A chunk's stored form and raw length; only if it is `sound` is it verified.
    pub(crate) fn read_stored(&self, digest: &Digest, sound: bool) -> Result<(Vec<u8>, u32), DataError> {
        let (record, location) = self.read_record(digest)?;
        let verify = |stored: Vec<u8>| match sound {
            true => codec::verify(&stored, location.raw, digest).map(|()| stored),
            false => Ok(stored),
        };
        Ok((self.checked(digest, &location, record, verify)?, location.raw))
    }

    /// The record of a chunk's stored form.
    pub(crate) fn record_of<'a>(
        &self,
        digest: &Digest,
        raw: u32,
        stored: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, DataError> {
        let Some(key) = &self.inner.key else { return Ok(Cow::Borrowed(stored)) };
        let sealed = key.seal(Purpose::Chunk, &digest.0, u64::from(raw), stored);
        Ok(Cow::Owned(sealed.at("can't encrypt what is to lie in", &self.inner.dir)?))
    }

    /// That a record is whole.
    pub(crate) fn check_record(&self, record: Vec<u8>, raw: u32, digest: &Digest) -> Result<(), String> {
        codec::verify(&self.stored_of(record, raw, digest)?, raw, digest)
    }

    fn stored_of(&self, record: Vec<u8>, raw: u32, digest: &Digest) -> Result<Vec<u8>, String> {
        match &self.inner.key {
            None => Ok(record),
            Some(key) => key.open(Purpose::Chunk, &digest.0, u64::from(raw), record),
        }
    }

    /// What `check` makes of the record's stored form. In a bucket a damaged one is read anew: it may be the cache's.
    fn checked<T>(
        &self,
        digest: &Digest,
        location: &Location,
        record: Vec<u8>,
        check: impl Fn(Vec<u8>) -> Result<T, String>,
    ) -> Result<T, DataError> {
        let look = |record| self.stored_of(record, location.raw, digest).and_then(&check);
        let why = match (look(record), &self.inner.bucket) {
            (Ok(found), _) => return Ok(found),
            (Err(why), None) => why,
            (Err(_), Some(bucket)) => {
                bucket.forget(&location.pack.to_string());
                match look(self.read_at(digest, location)?) {
                    Ok(found) => return Ok(found),
                    Err(why) => why,
                }
            }
        };
        Err(self.corrupt(digest, location, why))
    }

    /// A chunk's record as it lies there.
    fn read_record(&self, digest: &Digest) -> Result<(Vec<u8>, Location), DataError> {
        let mut refreshed = false;
        loop {
            if let Some(location) = self.locate(digest)? {
                match self.read_at(digest, &location) {
                    // A gc has moved the chunk into another pack.
                    Err(DataError::Io { source, .. })
                        if source.kind() == std::io::ErrorKind::NotFound && !refreshed => {}
                    other => return other.map(|record| (record, location)),
                }
            }
            if refreshed {
                return Err(DataError::NoChunk { chunk: *digest });
            }
            self.refresh()?;
            refreshed = true;
        }
    }

    fn read_at(&self, digest: &Digest, location: &Location) -> Result<Vec<u8>, DataError> {
        let mut record = vec![0; location.stored as usize];
        if let Some(bucket) = &self.inner.bucket {
            let pack = location.pack.to_string();
            if bucket.read_at(&pack, &mut record, u64::from(location.offset))? {
                return Ok(record);
            }
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(DataError::io("can't read", self.path(&["packs", &pack]), gone));
        }
        let (file, path) = self.pack_file(location.pack)?;
        match file.read_exact_at(&mut record, u64::from(location.offset)) {
            Ok(()) => Ok(record),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(digest, location, "the pack ends before it".into()))
            }
            Err(e) => Err(DataError::io("can't read", path, e)),
        }
    }

    fn pack_file(&self, pack: PackId) -> Result<(Arc<File>, PathBuf), DataError> {
        let path = self.path(&["packs", &pack.to_string()]);
        let mut files = lock(&self.inner.files);
        if let Some(file) = files.get(&pack) {
            return Ok((file.clone(), path));
        }
        let file = Arc::new(File::open(&path).at("can't open", &path)?);
        if files.len() >= OPEN_PACKS_MAX {
            files.clear();
        }
        files.insert(pack, file.clone());
        Ok((file, path))
    }

    fn corrupt(&self, digest: &Digest, location: &Location, reason: String) -> DataError {
        DataError::CorruptChunk { chunk: *digest, pack: location.pack.to_string(), reason }
    }
}
