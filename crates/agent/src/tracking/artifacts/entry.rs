//! What lies under an artifact's name: its bytes, or which version of the store they are.
//!
//! ```text
//! tombolo-artifact 1\n
//! alone\n                      or    stored <version> <bytes>\n
//! its bytes
//! ```
//! A file that doesn't begin like this was put there before there was this form, and is its bytes.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tombolo_core::VersionId;

const MAGIC: &str = "tombolo-artifact 1\n";
const ALONE: &str = "alone\n";
const STORED: &str = "stored ";
/// Of the two lines.
const HEAD_BYTES_MAX: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Its bytes are in the file, from `at` on.
    Alone {
        at: u64,
        bytes: u64,
    },
    Stored {
        version: VersionId,
        bytes: u64,
    },
}

impl Entry {
    pub fn bytes(&self) -> u64 {
        match self {
            Entry::Alone { bytes, .. } | Entry::Stored { bytes, .. } => *bytes,
        }
    }

    pub fn version(&self) -> Option<VersionId> {
        match self {
            Entry::Stored { version, .. } => Some(*version),
            Entry::Alone { .. } => None,
        }
    }

    /// None where there is no such file.
    pub fn read(path: &Path) -> io::Result<Option<Entry>> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut head = Vec::new();
        file.take(HEAD_BYTES_MAX).read_to_end(&mut head)?;
        let Some(rest) = head.strip_prefix(MAGIC.as_bytes()) else {
            return Ok(Some(Entry::Alone { at: 0, bytes: metadata.len() }));
        };
        if rest.starts_with(ALONE.as_bytes()) {
            let at = (MAGIC.len() + ALONE.len()) as u64;
            return Ok(Some(Entry::Alone { at, bytes: metadata.len() - at }));
        }
        let stored = std::str::from_utf8(rest).ok().and_then(|line| {
            let (version, bytes) = line.strip_prefix(STORED)?.strip_suffix('\n')?.split_once(' ')?;
            Some(Entry::Stored { version: version.parse().ok()?, bytes: bytes.parse().ok()? })
        });
        let odd = || io::Error::new(ErrorKind::InvalidData, format!("{} is no artifact's note", path.display()));
        stored.map(Some).ok_or_else(odd)
    }

    pub fn write_alone(path: &Path, bytes: &[u8]) -> io::Result<()> {
        write(path, &[MAGIC.as_bytes(), ALONE.as_bytes(), bytes])
    }

    pub fn write_stored(path: &Path, version: VersionId, bytes: u64) -> io::Result<()> {
        write(path, &[MAGIC.as_bytes(), format!("{STORED}{version} {bytes}\n").as_bytes()])
    }
}

fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let version: VersionId = "ab".repeat(32).parse().unwrap();
        assert_eq!(Entry::read(&path).unwrap(), None);
        assert_eq!(Entry::read(dir.path()).unwrap(), None);
        // Also bytes that look like a note of ours.
        let forged = format!("{MAGIC}{STORED}{version} 7\n");
        for bytes in [&b"hello"[..], b"", forged.as_bytes()] {
            Entry::write_alone(&path, bytes).unwrap();
            let Some(Entry::Alone { at, bytes: count }) = Entry::read(&path).unwrap() else { panic!() };
            assert_eq!((&fs::read(&path).unwrap()[at as usize..], count), (bytes, bytes.len() as u64));
            fs::remove_file(&path).unwrap();
        }
        Entry::write_stored(&path, version, 1 << 40).unwrap();
        assert_eq!(Entry::read(&path).unwrap(), Some(Entry::Stored { version, bytes: 1 << 40 }));
        fs::write(&path, "older").unwrap();
        assert_eq!(Entry::read(&path).unwrap(), Some(Entry::Alone { at: 0, bytes: 5 }));
        for odd in ["", "stored x 1\n", "stored", &format!("stored {version} 1")] {
            fs::write(&path, format!("{MAGIC}{odd}")).unwrap();
            assert!(Entry::read(&path).is_err(), "{odd}");
        }
    }
}
