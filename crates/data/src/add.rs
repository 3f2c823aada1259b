//! Adding a tree: one thread reads and cuts the larger files, the others hash, compress and write, and read the
//! small files by themselves.
//!
//! Memory is what is between them: at most [`QUEUE_MAX`] + threads + 1 buffers of [`READ_BYTES`], and the manifest.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use tombolo_core::VersionId;

use crate::chunker::{self, CHUNK_BYTES_MAX};
use crate::codec::{self, Encoder};
use crate::error::{At, DataError};
use crate::manifest::{ChunkRef, Entry, Manifest, Node};
use crate::restless::{Rereads, Restless, Seen, Steady};
use crate::session::{Commit, Session, lock};
use crate::store::Store;
use crate::walk::{Found, FoundKind, Stamp, walk};

/// Called with bytes done and bytes in all, from any thread, some hundred times a gigabyte; it should be quick.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Read at once from a larger file.
const READ_BYTES: usize = 2 << 20;
/// Works that wait for a thread.
const QUEUE_MAX: usize = 8;
/// Files up to this size are read by the thread that hashes them.
const SMALL_BYTES_MAX: u64 = 512 << 10;
/// Small files that are handed over together: until they have so many bytes, or are so many.
const GROUP_BYTES: u64 = 2 << 20;
const GROUP_FILES_MAX: usize = 256;
/// How often an add starts anew because a gc has removed chunks that it wanted to share.
const ATTEMPTS_MAX: u32 = 3;

#[derive(Clone, Default)]
pub struct AddOptions {
    /// What to leave out: `name` anywhere in the tree, `/path` from its root. See [`crate::IGNORE_FOR_CODE`].
    pub ignore: Vec<String>,
    pub progress: Option<Progress>,
    pub cancel: CancellationToken,
    /// What an earlier add has seen of this directory: the files that are as they were then are not read again.
    pub seen: Option<Arc<Seen>>,
    /// Somebody may be writing to the files. Without it, a file that changes while it is read fails the add.
    pub restless: Option<Restless>,
}

/// What an add came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    pub version: VersionId,
    /// Files and links.
    pub files: u64,
    /// Raw bytes of all files.
    pub bytes: u64,
    /// References to chunks.
    pub chunks: u64,
    /// Of its manifest, as another site gets it that has an earlier one like it.
    pub manifest_wire_bytes: u64,
    /// Bytes that this add stored.
    pub bytes_new: u64,
    /// Chunks that this add stored.
    pub chunks_new: u64,
    /// Raw bytes that were read for it; the others were seen before.
    pub bytes_read: u64,
    /// Files that changed each time that they were read, and that are part of the version all the same.
    pub torn: u64,
}

impl Store {
    /// Adds a directory, or a single file as a tree of that one file. It is durable when this returns.
    pub fn add_tree(&self, path: impl AsRef<Path>, options: &AddOptions) -> Result<Added, DataError> {
        self.add_tree_seen(path, options).map(|(added, _)| added)
    }

    /// [`Store::add_tree`] that also answers what was seen, for the next add of the same directory.
    pub fn add_tree_seen(&self, path: impl AsRef<Path>, options: &AddOptions) -> Result<(Added, Seen), DataError> {
        let session = Session::start(self)?;
        let mut gone = (VersionId(codec::digest_of(b"")), 0);
        // Of a version that is damaged or forgotten nothing can be taken over.
        let mut before = options.seen.as_ref().and_then(|seen| self.manifest(seen.version).ok());
        for _ in 0..ATTEMPTS_MAX {
            let began = SystemTime::now();
            let (root, found) = walk(path.as_ref(), &options.ignore, options.restless.is_some())?;
            let made = Adding::new(&session, root, found, before.take().as_ref(), options).run()?;
            let summary = made.manifest.summary();
            match session.commit(&made.manifest)? {
                (version, Commit::Done) => {
                    let added = Added {
                        version,
                        files: summary.files,
                        bytes: summary.bytes,
                        chunks: summary.chunks,
                        manifest_wire_bytes: crate::transfer::manifest_wire_bytes(made.manifest.encoded_len()),
                        bytes_new: session.bytes_new.load(Ordering::Relaxed),
                        chunks_new: session.chunks_new.load(Ordering::Relaxed),
                        bytes_read: made.bytes_read,
                        torn: made.torn,
                    };
                    return Ok((added, Seen::of(version, made.stamps, began)));
                }
                (version, Commit::Missing(missing)) => gone = (version, missing.len()),
            }
        }
        Err(DataError::Outrun { version: gone.0, missing: gone.1, attempts: ATTEMPTS_MAX })
    }
}

/// What an add has made of a tree, before it is committed.
struct Made {
    manifest: Manifest,
    /// Of the files that stood still while they were read.
    stamps: Vec<(String, Stamp)>,
    bytes_read: u64,
    torn: u64,
}

enum Work {
    /// Small files, by their numbers in the walk.
    Files(Vec<usize>),
    /// A piece of a larger file, cut already.
    Piece { file: usize, part: usize, buffer: Vec<u8>, cuts: Vec<std::ops::Range<usize>> },
}

