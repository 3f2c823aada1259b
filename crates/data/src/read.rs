//! Reading versions: whole trees onto disk, or single files.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;
use tombolo_core::{Digest, VersionId};

use crate::add::Progress;
use crate::error::{At, DataError};
use crate::manifest::{ChunkRef, Entry, Manifest, Node, Summary};
use crate::session::lock;
use crate::store::Store;

/// Chunks that a thread writes before it looks for other work (16 MiB at most).
const PIECE_CHUNKS: usize = 64;

#[derive(Clone, Default)]
pub struct MaterializeOptions {
    pub progress: Option<Progress>,
    pub cancel: CancellationToken,
}

impl Store {
    /// Writes the version's tree into `dest`, which must not exist or be empty. Every chunk is verified. Where
    /// this fails, what is in `dest` is not the version.
    pub fn materialize(
        &self,
        version: VersionId,
        dest: impl AsRef<Path>,
        options: &MaterializeOptions,
    ) -> Result<Summary, DataError> {
        let _hold = self.hold(version)?;
        let manifest = self.manifest(version)?;
        let dest = dest.as_ref();
        std::fs::create_dir_all(dest).at("can't create", dest)?;
        if std::fs::read_dir(dest).at("can't list", dest)?.next().is_some() {
            return Err(DataError::NotEmpty { path: dest.to_path_buf() });
        }
        make_dirs(dest, &manifest)?;
        Materializing::new(self, dest, &manifest, None, options).run()?;
        make_links(dest, &manifest, None)?;
        Ok(manifest.summary())
    }

    /// Writes one file's bytes to `out` and returns how many; a link is not followed. An error of `out` names the
    /// file's path.
    pub fn read_file(&self, version: VersionId, path: &str, out: &mut impl Write) -> Result<u64, DataError> {
        let entry = self.file_entry(version, path)?;
        for chunk in entry.chunks() {
            out.write_all(&self.read_chunk(chunk)?).at("can't write out", path)?;
        }
        Ok(entry.bytes())
    }

    /// One file's bytes, at most `bytes_max` of them.
    pub fn read_small(&self, version: VersionId, path: &str, bytes_max: u64) -> Result<Vec<u8>, DataError> {
        let entry = self.file_entry(version, path)?;
        let bytes = entry.bytes();
        if bytes > bytes_max {
            return Err(DataError::FileTooLong { path: path.to_owned(), bytes, bytes_max });
        }
        let mut out = Vec::with_capacity(bytes as usize);
        for chunk in entry.chunks() {
            out.extend_from_slice(&self.read_chunk(chunk)?);
        }
        Ok(out)
    }

    fn file_entry(&self, version: VersionId, path: &str) -> Result<Entry, DataError> {
        let manifest = self.manifest(version)?;
        match manifest.entry(path) {
            Some(entry) if matches!(entry.node, Node::File { .. }) => Ok(entry.clone()),
            _ => Err(DataError::NoFile { version, path: path.to_owned() }),
        }
    }
}

/// Links come last: then nothing can be written through one.
pub(crate) fn make_links(dest: &Path, manifest: &Manifest, before: Option<&Manifest>) -> Result<(), DataError> {
    for entry in manifest.entries() {
        let is_there = before.is_some_and(|before| before.entry(&entry.path) == Some(entry));
        if let Node::Link { target } = &entry.node
            && !is_there
        {
            let path = dest.join(&entry.path);
            std::os::unix::fs::symlink(target, &path).at("can't create", &path)?;
        }
    }
    Ok(())
}

pub(crate) fn make_dirs(dest: &Path, manifest: &Manifest) -> Result<(), DataError> {
    let mut last = "";
    for entry in manifest.entries() {
        let dir = match &entry.node {
            Node::EmptyDir => entry.path.as_str(),
            _ => entry.path.rsplit_once('/').map_or("", |(dir, _)| dir),
        };
        if dir != last {
            let path = dest.join(dir);
            std::fs::create_dir_all(&path).at("can't create", &path)?;
            last = dir;
        }
    }
    Ok(())
}

