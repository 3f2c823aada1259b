//! Adding a directory again and again while somebody writes to it: each file as it was at one moment, and those that
//! have not changed not at all.
//!
//! A file is cloned first where the file system shares blocks (FICLONE of ioctl_ficlone(2), as on XFS and Btrfs): the clone
//! stands still. Elsewhere it is read where it is, between two looks at its size and times, and read again where they
//! differ. That a file has not changed since an earlier add is told by its inode, size and times, in nanoseconds;
//! files that changed shortly before they were read, within what the times of any file system can tell apart, are not
//! believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tombolo_core::VersionId;

use crate::error::{At, DataError};
use crate::session::lock;
use crate::walk::{Stamp, vanished_or};

/// A file that changed so shortly before it was added may have changed again within the same tick of its file system.
const TICK_MAX: Duration = Duration::from_secs(2);

/// Smaller files are read where they are, unless they have changed meanwhile: that takes less than a clone.
const CLONED_FROM_BYTES: u64 = 512 << 10;

/// How files are read that somebody may be writing to.
#[derive(Clone, Copy, Debug)]
pub struct Restless {
    /// How often a file is read that changes each time, before it is taken as it is. One at least.
    pub tries: u32,
    /// Before a file is read for the third time, twice as long before the fourth, and so on.
    pub pause: Duration,
}

/// What a directory was like when it was added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    pub version: VersionId,
    files: BTreeMap<String, Stamp>,
}

impl Seen {
    pub(crate) fn of(version: VersionId, stamps: Vec<(String, Stamp)>, began: SystemTime) -> Seen {
        let began = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let latest = began.saturating_sub(TICK_MAX).as_nanos() as i128;
        let old = |stamp: &Stamp| i128::from(stamp.changed.0) * 1_000_000_000 + i128::from(stamp.changed.1) < latest;
        Seen { version, files: stamps.into_iter().filter(|(_, stamp)| old(stamp)).collect() }
    }

    /// Forgets the files with such inode numbers.
    pub fn forget(&mut self, is_doubtful: impl Fn(u64) -> bool) {
        self.files.retain(|_, stamp| !is_doubtful(stamp.inode.1));
    }

    pub(crate) fn has(&self, path: &str, stamp: &Stamp) -> bool {
        self.files.get(path) == Some(stamp)
    }
}

/// A file that is read, and what it has to be like at the end of it.
pub(crate) struct Steady {
    pub source: File,
    stamp: Stamp,
    /// It is a clone: it stands still, and nobody else has it.
    cloned: bool,
    /// Changes are not minded any more.
    pub as_it_is: bool,
}

impl Steady {
    pub(crate) fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// Whether it is still what it was, and was read whole.
    pub(crate) fn check(&self, path: &Path, read: u64) -> Result<(), DataError> {
        if self.cloned || self.as_it_is {
            return Ok(());
        }
        let now = Stamp::of(&self.source.metadata().at("can't look at", path)?);
        if now == self.stamp && read == self.stamp.bytes {
            return Ok(());
        }
        let how = match now.bytes == self.stamp.bytes {
            true => "its contents were written to or replaced".to_owned(),
            false => format!("its length went from {} to {} bytes", self.stamp.bytes, now.bytes),
        };
        Err(DataError::Changed { path: path.to_path_buf(), how })
    }
}

/// What came of files that did not stand still; by their numbers in the walk.
pub(crate) struct Rereads {
    restless: Option<Restless>,
    /// Where clones lie, unnamed.
    tmp: PathBuf,
    can_clone: AtomicBool,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    /// Where a file's parts begin that count.
    begins: BTreeMap<usize, usize>,
    /// What a file was like that was read again.
    stamps: BTreeMap<usize, Stamp>,
    gone: BTreeSet<usize>,
    torn: BTreeSet<usize>,
    /// Those that are whole in the version and may have changed since.
    changed: BTreeSet<usize>,
}

impl Rereads {
    pub(crate) fn new(restless: Option<Restless>, tmp: PathBuf) -> Rereads {
        Rereads { can_clone: AtomicBool::new(restless.is_some()), restless, tmp, notes: Mutex::default() }
    }

