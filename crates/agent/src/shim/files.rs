//! Trees on disk: out of the chunk store, back into it, and away.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tombolo_core::sync::{Made, Outcome};
use tombolo_data::DataError;

/// What a failure to bring something means for the placement.
pub fn unprepared(what: &str) -> impl Fn(DataError) -> Outcome {
    let what = what.to_owned();
    move |error| {
        let why = format!("{what}: {error}");
        if error.is_no_space() { Outcome::NoSpace { why } } else { Outcome::Unprepared { why } }
    }
}

/// The same for what the operating system refuses.
pub fn unprepared_io(what: &str) -> impl Fn(io::Error) -> Outcome {
    let what = what.to_owned();
    move |error| {
        let why = format!("{what}: {error}");
        if is_no_space(&error) { Outcome::NoSpace { why } } else { Outcome::Unprepared { why } }
    }
}

pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

pub fn made(added: tombolo_data::Added) -> Made {
    Made { version: added.version, bytes: added.bytes, files: added.files, facts: Default::default(), sketch: None }
}

/// Whether there is no file in the tree, however many directories.
pub fn is_empty(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || !is_empty(&entry.path())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes all rights to write away, so that writing to an input fails where it is tried. (Not for root, which may
/// write anyway; it writes to a copy then, and nothing of it is kept.)
pub fn make_read_only(path: &Path) -> io::Result<()> {
    change_modes(path, &|mode| mode & !0o222)
}

/// Removes a tree, also a read-only one. That there is none is fine.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            change_modes(dir, &|mode| mode | 0o700)?;
            fs::remove_dir_all(dir)
        }
        other => other,
    }
}

fn change_modes(path: &Path, change: &dyn Fn(u32) -> u32) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Ok(());
    }
    let mode = fs::metadata(path)?.permissions().mode();
    // A directory is opened before its entries are changed and closed after them.
    if change(mode) & 0o700 > mode & 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(change(mode)))?;
    }
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            change_modes(&entry?.path(), change)?;
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(change(mode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_trees_can_be_removed_and_empty_directories_hold_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        assert!(is_empty(&tree).unwrap());
        fs::write(tree.join("a/b/file"), "x").unwrap();
        assert!(!is_empty(&tree).unwrap());
        make_read_only(&tree).unwrap();
        assert_eq!(fs::metadata(tree.join("a/b/file")).unwrap().permissions().mode() & 0o222, 0);
        assert_eq!(fs::metadata(tree.join("a")).unwrap().permissions().mode() & 0o222, 0);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }
}
