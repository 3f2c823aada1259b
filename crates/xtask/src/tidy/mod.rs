//! `cargo xtask tidy`: the house rules that neither rustfmt nor clippy knows.
//!
//! Each rule is a function from what the checkout holds to the faults it finds, so that its tests need no checkout.

mod crates;
mod docs;
mod text;

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Larger files are data, and aren't read.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// A text file of the checkout.
struct File {
    /// Relative to the checkout, with `/`.
    path: String,
    text: String,
}

/// A breach of a rule, with the place where it is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl Fault {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Fault {
        Fault { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

pub fn run(root: &Path) -> Result<()> {
    let (paths, files) = read(root)?;
    let mut metadata = process::cargo(root);
    metadata.args(["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let packages = crates::parse(root, &process::output(&mut metadata)?)?;

    let mut faults = text::check(&files);
    faults.extend(crates::check(&packages, &files));
    faults.extend(docs::check(&paths, &files));
    faults.sort();
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} against the house rules", faults.len());
    }
    println!("tidy: {} text files and {} crates keep the house rules", files.len(), packages.len());
    Ok(())
}

/// The paths of all files that are committed or would be, and the texts among them.
fn read(root: &Path) -> Result<(Vec<String>, Vec<File>)> {
    let mut git = process::command("git");
    git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let listed = process::output(&mut git)?;
    let (mut paths, mut files) = (Vec::new(), Vec::new());
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        let full = root.join(path);
        // A file that was removed and not yet committed is still listed.
        let Ok(stat) = std::fs::symlink_metadata(&full) else { continue };
        paths.push(path.to_owned());
        if !stat.is_file() || stat.len() > FILE_BYTES_MAX {
            continue;
        }
        let bytes = std::fs::read(&full).with_context(|| format!("can't read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes)
            && !text.contains('\0')
        {
            files.push(File { path: path.to_owned(), text });
        }
    }
    paths.sort();
    paths.dedup();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    Ok((paths, files))
}

#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

#[cfg(test)]
fn shown(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}
