//! What lies beside a placement's state directory `state/<run>/<stage>`; no stage's name has a dot in it.
//!
//! - `<stage>.seen`: what the last copy of the directory has seen in it, so that the next one reads only what changed.
//! - `<stage>.<epoch>.ahead`: the tree that a placement will begin with, brought up to each round of a move while it runs
//!   elsewhere; `.ahead.json` says which version it is, `.ahead.lock` keeps agent and shim apart.
//! - `<stage>.<epoch>.old`: what a placement has found here, on its way out.
//!
//! All of it is good until the machine starts again only: none of it is made durable.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_core::ids::{Epoch, VersionId, WorkloadId};
use tombolo_core::sync::Outcome;
use tombolo_data::{AddOptions, DataError, MaterializeOptions, Seen, Store};

use crate::shim::{process, read_note, remove_tree};

/// In a state directory: what a program may make a link of, so that its inputs are there under this name too.
const INPUTS: &str = "inputs";

/// How a state directory is added: what was seen of it is not read again, and a link to the inputs, which are elsewhere at
/// each site, is no part of it.
pub fn how_added(dir: &Path) -> AddOptions {
    let link = fs::symlink_metadata(dir.join(INPUTS)).is_ok_and(|found| found.is_symlink());
    let ignore = link.then(|| format!("/{INPUTS}")).into_iter().collect();
    AddOptions { seen: seen(dir).map(Arc::new), ignore, ..AddOptions::default() }
}

/// What was seen of a state directory since this machine started.
pub fn seen(dir: &Path) -> Option<Seen> {
    read(&dir.with_extension("seen"))
}

pub fn note_seen(dir: &Path, seen: &Seen) -> io::Result<()> {
    write(&dir.with_extension("seen"), seen)
}

/// The inodes that some process of this machine may write to through its memory, which changes no file's times from
/// the second time on.
pub fn mapped() -> BTreeSet<u64> {
    let maps = |process: &str| fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let names =
        fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let processes = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    processes.flat_map(|process| inodes(&maps(&process))).collect()
}

/// Of the file's lines (proc_pid_maps(5)) those that are shared and writable.
fn inodes(maps: &str) -> Vec<u64> {
    let shared = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let rights = fields.next()?.as_bytes();
        let inode: u64 = fields.nth(2)?.parse().ok()?;
        (rights.get(1) == Some(&b'w') && rights.get(3) == Some(&b's') && inode > 0).then_some(inode)
    };
    maps.lines().filter_map(shared).collect()
}

