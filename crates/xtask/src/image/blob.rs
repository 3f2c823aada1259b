//! Blobs: files that are known by their digest, written once and then only read.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const GZIP_LEVEL: u32 = 6;
const BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug, Clone)]
pub struct Blob {
    pub file: PathBuf,
    /// `sha256:` and 64 hex digits.
    pub digest: String,
    pub bytes: u64,
}

/// What is known of a blob in the cache, in a file beside it.
#[derive(Serialize, Deserialize)]
struct Known {
    digest: String,
    bytes: u64,
}

impl Blob {
    /// Under its name only once it is whole.
    pub fn write(file: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Blob> {
        let part = beside(file, ".part");
        let made = File::create(&part).with_context(|| format!("can't write {}", part.display()))?;
        let mut writer =
            BufWriter::with_capacity(BUFFER_BYTES, Digesting { inner: made, hash: Sha256::new(), bytes: 0 });
        fill(&mut writer)?;
        let digesting = writer.into_inner().map_err(io::IntoInnerError::into_error);
        let Digesting { hash, bytes, .. } = digesting.with_context(|| format!("can't write {}", part.display()))?;
        // What was known of a blob before it isn't of this one.
        let _ = std::fs::remove_file(beside(file, ".json"));
        std::fs::rename(&part, file).with_context(|| format!("can't make {}", file.display()))?;
        Ok(Blob { file: file.to_owned(), digest: hex(hash), bytes })
    }

    /// The same bytes in a file of their own, compressed; its header has neither a time nor a name.
    pub fn gzip(&self, into: &Path) -> Result<Blob> {
        Blob::write(into, |writer| {
            let mut gzip = GzBuilder::new().mtime(0).write(writer, Compression::new(GZIP_LEVEL));
            let plain = File::open(&self.file).with_context(|| format!("can't read {}", self.file.display()))?;
            let mut plain = BufReader::with_capacity(BUFFER_BYTES, plain);
            io::copy(&mut plain, &mut gzip).with_context(|| format!("can't compress {}", self.file.display()))?;
            gzip.finish().with_context(|| format!("can't compress {}", self.file.display()))?;
            Ok(())
        })
    }

    /// The blob as it was kept, unless there is none or somebody has changed its length.
    pub fn kept(file: &Path) -> Result<Option<Blob>> {
        let known = beside(file, ".json");
        let (Ok(text), Ok(meta)) = (std::fs::read(&known), file.metadata()) else { return Ok(None) };
        let Known { digest, bytes } = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} says nothing about the blob beside it\nhint: remove it, and both are made again",
                known.display()
            )
        })?;
        Ok((meta.len() == bytes).then(|| Blob { file: file.to_owned(), digest, bytes }))
    }

    /// From now on [`Blob::kept`] finds it.
    pub fn keep(&self) -> Result<()> {
        let known = beside(&self.file, ".json");
        let text = serde_json::to_vec(&Known { digest: self.digest.clone(), bytes: self.bytes })?;
        std::fs::write(&known, text).with_context(|| format!("can't write {}", known.display()))
    }
}

/// The digest of a few bytes, as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(end);
    name.into()
}

struct Digesting {
    inner: File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From FIPS 180-2's examples.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_kept_blob_is_found_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("blob");
        let blob = Blob::write(&file, |writer| Ok(writer.write_all(b"abc")?)).unwrap();
        assert_eq!((blob.digest.as_str(), blob.bytes), (ABC, 3));
        assert_eq!(digest(b"abc"), ABC);
        assert!(Blob::kept(&file).unwrap().is_none(), "nobody kept it yet");
        blob.keep().unwrap();
        assert_eq!(Blob::kept(&file).unwrap().unwrap().digest, ABC);
        std::fs::write(&file, "ab").unwrap();
        assert!(Blob::kept(&file).unwrap().is_none());
        std::fs::write(beside(&file, ".json"), "").unwrap();
        assert!(Blob::kept(&file).unwrap_err().to_string().contains("hint: "));
    }

    #[test]
    fn half_a_blob_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("blob");
        Blob::write(&file, |_| anyhow::bail!("no more")).unwrap_err();
        assert!(!file.exists());
    }

    #[test]
    fn compressed_bytes_tell_no_time_and_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let blob = Blob::write(&dir.path().join("blob"), |writer| Ok(writer.write_all(&[7; 9_000])?)).unwrap();
        let packed = blob.gzip(&dir.path().join("blob.gz")).unwrap();
        let bytes = std::fs::read(&packed.file).unwrap();
        assert_eq!(digest(&bytes), packed.digest);
        // RFC 1952: magic, deflate, no flags (hence no name), and four bytes of time.
        assert_eq!(bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
        let mut plain = Vec::new();
        io::copy(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut plain).unwrap();
        assert_eq!(plain, [7; 9_000]);
    }
}
