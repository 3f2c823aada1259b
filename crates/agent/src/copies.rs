//! Copies of state directories, taken while their workloads run.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tombolo_core::Millis;
use tombolo_core::moving::Taken;
use tombolo_data::{AddOptions, Added, DataError, Store};

/// How often a directory is read that is written to meanwhile, and the pause between.
const TRIES_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);

/// A copy of a state directory, in the store. A file that is written to while it is read is read again; where that
/// never ends, the files are copied aside first, one by one (by reference, where the file system can), and the copy is
/// said to be torn. Blocks.
pub fn take(store: &Store, dir: &Path) -> Result<Taken, String> {
    let began = Instant::now();
    let taken = |added: Added, torn: bool| Taken {
        version: (added.files > 0).then_some(added.version),
        bytes: added.bytes,
        files: added.files,
        fresh_bytes: added.bytes_new,
        took: Millis(began.elapsed().as_millis() as u64),
        torn,
    };
    if !dir.is_dir() {
        return Ok(Taken { version: None, bytes: 0, files: 0, fresh_bytes: 0, took: Millis(0), torn: false });
    }
    for _ in 0..TRIES_MAX {
        match store.add_tree(dir, &AddOptions::default()) {
            Ok(added) => return Ok(taken(added, false)),
            Err(DataError::Changed { .. }) => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.to_string()),
        }
    }
    let aside = dir.with_extension("aside");
    let copied = set_aside(dir, &aside).map(|()| store.add_tree(&aside, &AddOptions::default()));
    let removed = fs::remove_dir_all(&aside);
    let added = copied.map_err(|error| format!("{} can't be copied: {error}", dir.display()))?;
    removed.map_err(|error| format!("{} can't be removed: {error}", aside.display()))?;
    added.map(|added| taken(added, true)).map_err(|error| error.to_string())
}

/// Copies what is there; what vanishes meanwhile is not there.
fn set_aside(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let copied = entry.file_type().and_then(|kind| match kind {
            kind if kind.is_dir() => set_aside(&source, &target),
            kind if kind.is_symlink() => std::os::unix::fs::symlink(fs::read_link(&source)?, &target),
            _ => fs::copy(&source, &target).map(drop),
        });
        match copied {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tombolo_data::StoreOptions;

    use super::*;

    #[test]
    fn a_directory_is_copied_while_it_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
        let state = dir.path().join("state");
        assert_eq!(take(&store, &state).unwrap().version, None, "there is none yet");
        fs::create_dir_all(state.join("deep")).unwrap();
        assert_eq!(take(&store, &state).unwrap().version, None, "there is nothing in it");
        fs::write(state.join("deep/still"), vec![7; 3 << 20]).unwrap();
        let still = take(&store, &state).unwrap();
        assert_eq!((still.files, still.bytes, still.torn), (1, 3 << 20, false));
        assert_eq!(take(&store, &state).unwrap().fresh_bytes, 0);

        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    fs::write(state.join("restless"), vec![number as u8; 1 << 20]).unwrap();
                }
            });
            while !state.join("restless").exists() {
                std::thread::yield_now();
            }
            let copy = take(&store, &state);
            stop.store(true, Ordering::Relaxed);
            let copy = copy.unwrap();
            assert_eq!(copy.files, 2);
            let back = dir.path().join("back");
            store.materialize(copy.version.unwrap(), &back, &Default::default()).unwrap();
            assert_eq!(fs::read(back.join("deep/still")).unwrap(), vec![7; 3 << 20]);
        });
        assert!(!dir.path().join("state.aside").exists());
    }
}