/// The tree that a placement will begin with.
pub struct Ahead {
    state_dir: PathBuf,
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Ahead {
    /// Waits for whoever is at it.
    pub fn lock(state_dir: &Path, epoch: Epoch) -> io::Result<Ahead> {
        let dir = beside(state_dir, epoch, "ahead");
        fs::create_dir_all(state_dir.parent().unwrap_or(state_dir))?;
        let file = File::create(dir.with_extension("ahead.lock"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        Ok(Ahead { state_dir: state_dir.to_owned(), dir, _lock: lock })
    }

    fn note(&self) -> PathBuf {
        self.dir.with_extension("ahead.json")
    }

    /// Makes it this version's tree. Of what is there already only the difference is written.
    pub fn bring(&self, store: &Store, version: VersionId) -> Result<(), DataError> {
        let io = |doing| move |source| DataError::Io { doing, path: self.dir.clone(), source };
        let there = read::<VersionId>(&self.note()).filter(|_| self.dir.is_dir());
        if there == Some(version) {
            return Ok(());
        }
        match fs::remove_file(self.note()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("can't change")(error)),
            _ => {}
        }
        let options = MaterializeOptions::default();
        let renewed = match there {
            Some(there) => store.renew(there, version, &self.dir, &options).is_ok(),
            None => false,
        };
        if !renewed {
            remove_tree(&self.dir).map_err(io("can't remove"))?;
            store.materialize(version, &self.dir, &options)?;
        }
        write(&self.note(), &version).map_err(io("can't note"))
    }

    /// Has the disk take it in now: what is written a moment later for a start need not wait behind it then.
    pub fn settle(&self) -> io::Result<()> {
        sync(&self.dir)
    }

    /// Makes it the state directory. What was there is removed in the background.
    pub fn into_place(self) -> io::Result<()> {
        let old = self.dir.with_extension("old");
        remove_tree(&old)?;
        match fs::rename(&self.state_dir, &old) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&self.dir, &self.state_dir)?;
        let _ = fs::remove_file(self.note());
        let _ = fs::remove_file(self.dir.with_extension("ahead.lock"));
        // What can't be removed now goes with the next one, or with the workload.
        std::thread::spawn(move || remove_tree(&old));
        Ok(())
    }
}

/// The workloads whose state directory is here and whole in the store, with the last placement that used each.
pub fn all(site_dir: &Path) -> Vec<(WorkloadId, Epoch)> {
    let names = |dir: &Path| {
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok())
    };
    let root = site_dir.join("state");
    let mut all = Vec::new();
    for run in names(&root) {
        for name in names(&root.join(&run)) {
            let workload = name.strip_suffix(".json").and_then(|stage| format!("{run}/{stage}").parse().ok());
            let note = read_note(&root.join(&run).join(name.trim_end_matches(".json")));
            all.extend(workload.zip(note.filter(|note| note.version.is_some()).map(|note| note.epoch)));
        }
    }
    all
}

/// Removes a state directory that no newer placement than this has used. When this returns it is out of the way already;
/// it is removed in the background.
pub fn forget(state_dir: &Path, epoch: Epoch) -> io::Result<()> {
    if read_note(state_dir).is_none_or(|note| note.epoch > epoch) {
        return Ok(());
    }
    let gone = beside(state_dir, epoch, "old");
    match fs::rename(state_dir, &gone) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_file(state_dir.with_extension("json"))?;
    let _ = fs::remove_file(state_dir.with_extension("seen"));
    std::thread::spawn(move || {
        let _ = remove_tree(&gone);
        // The run's directory goes with its last stage.
        gone.parent().map(fs::remove_dir)
    });
    Ok(())
}

fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => sync(&entry.path())?,
            kind if kind.is_file() => File::open(entry.path())?.sync_data()?,
            _ => {}
        }
    }
    Ok(())
}

/// Removes what was laid out ahead for a placement that does not come.
pub fn forget_ahead(state_dir: &Path, epoch: Epoch) -> io::Result<()> {
    let dir = beside(state_dir, epoch, "ahead");
    if !dir.with_extension("ahead.lock").exists() {
        return Ok(());
    }
    let ahead = Ahead::lock(state_dir, epoch)?;
    remove_tree(&ahead.dir)?;
    let _ = fs::remove_file(ahead.note());
    fs::remove_file(ahead.dir.with_extension("ahead.lock"))?;
    // The run's directory goes with its last stage.
    let _ = state_dir.parent().map(fs::remove_dir);
    Ok(())
}

fn beside(state_dir: &Path, epoch: Epoch, what: &str) -> PathBuf {
    let mut name = state_dir.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{epoch}.{what}"));
    state_dir.with_file_name(name)
}

/// What was written since this machine started.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let (boot, value) = serde_json::from_slice::<(String, T)>(&fs::read(path).ok()?).ok()?;
    (boot == process::boot_id()).then_some(value)
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, serde_json::to_vec(&(process::boot_id(), value)).map_err(io::Error::other)?)?;
    fs::rename(new, path)
}