/// Which chunk begins where in a file.
fn places(entry: &Entry) -> HashMap<u64, Digest> {
    let mut offset = 0;
    let place = |chunk: &ChunkRef| {
        let at = offset;
        offset += u64::from(chunk.bytes);
        (at, chunk.digest)
    };
    entry.chunks().iter().map(place).collect()
}

/// Some chunks of a file, and where in it they begin.
struct Piece<'a> {
    entry: &'a Entry,
    offset: u64,
    chunks: &'a [ChunkRef],
}

pub(crate) struct Materializing<'a> {
    store: &'a Store,
    dest: &'a Path,
    options: &'a MaterializeOptions,
    pieces: Vec<Piece<'a>>,
    next: AtomicUsize,
    total: u64,
    done: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<Option<DataError>>,
}

impl<'a> Materializing<'a> {
    /// Of `before`, which is in `dest` already, what is at its place is not written again.
    pub(crate) fn new(
        store: &'a Store,
        dest: &'a Path,
        manifest: &'a Manifest,
        before: Option<&Manifest>,
        options: &'a MaterializeOptions,
    ) -> Materializing<'a> {
        let mut pieces = Vec::new();
        for entry in manifest.entries() {
            let Node::File { chunks, .. } = &entry.node else { continue };
            if chunks.is_empty() {
                pieces.push(Piece { entry, offset: 0, chunks });
            }
            let there = before.and_then(|before| before.entry(&entry.path)).map(places).unwrap_or_default();
            let (mut offset, mut rest) = (0, chunks.as_slice());
            while !rest.is_empty() {
                let mut end = offset;
                let new = rest.iter().take(PIECE_CHUNKS).take_while(|chunk| {
                    let is_new = there.get(&end) != Some(&chunk.digest);
                    end += u64::from(chunk.bytes);
                    is_new
                });
                let (new, after) = rest.split_at(new.count());
                if !new.is_empty() {
                    pieces.push(Piece { entry, offset, chunks: new });
                    offset += new.iter().map(|chunk| u64::from(chunk.bytes)).sum::<u64>();
                }
                rest = after;
                while let Some((first, after)) = rest.split_first()
                    && there.get(&offset) == Some(&first.digest)
                {
                    offset += u64::from(first.bytes);
                    rest = after;
                }
            }
        }
        Materializing {
            store,
            dest,
            options,
            pieces,
            next: AtomicUsize::new(0),
            total: manifest.summary().bytes,
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
        }
    }

    pub(crate) fn run(self) -> Result<(), DataError> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        std::thread::scope(|scope| {
            for _ in 0..threads.min(self.pieces.len()) {
                scope.spawn(|| {
                    if let Err(error) = self.work() {
                        lock(&self.failed).get_or_insert(error);
                        self.stop.store(true, Ordering::Relaxed);
                    }
                });
            }
        });
        lock(&self.failed).take().map_or(Ok(()), Err)
    }

    fn work(&self) -> Result<(), DataError> {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.options.cancel.is_cancelled() {
                return Err(DataError::Cancelled);
            }
            self.write(piece)?;
            if let Some(progress) = &self.options.progress {
                progress(self.done.load(Ordering::Relaxed), self.total);
            }
        }
        Ok(())
    }

    fn write(&self, piece: &Piece<'_>) -> Result<(), DataError> {
        let path = self.dest.join(&piece.entry.path);
        let file = self.open(&path, piece)?;
        let mut offset = piece.offset;
        for chunk in piece.chunks {
            let raw = self.store.read_chunk(chunk)?;
            file.write_all_at(&raw, offset).at("can't write", &path)?;
            offset += raw.len() as u64;
            self.done.fetch_add(raw.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn open(&self, path: &Path, piece: &Piece<'_>) -> Result<File, DataError> {
        let executable = matches!(piece.entry.node, Node::File { executable: true, .. });
        let mode = if executable { 0o777 } else { 0o666 };
        // The umask takes away what it should. Pieces of one file come in any order, so none may truncate it.
        OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(path).at("can't create", path)
    }
}
