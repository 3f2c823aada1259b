//! Making one version's tree of another's, where it lies: only what differs is written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tombolo_core::VersionId;

use crate::error::{At, DataError};
use crate::manifest::{Entry, Manifest, Node, Summary};
use crate::read::{MaterializeOptions, Materializing, make_dirs, make_links};
use crate::store::Store;

impl Store {
    /// Makes `to`'s tree of the one in `dest`, which is that of `from` and nobody else's. Every chunk that is written is
    /// verified. Where this fails, what is in `dest` is neither.
    pub fn renew(
        &self,
        from: VersionId,
        to: VersionId,
        dest: impl AsRef<Path>,
        options: &MaterializeOptions,
    ) -> Result<Summary, DataError> {
        let _hold = self.hold(to)?;
        let (before, after) = (self.manifest(from)?, self.manifest(to)?);
        let dest = dest.as_ref();
        remove_old(dest, &before, &after)?;
        make_dirs(dest, &after)?;
        Materializing::new(self, dest, &after, Some(&before), options).run()?;
        for entry in after.entries() {
            if let Some(old) = before.entry(&entry.path).filter(|old| is_other_file(old, entry)) {
                trim(dest, old, entry)?;
            }
        }
        make_links(dest, &after, Some(&before))?;
        Ok(after.summary())
    }
}

/// Whether both are files, and not the same.
fn is_other_file(old: &Entry, new: &Entry) -> bool {
    old != new && matches!((&old.node, &new.node), (Node::File { .. }, Node::File { .. }))
}

/// Removes what the new tree has not, or has as something else.
fn remove_old(dest: &Path, before: &Manifest, after: &Manifest) -> Result<(), DataError> {
    let dirs: BTreeSet<&str> = after.entries().iter().flat_map(|entry| above(&entry.path)).collect();
    let mut emptied = BTreeSet::new();
    for old in before.entries() {
        let stays = after.entry(&old.path).is_some_and(|new| new == old || is_other_file(old, new));
        if stays {
            continue;
        }
        let path = dest.join(&old.path);
        match &old.node {
            Node::EmptyDir => drop(emptied.insert(old.path.as_str())),
            Node::File { .. } | Node::Link { .. } => fs::remove_file(&path).at("can't remove", &path)?,
        }
        emptied.extend(above(&old.path));
    }
    // The deepest first: a directory sorts before what is in it.
    for dir in emptied.into_iter().rev() {
        let is_empty_dir = matches!(after.entry(dir), Some(Entry { node: Node::EmptyDir, .. }));
        if dirs.contains(dir) || is_empty_dir {
            continue;
        }
        let path = dest.join(dir);
        match fs::remove_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.at("can't remove", &path)?,
        }
    }
    Ok(())
}

/// The directories that a path is in.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(move |(at, _)| &path[..at])
}

/// What was written into an old file may have left more behind it, or the wrong rights.
fn trim(dest: &Path, old: &Entry, new: &Entry) -> Result<(), DataError> {
    let path = dest.join(&new.path);
    if old.bytes() > new.bytes() {
        let file = File::options().write(true).open(&path).at("can't open", &path)?;
        file.set_len(new.bytes()).at("can't cut", &path)?;
    }
    let executable = |entry: &Entry| matches!(entry.node, Node::File { executable: true, .. });
    if executable(old) != executable(new) {
        let mode = fs::metadata(&path).at("can't look at", &path)?.permissions().mode();
        // Who may read it may execute it.
        let mode = if executable(new) { mode | (mode & 0o444) >> 2 } else { mode & !0o111 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).at("can't change", &path)?;
    }
    Ok(())
}
