//! Versions that are read while they come: whoever fetches one shows its manifest at once, and readers of the same
//! store follow its chunks, which are durable and verified before they can be seen.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use tombolo_core::VersionId;

use crate::error::{At, DataError};
use crate::manifest::{ChunkRef, MANIFEST_FILE_BYTES_MAX, Manifest, Node, version_of};
use crate::store::{Store, read_file};

const ENDING: &str = ".coming";
/// How often a reader looks for what it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Files that an error lists.
const LISTED_MAX: usize = 10;

/// A manifest that readers may find before its chunks are there, for as long as this lives.
pub(crate) struct Shown(PathBuf);

impl Drop for Shown {
    fn drop(&mut self) {
        // What can't be removed now goes with the session's other files by the next gc.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a reader may still expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It comes.
    More,
    /// All has come that will.
    NoMore,
}

impl Store {
    /// Shows a version that a session fetches.
    pub(crate) fn show_coming(&self, session: &str, version: VersionId, encoded: &[u8]) -> Result<Shown, DataError> {
        let path = self.path(&["tmp", &format!("{session}-{version}{ENDING}")]);
        let new = path.with_extension("new");
        let shown = Shown(path);
        let bytes = self.manifest_form(version, encoded)?;
        std::fs::write(&new, &bytes).at("can't write", &new)?;
        std::fs::rename(&new, &shown.0).at("can't rename", &new)?;
        Ok(shown)
    }

    /// The manifest of a version that is here or on its way.
    pub fn manifest_in_sight(&self, version: VersionId) -> Result<Manifest, DataError> {
        match self.manifest(version) {
            Err(DataError::NoVersion { .. }) => {}
            other => return other,
        }
        let (tmp, ending) = (self.path(&["tmp"]), format!("-{version}{ENDING}"));
        for entry in std::fs::read_dir(&tmp).at("can't list", &tmp)? {
            let entry = entry.at("can't list", &tmp)?;
            if !entry.file_name().to_string_lossy().ends_with(&ending) {
                continue;
            }
            // Gone again, as when its fetch has ended in between.
            let Some(bytes) = read_file(&entry.path(), MANIFEST_FILE_BYTES_MAX)? else { continue };
            let encoded = self.manifest_of_form(version, bytes)?;
            if version_of(&encoded) == version {
                return Ok(Manifest::decode(&encoded)?);
            }
        }
        // It may have come meanwhile.
        self.manifest(version)
    }

    /// Writes one file of a version to `out`, waiting for chunks that are still on their way for as long as `expect`
    /// says that they come. Without a path it is the version's only file. Answers how many bytes it was.
    pub fn follow_file(
        &self,
        version: VersionId,
        path: Option<&str>,
        expect: &dyn Fn() -> Expect,
        out: &mut dyn Write,
    ) -> Result<u64, DataError> {
        let manifest = wait(expect, || self.manifest_in_sight(version))?;
        let (path, chunks) = file(version, &manifest, path)?;
        let mut bytes = 0;
        for chunk in chunks {
            let raw = wait(expect, || self.read_chunk(chunk))?;
            out.write_all(&raw).at("can't write out", path)?;
            bytes += raw.len() as u64;
        }
        out.flush().at("can't write out", path)?;
        Ok(bytes)
    }
}

/// Tries again what isn't there yet. What came last was there before `expect` said that no more does.
fn wait<T>(expect: &dyn Fn() -> Expect, look: impl Fn() -> Result<T, DataError>) -> Result<T, DataError> {
    loop {
        let expected = expect();
        match look() {
            Err(DataError::NoVersion { .. } | DataError::NoChunk { .. }) if expected == Expect::More => {
                std::thread::sleep(LOOK_EVERY);
            }
            other => return other,
        }
    }
}

fn file<'m>(
    version: VersionId,
    manifest: &'m Manifest,
    path: Option<&str>,
) -> Result<(&'m str, &'m [ChunkRef]), DataError> {
    let mut files = manifest.entries().iter().filter_map(|entry| match &entry.node {
        Node::File { chunks, .. } => Some((entry.path.as_str(), chunks.as_slice())),
        _ => None,
    });
    match path {
        Some(path) => {
            let found = files.find(|(name, _)| *name == path);
            found.ok_or_else(|| DataError::NoFile { version, path: path.to_owned() })
        }
        None => {
            let first = files.next();
            let more: Vec<String> = files.map(|(name, _)| name.to_owned()).take(LISTED_MAX).collect();
            match (first, more.is_empty()) {
                (Some(only), true) => Ok(only),
                (Some((name, _)), false) => {
                    Err(DataError::WhichFile { version, files: std::iter::once(name.to_owned()).chain(more).collect() })
                }
                (None, _) => Err(DataError::WhichFile { version, files: Vec::new() }),
            }
        }
    }
}
