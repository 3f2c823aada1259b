//! What a directory on disk holds, before any of it is read.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{At, DataError};
use crate::manifest::{check_link, check_path};

/// What is not a project's code, for [`crate::AddOptions::ignore`].
pub const IGNORE_FOR_CODE: [&str; 7] =
    [".git", "__pycache__", ".venv", "/target", "/outputs", "/state", "/.tomboloignore"];

/// Deepest directory.
const DEPTH_MAX: usize = 256;

pub(crate) struct Found {
    pub path: String,
    pub kind: FoundKind,
}

pub(crate) enum FoundKind {
    File(Stamp),
    Link { target: String },
    EmptyDir,
}

/// What tells that a file is still the one that it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub bytes: u64,
    pub executable: bool,
    /// Device and number.
    pub inode: (u64, u64),
    pub modified: (i64, i64),
    pub changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            bytes: metadata.len(),
            executable: metadata.permissions().mode() & 0o111 != 0,
            inode: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The tree at `root`: the directory that holds it, and what is in it. A file is a tree of one file. Where somebody may be
/// at work in it (`restless`), what vanishes meanwhile is not there.
pub(crate) fn walk(root: &Path, ignore: &[String], restless: bool) -> Result<(PathBuf, Vec<Found>), DataError> {
    let metadata = std::fs::metadata(root).at("can't look at", root)?;
    let mut found = Vec::new();
    if metadata.is_dir() {
        walk_dir(root, "", 0, &Ways { ignore, restless }, &mut found)?;
        return Ok((root.to_path_buf(), found));
    }
    if !metadata.is_file() {
        return Err(unfit(root, "it is neither a file nor a directory"));
    }
    let absolute = std::path::absolute(root).at("can't resolve", root)?;
    let name = absolute.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| unfit(root, "its name isn't UTF-8"))?;
    found.push(Found { path: name.to_owned(), kind: FoundKind::File(Stamp::of(&metadata)) });
    Ok((absolute.parent().unwrap_or(Path::new("/")).to_path_buf(), found))
}

struct Ways<'a> {
    ignore: &'a [String],
    restless: bool,
}

fn walk_dir(dir: &Path, prefix: &str, depth: usize, ways: &Ways<'_>, found: &mut Vec<Found>) -> Result<(), DataError> {
    if depth > DEPTH_MAX {
        return Err(unfit(dir, &format!("it is more than {DEPTH_MAX} directories deep")));
    }
    let before = found.len();
    let is_gone = |error: &std::io::Error| ways.restless && error.kind() == std::io::ErrorKind::NotFound;
    let listed = match std::fs::read_dir(dir) {
        Err(error) if is_gone(&error) => return Ok(()),
        listed => listed.map_err(|e| vanished_or(dir, "can't list", e))?,
    };
    for entry in listed {
        let entry = entry.at("can't list", dir)?;
        let on_disk = entry.path();
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| unfit(&on_disk, "its name isn't UTF-8"))?;
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        if is_ignored(&path, name, ways.ignore) {
            continue;
        }
        check_path(&path).map_err(|fault| unfit(&on_disk, &fault.to_string()))?;
        let metadata = match entry.metadata() {
            Err(error) if is_gone(&error) => continue,
            metadata => metadata.map_err(|e| vanished_or(&on_disk, "can't look at", e))?,
        };
        let kind = if metadata.is_dir() {
            walk_dir(&on_disk, &path, depth + 1, ways, found)?;
            continue;
        } else if metadata.is_file() {
            FoundKind::File(Stamp::of(&metadata))
        } else if metadata.is_symlink() {
            let target = match std::fs::read_link(&on_disk) {
                Err(error) if is_gone(&error) => continue,
                target => target.map_err(|e| vanished_or(&on_disk, "can't read", e))?,
            };
            let target = target.to_str().ok_or_else(|| unfit(&on_disk, "its target isn't UTF-8"))?;
            check_link(&path, target)
                .map_err(|fault| unfit(&on_disk, &format!("it is a link to {target:?}: {fault}")))?;
            FoundKind::Link { target: target.to_owned() }
        } else {
            return Err(unfit(&on_disk, "it is neither a file, a directory nor a link"));
        };
        found.push(Found { path, kind });
    }
    if found.len() == before && !prefix.is_empty() {
        found.push(Found { path: prefix.to_owned(), kind: FoundKind::EmptyDir });
    }
    Ok(())
}

/// `/a/b` is the path `a/b` and what is beneath; `a` without a slash is anything with that name, anywhere.
fn is_ignored(path: &str, name: &str, ignore: &[String]) -> bool {
    ignore.iter().any(|rule| match rule.contains('/') {
        true => path == rule.trim_matches('/'),
        false => name == rule,
    })
}

pub(crate) fn unfit(path: &Path, why: &str) -> DataError {
    DataError::Unfit { path: path.to_path_buf(), why: why.to_owned() }
}

pub(crate) fn vanished_or(path: &Path, doing: &'static str, error: std::io::Error) -> DataError {
    match error.kind() {
        std::io::ErrorKind::NotFound => DataError::Changed { path: path.to_path_buf(), how: "it vanished".into() },
        _ => DataError::io(doing, path, error),
    }
}
