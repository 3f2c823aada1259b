//! The files that a project file names.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest query or requirements file that is read.
pub const LOADED_BYTES_MAX: u64 = 1 << 20;

/// Where a project's other files are. Paths are relative, with `/`, and stay inside of the project.
pub trait Loader {
    /// The text of a file; an error where it is missing, larger than [`LOADED_BYTES_MAX`], or no UTF-8.
    fn read(&self, path: &str) -> io::Result<String>;

    /// Whether there is a file or directory.
    fn exists(&self, path: &str) -> bool;
}

/// The directory of a project file.
pub struct Directory(pub PathBuf);

impl Loader for Directory {
    fn read(&self, path: &str) -> io::Result<String> {
        // What is read becomes part of the spec, so a link must not bring in a file from outside of the project.
        let found = self.0.join(path).canonicalize()?;
        if !found.starts_with(self.0.canonicalize()?) {
            return Err(io::Error::other("it is a link to a file outside of the project"));
        }
        read_limited(&found)
    }

    fn exists(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }
}

fn read_limited(path: &Path) -> io::Result<String> {
    // Opening a pipe would wait for its writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LOADED_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LOADED_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {LOADED_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}