/// The chunks of one part of a file: the file's number, the part's, and they.
type Part = (usize, usize, Vec<ChunkRef>);

struct Adding<'a> {
    session: &'a Session,
    root: PathBuf,
    found: Vec<Found>,
    options: &'a AddOptions,
    /// What the files that were seen before are made of.
    before: Option<&'a Manifest>,
    rereads: Rereads,
    total: u64,
    done: AtomicU64,
    read: AtomicU64,
    /// Somebody has failed; the first error is what the add ends with.
    stop: AtomicBool,
    failed: Mutex<Option<DataError>>,
    parts: Mutex<Vec<Part>>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl<'a> Adding<'a> {
    fn new(
        session: &'a Session,
        root: PathBuf,
        found: Vec<Found>,
        before: Option<&'a Manifest>,
        options: &'a AddOptions,
    ) -> Adding<'a> {
        let bytes = |found: &Found| if let FoundKind::File(stamp) = &found.kind { stamp.bytes } else { 0 };
        Adding {
            session,
            root,
            total: found.iter().map(bytes).sum(),
            found,
            options,
            before,
            rereads: Rereads::new(options.restless, session.tmp_dir()),
            done: AtomicU64::new(0),
            read: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
            parts: Mutex::default(),
            buffers: Mutex::default(),
        }
    }

    fn run(self) -> Result<Made, DataError> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let encoders: Result<Vec<_>, _> = (0..threads).map(|_| Encoder::new()).collect();
        let encoders = encoders.at("can't set up compression for", &self.root)?;
        let (give, take) = sync_channel(QUEUE_MAX);
        let take = Mutex::new(take);
        std::thread::scope(|scope| {
            for encoder in encoders {
                scope.spawn(|| self.work(&take, encoder));
            }
            // Given away, so that the threads see the end of the works.
            if let Err(error) = self.hand_out(give) {
                self.fail(error);
            }
        });
        if let Some(error) = lock(&self.failed).take() {
            return Err(error);
        }
        self.made()
    }

    fn fail(&self, error: DataError) {
        lock(&self.failed).get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn hand_out(&self, give: SyncSender<Work>) -> Result<(), DataError> {
        // A thread that failed no longer takes, and by then the error is known.
        let hand = |work| give.send(work).is_ok() && !self.stop.load(Ordering::Relaxed);
        let (mut group, mut group_bytes) = (Vec::new(), 0);
        for (number, found) in self.found.iter().enumerate() {
            let FoundKind::File(stamp) = &found.kind else { continue };
            if let Some(chunks) = self.seen_before(&found.path, stamp) {
                self.done.fetch_add(stamp.bytes, Ordering::Relaxed);
                lock(&self.parts).push((number, 0, chunks));
                continue;
            }
            if stamp.bytes > SMALL_BYTES_MAX {
                if !self.large(number, stamp, &hand)? {
                    return Ok(());
                }
                continue;
            }
            group.push(number);
            group_bytes += stamp.bytes;
            if group_bytes >= GROUP_BYTES || group.len() >= GROUP_FILES_MAX {
                group_bytes = 0;
                if !hand(Work::Files(std::mem::take(&mut group))) {
                    return Ok(());
                }
            }
        }
        hand(Work::Files(group));
        Ok(())
    }

    /// The chunks of a file that is as it was when it was last added.
    fn seen_before(&self, path: &str, stamp: &Stamp) -> Option<Vec<ChunkRef>> {
        let seen = self.options.seen.as_ref()?;
        let Node::File { executable, chunks } = &self.before?.entry(path).filter(|_| seen.has(path, stamp))?.node
        else {
            return None;
        };
        (*executable == stamp.executable).then(|| chunks.clone())
    }

    /// False when there is no sense in going on.
    fn large(&self, file: usize, stamp: &Stamp, hand: &impl Fn(Work) -> bool) -> Result<bool, DataError> {
        let path = self.root.join(&self.found[file].path);
        let mut part = 0;
        let went_on = self.rereads.each(file, &path, stamp, |steady, _| {
            // What was read of it before it changed does not count.
            self.rereads.begins_at(file, part);
            self.read_large(file, &path, steady, &mut part, hand)
        })?;
        Ok(went_on.unwrap_or(true))
    }

    fn read_large(
        &self,
        file: usize,
        path: &Path,
        steady: &mut Steady,
        part: &mut usize,
        hand: &impl Fn(Work) -> bool,
    ) -> Result<bool, DataError> {
        let (mut read, mut tail) = (0, Vec::new());
        loop {
            let mut buffer = lock(&self.buffers).pop().unwrap_or_default();
            buffer.clear();
            buffer.reserve(READ_BYTES + CHUNK_BYTES_MAX);
            buffer.append(&mut tail);
            let before = buffer.len();
            let ended = chunker::fill(&mut steady.source, &mut buffer, READ_BYTES).at("can't read", path)?;
            let new = (buffer.len() - before) as u64;
            (read, _) = (read + new, self.read.fetch_add(new, Ordering::Relaxed));
            // What grows for ever is taken to where it ended when it was looked at.
            let last = ended || steady.as_it_is && read >= steady.bytes();
            let cuts = chunker::cut(&buffer, steady.bytes(), last);
            tail.extend_from_slice(&buffer[cuts.last().map_or(0, |cut| cut.end)..]);
            if !hand(Work::Piece { file, part: *part, buffer, cuts }) {
                return Ok(false);
            }
            *part += 1;
            if last {
                steady.check(path, read)?;
                return Ok(true);
            }
            if read > steady.bytes() {
                let how = format!("it grew beyond {} bytes", steady.bytes());
                return Err(DataError::Changed { path: path.to_path_buf(), how });
            }
        }
    }

    /// Takes works until there will be none; an error doesn't end it, or the reader would be left waiting.
    fn work(&self, take: &Mutex<Receiver<Work>>, mut encoder: Encoder) {
        let mut buffer = Vec::new();
        loop {
            let taken = lock(take).recv();
            let Ok(work) = taken else { return };
            if self.stop.load(Ordering::Relaxed) {
                continue;
            }
            if self.options.cancel.is_cancelled() {
                self.fail(DataError::Cancelled);
                continue;
            }
            let outcome = match work {
                Work::Files(files) => files.iter().try_for_each(|file| self.small(*file, &mut buffer, &mut encoder)),
                Work::Piece { file, part, buffer, cuts } => {
                    let chunks = self.store_chunks(&buffer, &cuts, &mut encoder);
                    lock(&self.buffers).push(buffer);
                    chunks.map(|chunks| lock(&self.parts).push((file, part, chunks)))
                }
            };
            match outcome {
                Ok(()) => self.report(),
                Err(error) => self.fail(error),
            }
        }
    }

    fn small(&self, number: usize, buffer: &mut Vec<u8>, encoder: &mut Encoder) -> Result<(), DataError> {
        let found = &self.found[number];
        let FoundKind::File(stamp) = &found.kind else { return Ok(()) };
        let path = self.root.join(&found.path);
        self.rereads.each(number, &path, stamp, |steady, part| {
            // One that has grown large meanwhile is cut all the same.
            let room = if steady.as_it_is { steady.bytes() as usize } else { SMALL_BYTES_MAX as usize + 1 };
            buffer.clear();
            chunker::fill(&mut steady.source, buffer, room).at("can't read", &path)?;
            self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            steady.check(&path, buffer.len() as u64)?;
            let chunks = self.store_chunks(buffer, &chunker::cut(buffer, buffer.len() as u64, true), encoder)?;
            lock(&self.parts).push((number, part, chunks));
            Ok(())
        })?;
        Ok(())
    }

    fn store_chunks(
        &self,
        buffer: &[u8],
        cuts: &[std::ops::Range<usize>],
        encoder: &mut Encoder,
    ) -> Result<Vec<ChunkRef>, DataError> {
        let mut chunks = Vec::with_capacity(cuts.len());
        for cut in cuts {
            let raw = &buffer[cut.clone()];
            let chunk = ChunkRef { digest: codec::digest_of(raw), bytes: raw.len() as u32 };
            if self.session.claim(&chunk.digest) {
                self.session.put(chunk.digest, chunk.bytes, encoder.encode(raw))?;
            }
            self.done.fetch_add(raw.len() as u64, Ordering::Relaxed);
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    fn report(&self) {
        if let Some(progress) = &self.options.progress {
            progress(self.done.load(Ordering::Relaxed), self.total);
        }
    }

    fn made(self) -> Result<Made, DataError> {
        let mut parts = self.parts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Parts that belong to no entry would stand before all that come after them.
        parts.retain(|(file, part, _)| self.rereads.counts(*file, *part) && !self.rereads.is_gone(*file));
        parts.sort_unstable_by_key(|(file, part, _)| (*file, *part));
        let mut parts = parts.into_iter().peekable();
        let (mut entries, mut stamps) = (Vec::with_capacity(self.found.len()), Vec::new());
        for (number, found) in self.found.into_iter().enumerate() {
            let node = match found.kind {
                FoundKind::Link { target } => Node::Link { target },
                FoundKind::EmptyDir => Node::EmptyDir,
                FoundKind::File(_) if self.rereads.is_gone(number) => continue,
                FoundKind::File(stamp) => {
                    let mut chunks = Vec::new();
                    while let Some((_, _, part)) = parts.next_if(|(file, _, _)| *file == number) {
                        // Most files are one part, which is taken as it is.
                        if chunks.is_empty() { chunks = part } else { chunks.extend(part) }
                    }
                    stamps.extend(self.rereads.stood_still(number, stamp).map(|stamp| (found.path.clone(), stamp)));
                    Node::File { executable: stamp.executable, chunks }
                }
            };
            entries.push(Entry { path: found.path, node });
        }
        let manifest = Manifest::new(entries)?;
        Ok(Made { manifest, stamps, bytes_read: self.read.into_inner(), torn: self.rereads.torn() })
    }
}