    /// Has a file read until it stood still meanwhile, or often enough. `read` gets the file and which time this is.
    /// None where it has vanished and may.
    pub(crate) fn each<T>(
        &self,
        file: usize,
        path: &Path,
        found: &Stamp,
        mut read: impl FnMut(&mut Steady, usize) -> Result<T, DataError>,
    ) -> Result<Option<T>, DataError> {
        let Some(Restless { tries, pause }) = self.restless else {
            return read(&mut self.open(path, Some(found), false)?, 0).map(Some);
        };
        for time in 0..tries.max(1) {
            let as_it_is = time + 1 >= tries;
            std::thread::sleep(pause * time.saturating_sub(1));
            let mut steady = match self.open(path, (time == 0).then_some(found), as_it_is) {
                Err(DataError::Changed { .. }) if time == 0 && !as_it_is => continue,
                Err(DataError::Changed { .. }) => {
                    lock(&self.notes).gone.insert(file);
                    return Ok(None);
                }
                opened => opened?,
            };
            match read(&mut steady, time as usize) {
                Ok(done) => {
                    self.note(file, path, &steady);
                    return Ok(Some(done));
                }
                Err(DataError::Changed { .. }) if !as_it_is => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last try minds no change")
    }

    fn note(&self, file: usize, path: &Path, steady: &Steady) {
        let now = std::fs::symlink_metadata(path).map(|metadata| Stamp::of(&metadata));
        let mut notes = lock(&self.notes);
        notes.stamps.insert(file, steady.stamp);
        if now.ok() != Some(steady.stamp) {
            let as_it_is = steady.as_it_is && !steady.cloned;
            let noted = if as_it_is { &mut notes.torn } else { &mut notes.changed };
            noted.insert(file);
        }
    }

    /// The file as it is now, or as it was found.
    fn open(&self, path: &Path, found: Option<&Stamp>, as_it_is: bool) -> Result<Steady, DataError> {
        // What was named by its owner may be a link to a file. What takes a file's place meanwhile may not: where it was found
        // before, that is told by its stamp.
        let named = match found {
            Some(_) => std::fs::metadata(path),
            None => std::fs::symlink_metadata(path),
        };
        if !named.map_err(|e| vanished_or(path, "can't look at", e))?.is_file() {
            return Err(DataError::Changed { path: path.to_path_buf(), how: "it is no file any more".into() });
        }
        let source = File::open(path).map_err(|e| vanished_or(path, "can't open", e))?;
        let stamp = match found {
            Some(found) => *found,
            None => Stamp::of(&source.metadata().at("can't look at", path)?),
        };
        let worth_it = stamp.bytes >= CLONED_FROM_BYTES || found.is_none();
        if let Some(clone) = worth_it.then(|| self.clone_of(&source)).flatten() {
            // By its length at that moment, whatever it was before.
            let bytes = clone.metadata().at("can't look at", path)?.len();
            return Ok(Steady { source: clone, stamp: Stamp { bytes, ..stamp }, cloned: true, as_it_is });
        }
        let steady = Steady { source, stamp, cloned: false, as_it_is };
        // One that is looked at anew is what it is now; whether it stays so is seen when it was read.
        if found.is_some() {
            steady.check(path, stamp.bytes)?;
        }
        Ok(steady)
    }

    fn clone_of(&self, source: &File) -> Option<File> {
        if !self.can_clone.load(Ordering::Relaxed) {
            return None;
        }
        let mut unnamed = File::options();
        unnamed.read(true).write(true).custom_flags(nix::libc::O_TMPFILE).mode(0o600);
        let clone = unnamed.open(&self.tmp).ok()?;
        if rustix::fs::ioctl_ficlone(&clone, source).is_ok() {
            return Some(clone);
        }
        // Another file of the same directory is on the same file system.
        self.can_clone.store(false, Ordering::Relaxed);
        None
    }

    /// The file's parts from here on are what it is made of.
    pub(crate) fn begins_at(&self, file: usize, part: usize) {
        if part > 0 {
            lock(&self.notes).begins.insert(file, part);
        }
    }

    pub(crate) fn counts(&self, file: usize, part: usize) -> bool {
        lock(&self.notes).begins.get(&file).is_none_or(|begin| part >= *begin)
    }

    pub(crate) fn is_gone(&self, file: usize) -> bool {
        lock(&self.notes).gone.contains(&file)
    }

    /// What a file was like that is in the version as it was then.
    pub(crate) fn stood_still(&self, file: usize, found: Stamp) -> Option<Stamp> {
        let notes = lock(&self.notes);
        let moved = notes.torn.contains(&file) || notes.changed.contains(&file);
        (!moved).then(|| notes.stamps.get(&file).copied().unwrap_or(found))
    }

    pub(crate) fn torn(&self) -> u64 {
        lock(&self.notes).torn.len() as u64
    }
}
