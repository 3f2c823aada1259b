//! Parts of packs on the local disk, so that what was read or written lately isn't fetched again.
//!
//! Whole packs as `<pack>`, blocks of [`BLOCK_BYTES`] as `<pack>.<number>`. Nothing here is ever needed: what is lost
//! or damaged is fetched again, and all is verified by the chunks' digests when it is read. Processes share the
//! directory; when it gets too large the oldest files go.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::error::{At, DataError};

/// What is fetched at once: chunks that were added together lie together.
pub(super) const BLOCK_BYTES: u64 = 4 << 20;

pub(super) struct Cache {
    dir: PathBuf,
    bytes_max: u64,
    /// At least what is there, as far as this process knows.
    bytes: AtomicU64,
    next: AtomicU64,
}

impl Cache {
    /// Nothing is read or kept before the directory was made.
    pub(super) fn new(dir: &Path, bytes_max: u64) -> Cache {
        Cache { dir: dir.to_path_buf(), bytes_max, bytes: AtomicU64::new(0), next: AtomicU64::new(0) }
    }

    pub(super) fn make(&self) -> Result<(), DataError> {
        std::fs::create_dir_all(&self.dir).at("can't create", &self.dir)?;
        self.shrink();
        Ok(())
    }

    /// False where it isn't here.
    pub(super) fn read(&self, pack: &str, block: u64, bytes: &mut [u8], within: usize) -> Result<bool, DataError> {
        let whole = (self.dir.join(pack), block * BLOCK_BYTES + within as u64);
        let part = (self.dir.join(format!("{pack}.{block}")), within as u64);
        for (path, offset) in [whole, part] {
            if File::open(path).and_then(|file| file.read_exact_at(bytes, offset)).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps a block; that it can't be kept costs only time.
    pub(super) fn put(&self, pack: &str, block: u64, bytes: &[u8]) {
        let kept = self.scratch_named().and_then(|(tmp, path)| {
            tmp.write_all_at(bytes, 0).at("can't write", &path)?;
            std::fs::rename(&path, self.dir.join(format!("{pack}.{block}"))).at("can't rename", &path)
        });
        self.added(kept, bytes.len() as u64);
    }

    pub(super) fn take_in(&self, file: &Path, pack: &str) {
        let bytes = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        self.added(std::fs::rename(file, self.dir.join(pack)).at("can't rename", file), bytes);
    }

    fn added(&self, kept: Result<(), DataError>, bytes: u64) {
        if let Err(error) = kept {
            tracing::debug!(%error, "a part of a pack isn't kept");
        }
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes_max {
            self.shrink();
        }
    }

    pub(super) fn forget(&self, pack: &str) {
        let mine = |name: &str| name.strip_prefix(pack).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        for (path, ..) in self
            .files()
            .into_iter()
            .filter(|(path, ..)| path.file_name().is_some_and(|name| mine(&name.to_string_lossy())))
        {
            // Another process may have done so.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Removes the oldest files until a quarter of the room is free, if there is too much.
    fn shrink(&self) {
        let mut files = self.files();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        if bytes > self.bytes_max {
            files.sort_by_key(|(.., modified)| *modified);
            for (path, size, _) in files {
                if bytes <= self.bytes_max / 4 * 3 {
                    break;
                }
                let _ = std::fs::remove_file(path);
                bytes -= size;
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn files(&self) -> Vec<(PathBuf, u64, SystemTime)> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let look = |entry: std::fs::DirEntry| {
            let metadata = entry.metadata().ok()?;
            Some((entry.path(), metadata.len(), metadata.modified().ok()?))
        };
        entries.filter_map(look).collect()
    }

    fn scratch_named(&self) -> Result<(File, PathBuf), DataError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("tmp.{}.{number:x}.{:p}", std::process::id(), self));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        Ok((file.at("can't create", &path)?, path))
    }

    /// A file that goes away when it is closed.
    pub(super) fn scratch(&self) -> Result<(File, PathBuf), DataError> {
        let (file, path) = self.scratch_named()?;
        std::fs::remove_file(&path).at("can't remove", &path)?;
        Ok((file, path))
    }
}
