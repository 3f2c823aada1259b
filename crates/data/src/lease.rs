//! What keeps processes out of each other's way: advisory locks (flock), which end with the process that holds
//! them, however it ends.
//!
//! - `lock`: shared while a manifest is committed or a lease is taken, exclusive while anything is removed.
//!   Both are short; adding and fetching themselves hold nothing.
//! - `gc.lock`: exclusive for the whole of a gc or of setting a damaged pack aside, so that packs vanish by one
//!   hand at a time.
//! - `leases/<session>`: locked for as long as a writer or reader is at work. Packs of a live session are never
//!   removed; neither are the versions that a live lease lists, one hex digest a line. A single version stands in the
//!   name (`leases/<session>.<version>`), so that a version can be read where there is no room to write.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use tombolo_core::VersionId;

use crate::bucket::BucketLease;
use crate::error::{At, DataError};

/// Longest lease file that is read, in bytes.
pub(crate) const LEASE_BYTES_MAX: u64 = 1 << 20;

/// A lock that lasts as long as the value.
pub(crate) struct Lock {
    _file: File,
}

fn open(path: &Path) -> Result<File, DataError> {
    File::options().read(true).write(true).create(true).truncate(false).open(path).at("can't open", path)
}

pub(crate) fn shared(path: &Path) -> Result<Lock, DataError> {
    let file = open(path)?;
    file.lock_shared().at("can't lock", path)?;
    Ok(Lock { _file: file })
}

pub(crate) fn exclusive(path: &Path) -> Result<Lock, DataError> {
    let file = open(path)?;
    file.lock().at("can't lock", path)?;
    Ok(Lock { _file: file })
}

pub(crate) struct Lease {
    pub session: String,
    /// Where the store is a bucket, the lease that others see.
    pub bucket: Option<BucketLease>,
    path: PathBuf,
    _file: File,
}

impl Lease {
    /// Takes a new lease. The caller holds `lock` shared, or gc could take the file for a dead one's.
    pub(crate) fn take(dir: &Path, versions: &[VersionId], _lock: &Lock) -> Result<Lease, DataError> {
        let session = new_session()?;
        let (name, listed) = match versions {
            [one] => (format!("{session}.{one}"), &[] as &[VersionId]),
            many => (session.clone(), many),
        };
        let path = dir.join(name);
        let mut file = File::options().write(true).create_new(true).open(&path).at("can't create", &path)?;
        file.lock().at("can't lock", &path)?;
        for version in listed {
            writeln!(file, "{version}").at("can't write", &path)?;
        }
        Ok(Lease { session, bucket: None, path, _file: file })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What can't be removed now is removed by the next gc.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Default)]
pub(crate) struct Live {
    pub sessions: BTreeSet<String>,
    pub versions: BTreeSet<VersionId>,
}

/// The leases whose holders live. `remove_dead` needs `lock` to be held exclusively.
pub(crate) fn live(dir: &Path, remove_dead: bool) -> Result<Live, DataError> {
    let mut live = Live::default();
    for entry in std::fs::read_dir(dir).at("can't list", dir)? {
        let path = entry.at("can't list", dir)?.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(DataError::io("can't open", &path, e)),
        };
        match file.try_lock_shared() {
            Ok(()) if remove_dead => std::fs::remove_file(&path).at("can't remove", &path)?,
            Ok(()) => {}
            Err(TryLockError::Error(e)) => return Err(DataError::io("can't lock", &path, e)),
            Err(TryLockError::WouldBlock) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let (session, version) = name.split_once('.').unwrap_or((&name, ""));
                live.sessions.insert(session.to_owned());
                live.versions.extend(version.parse::<VersionId>());
                let mut text = String::new();
                (&file).take(LEASE_BYTES_MAX).read_to_string(&mut text).at("can't read", &path)?;
                live.versions.extend(text.lines().filter_map(|line| line.parse::<VersionId>().ok()));
            }
        }
    }
    Ok(live)
}

/// The session that a pack or a temporary file belongs to, from its name.
pub(crate) fn session_of(name: &str) -> &str {
    name.split_once('-').map_or(name, |(session, _)| session)
}

fn new_session() -> Result<String, DataError> {
    let bytes = getrandom::u64().map_err(|e| {
        let source = std::io::Error::other(e.to_string());
        DataError::io("can't draw a random number from", "/dev/urandom", source)
    })?;
    Ok(format!("{bytes:016x}"))
}
