//! What becomes of placements that are over: their directories go, and their logs stay for a while.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::shim::placement::Placement;
use crate::shim::remove_tree;

/// How long a discarded placement's shim may take to end before its directory is removed anyway.
const END_MAX: Duration = Duration::from_secs(10);
/// Logs of discarded placements that are kept at a site; the oldest go first.
const KEPT_LOGS_MAX: usize = 2_000;

/// Removes a placement's directory, save for what is kept of it.
pub(super) fn discard(placement: &Placement, kept: &Path) -> io::Result<()> {
    let deadline = Instant::now() + END_MAX;
    // It has told its end, and is removing files now; held, so that no late shim begins in what is being removed.
    let mut lock = placement.try_lock()?;
    while lock.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
        lock = placement.try_lock()?;
    }
    fs::create_dir_all(kept)?;
    for entry in fs::read_dir(placement.dir())? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b"log") || name == "events" {
            fs::rename(entry.path(), kept.join(name))?;
        }
    }
    remove_tree(placement.dir())?;
    // The run's directory goes with its last placement.
    if let Some(run) = placement.dir().parent() {
        let _ = fs::remove_dir(run);
    }
    Ok(())
}

/// Removes the oldest kept logs. What can't be read or removed is tried again the next time.
pub(super) fn prune(logs: &Path) {
    let dirs = |dir: &Path| fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut kept: Vec<_> = dirs(logs)
        .flat_map(|run| dirs(&run).collect::<Vec<_>>())
        .filter_map(|dir| Some((dir.metadata().ok()?.modified().ok()?, dir)))
        .collect();
    kept.sort();
    let excess = kept.len().saturating_sub(KEPT_LOGS_MAX);
    for (_, dir) in kept.into_iter().take(excess) {
        let _ = fs::remove_dir_all(&dir);
        if let Some(run) = dir.parent() {
            let _ = fs::remove_dir(run);
        }
    }
}
