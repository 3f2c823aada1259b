//! Copies of state directories, taken while their workloads run: consistent file by file.

use std::path::Path;
use std::time::{Duration, Instant};

use tombolo_core::Millis;
use tombolo_core::moving::Taken;
use tombolo_data::{AddOptions, Restless, Store};

use crate::state;

/// How a file is read that is written to meanwhile: for two seconds all in all, beyond what reading takes.
const RESTLESS: Restless = Restless { tries: 12, pause: Duration::from_millis(30) };

/// A copy of a state directory, in the store. Files that are as they were when the last copy was taken are not read. One
/// that changes each time it is read is taken as it is, and the copy is said to be torn. Blocks.
pub fn take(store: &Store, dir: &Path) -> Result<Taken, String> {
    let began = Instant::now();
    let none =
        Taken { version: None, bytes: 0, files: 0, fresh_bytes: 0, beside_bytes: 0, took: Millis(0), torn: false };
    if !dir.is_dir() {
        return Ok(none);
    }
    let options = AddOptions { restless: Some(RESTLESS), ..state::how_added(dir) };
    let mut mapped = state::mapped();
    let added = store.add_tree_seen(dir, &options);
    let (added, mut seen) = added.map_err(|error| format!("{} can't be copied: {error}", dir.display()))?;
    mapped.extend(state::mapped());
    seen.forget(|inode| mapped.contains(&inode));
    if let Err(error) = state::note_seen(dir, &seen) {
        tracing::warn!(dir = %dir.display(), %error, "the next copy reads all of it again");
    }
    Ok(Taken {
        version: (added.files > 0).then_some(added.version),
        bytes: added.bytes,
        files: added.files,
        fresh_bytes: added.bytes_new,
        beside_bytes: added.manifest_wire_bytes,
        took: Millis(began.elapsed().as_millis() as u64),
        torn: added.torn > 0,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tombolo_data::StoreOptions;

    use super::*;

    fn world() -> (tempfile::TempDir, Store, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
        let state = dir.path().join("state");
        (dir, store, state)
    }

    /// Copies while `write` goes on with rising numbers, and answers the copy and what is in it.
    fn copied_meanwhile(write: impl Fn(&Path, u64) + Sync) -> (Taken, tempfile::TempDir) {
        let (dir, store, state) = world();
        fs::create_dir(&state).unwrap();
        fs::write(state.join("still"), vec![7; 3 << 20]).unwrap();
        write(&state, 0);
        let stop = AtomicBool::new(false);
        let taken = std::thread::scope(|scope| {
            scope
                .spawn(|| (1..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(|number| write(&state, number)));
            let taken = take(&store, &state);
            stop.store(true, Ordering::Relaxed);
            taken.unwrap()
        });
        store.materialize(taken.version.unwrap(), dir.path().join("back"), &Default::default()).unwrap();
        assert!(fs::read(dir.path().join("back/still")).unwrap() == vec![7; 3 << 20], "what stands still is whole");
        (taken, dir)
    }

    #[test]
    fn a_file_is_as_it_was_at_one_moment_or_the_copy_is_torn() {
        // Replaced by renaming, each is whole: as many bytes of its number as it is long.
        let (taken, dir) = copied_meanwhile(|state, number| {
            let length = (600 << 10) + ((number % 7) << 10) as usize;
            fs::write(state.join("new"), vec![number as u8; length]).unwrap();
            fs::rename(state.join("new"), state.join("file")).unwrap();
        });
        let file = fs::read(dir.path().join("back/file")).unwrap();
        assert!(taken.torn || file.iter().all(|byte| *byte == file[0]), "{taken:?}");
        assert!(!taken.torn, "what is renamed into its place is never torn");

        // Written in its place without a pause: what isn't said to be torn is as it was at one moment, with a number as far
        // as that was written, and behind it the one before.
        let (taken, dir) = copied_meanwhile(|state, number| {
            let file = fs::File::options().write(true).create(true).truncate(false).open(state.join("file")).unwrap();
            (0..64).for_each(|at| file.write_all_at(&[number as u8; 16 << 10], at << 14).unwrap());
        });
        let mut blocks = fs::read(dir.path().join("back/file")).unwrap();
        blocks.dedup();
        let one_moment = match blocks[..] {
            [_] => true,
            [new, old] => new == old.wrapping_add(1),
            _ => false,
        };
        assert!(taken.torn || one_moment, "{blocks:?}: {taken:?}");
    }

    #[test]
    fn a_file_that_pauses_is_waited_for() {
        let (taken, dir) = copied_meanwhile(|state, number| {
            let mut file = fs::File::create(state.join("file")).unwrap();
            (0..40).for_each(|_| file.write_all(&[number as u8; 16 << 10]).unwrap());
            std::thread::sleep(Duration::from_millis(100));
        });
        assert!(!taken.torn, "{taken:?}");
        let file = fs::read(dir.path().join("back/file")).unwrap();
        assert!(file.iter().all(|byte| *byte == file[0]));
    }

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let (dir, store, state) = world();
        assert_eq!(take(&store, &state).unwrap().version, None, "there is none yet");
        fs::create_dir_all(state.join("deep")).unwrap();
        assert_eq!(take(&store, &state).unwrap().version, None, "there is nothing in it");
        for number in 0..20u8 {
            fs::write(state.join(format!("deep/{number}")), vec![number; 100_000]).unwrap();
        }
        let first = take(&store, &state).unwrap();
        assert_eq!((first.files, first.bytes, first.torn), (20, 2_000_000, false));
        // A link to the inputs is no part of it; any other that leads out is refused.
        std::os::unix::fs::symlink("/somewhere/inputs", state.join("inputs")).unwrap();
        assert_eq!(take(&store, &state).unwrap().version, first.version);
        fs::rename(state.join("inputs"), state.join("deep/inputs")).unwrap();
        assert!(take(&store, &state).unwrap_err().contains("deep/inputs"));
        fs::remove_file(state.join("deep/inputs")).unwrap();
        // What was written just before may have changed within the same tick, and is read again.
        age(&state);
        take(&store, &state).unwrap();
        fs::write(state.join("deep/7"), vec![100; 100_001]).unwrap();
        fs::write(state.join("deep/8"), vec![101; 100_000]).unwrap();
        fs::remove_file(state.join("deep/9")).unwrap();
        let options = AddOptions { seen: state::seen(&state).map(Arc::new), ..AddOptions::default() };
        let (added, _) = store.add_tree_seen(&state, &options).unwrap();
        assert_eq!((added.files, added.bytes_read), (19, 200_001));
        assert_eq!(added.version, store.add_tree(&state, &AddOptions::default()).unwrap().version, "read or not");

        // What was seen before the machine started again is not believed.
        let text = fs::read_to_string(state.with_extension("seen")).unwrap();
        let boot = crate::shim::process::boot_id();
        fs::write(state.with_extension("seen"), text.replace(&boot, "another")).unwrap();
        assert!(state::seen(&state).is_none());
        drop(dir);
    }

    /// Until what was written is older than a tick.
    fn age(state: &Path) {
        let newest = || {
            let files = fs::read_dir(state.join("deep")).unwrap();
            files.map(|file| file.unwrap().metadata().unwrap().modified().unwrap().elapsed().unwrap()).min().unwrap()
        };
        while newest() <= Duration::from_millis(2_100) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_written_to_through_memory_is_read_again() {
        let (_dir, store, state) = world();
        fs::create_dir_all(state.join("deep")).unwrap();
        let path = state.join("deep/mapped");
        fs::write(&path, vec![1; 100_000]).unwrap();
        // Another process has it in memory and writes to it when told.
        let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[0]=2\nprint(flush=True)\n\
                      sys.stdin.readline()\nm[1]=3\nprint(flush=True)\nsys.stdin.readline()\n";
        let mut python = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (mut tell, mut hear) =
            (python.stdin.take().unwrap(), std::io::BufReader::new(python.stdout.take().unwrap()));
        let mut said = String::new();
        std::io::BufRead::read_line(&mut hear, &mut said).unwrap();
        age(&state);
        let before = take(&store, &state).unwrap();
        tell.write_all(b"\n").unwrap();
        std::io::BufRead::read_line(&mut hear, &mut said).unwrap();
        let after = take(&store, &state).unwrap();
        assert_ne!(before.version, after.version);
        drop(tell);
        python.wait().unwrap();
    }
}