/// Lays out the state that a placement will begin with. The shim does what is left of it; that there is no room is better
/// known before the source is told to end.
pub fn lay_ahead(store: &Store, state_dir: &Path, epoch: Epoch, version: VersionId) -> Result<(), Outcome> {
    let ahead = Ahead::lock(state_dir, epoch).map_err(|error| Outcome::Unprepared { why: error.to_string() })?;
    match ahead.bring(store, version) {
        Err(error) if error.is_no_space() => {
            Err(Outcome::NoSpace { why: format!("the state can't be laid out: {error}") })
        }
        Err(error) => {
            tracing::warn!(dir = %state_dir.display(), %error, "the state can't be laid out ahead");
            Ok(())
        }
        Ok(()) => {
            if let Err(error) = ahead.settle() {
                tracing::warn!(dir = %state_dir.display(), %error, "what is laid out ahead can't be synced");
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use tombolo_data::{AddOptions, StoreOptions};

    use super::*;

    #[test]
    fn what_processes_write_to_through_memory_is_told() {
        let maps = "7f00-7f10 rw-s 00000000 fe:00 4711   /state/memmap\n7f10-7f20 r--s 00000000 fe:00 12 /lib\n\
                    7f20-7f30 rw-p 00000000 fe:00 13 /private\n7f30-7f40 rw-p 00000000 00:00 0 \n";
        assert_eq!(inodes(maps), [4711]);
        assert!(inodes("not a map").is_empty());
    }

    #[test]
    fn a_directory_is_forgotten_unless_a_newer_placement_has_used_it() {
        let site = tempfile::tempdir().unwrap();
        let run = site.path().join("state/p-1");
        let version = VersionId(tombolo_core::Digest([7; 32]));
        let note = |stage: &str, epoch: u64, version: Option<VersionId>| {
            fs::create_dir_all(run.join(stage)).unwrap();
            let note = serde_json::json!({ "epoch": epoch, "version": version });
            fs::write(run.join(stage).with_extension("json"), note.to_string()).unwrap();
        };
        note("train", 3, Some(version));
        // Of what is in use, or was lost, the store does not have all.
        note("busy", 4, None);
        let id: WorkloadId = "p-1/train".parse().unwrap();
        assert_eq!(all(site.path()), [(id, Epoch(3))]);
        forget(&run.join("train"), Epoch(2)).unwrap();
        assert!(run.join("train").is_dir());
        forget(&run.join("train"), Epoch(3)).unwrap();
        assert!(!run.join("train").exists() && !run.join("train.json").exists());
        forget(&run.join("train"), Epoch(3)).unwrap();
        assert!(all(site.path()).is_empty() && run.join("busy").is_dir());
    }

    #[test]
    fn what_is_laid_out_ahead_follows_the_rounds_and_becomes_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
        let (tree, state) = (dir.path().join("tree"), dir.path().join("run/train"));
        fs::create_dir(&tree).unwrap();
        let version = |text: &str| {
            fs::write(tree.join("file"), text).unwrap();
            store.add_tree(&tree, &AddOptions::default()).unwrap().version
        };
        let (first, second) = (version("first"), version("second"));
        let epoch = Epoch(3);
        Ahead::lock(&state, epoch).unwrap().bring(&store, first).unwrap();
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("stale"), "").unwrap();
        // A note of before the machine started again counts for nothing.
        let ahead = Ahead::lock(&state, epoch).unwrap();
        fs::write(ahead.dir.join("half"), "lost to a power cut").unwrap();
        fs::write(ahead.note(), serde_json::to_vec(&("another boot", first)).unwrap()).unwrap();
        ahead.bring(&store, second).unwrap();
        ahead.into_place().unwrap();
        let names = |dir: &Path| -> Vec<_> { fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect() };
        assert_eq!(names(&state), ["file"]);
        assert_eq!(fs::read_to_string(state.join("file")).unwrap(), "second");

        Ahead::lock(&state, Epoch(4)).unwrap().bring(&store, first).unwrap();
        forget_ahead(&state, Epoch(4)).unwrap();
        forget_ahead(&state, Epoch(5)).unwrap();
        assert!(!names(state.parent().unwrap()).iter().any(|name| name.to_string_lossy().contains(".4.")));
    }
}
