//! The program that shims are, in the site's directory, where the machines that run them find it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What starts a shim there, by what starts one on this machine.
pub fn command(site_dir: &Path, shim_command: &[OsString]) -> io::Result<Vec<String>> {
    let [program, args @ ..] = shim_command else { return Err(io::Error::other("there is no command for a shim")) };
    let program = shared(&site_dir.join("bin"), Path::new(program))?;
    std::iter::once(program.as_os_str()).chain(args.iter().map(OsString::as_os_str)).map(text).collect()
}

pub fn text(word: &OsStr) -> io::Result<String> {
    word.to_str().map(str::to_owned).ok_or_else(not_utf8)
}

pub fn not_utf8() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8")
}

/// The program, in a directory that the nodes share; under a name of its contents, since jobs that wait go on to need it
/// when it has been replaced.
fn shared(bin: &Path, program: &Path) -> io::Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(program)?)?;
    let to = bin.join(format!("tombolo-{}", &hasher.finalize().to_hex()[..16]));
    if to.exists() {
        return Ok(to);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(bin)?;
    let new = bin.join(format!("new.{}", std::process::id()));
    // Left by a process that had this number before.
    let _ = fs::remove_file(&new);
    if fs::hard_link(program, &new).is_err() {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&new)?;
        io::copy(&mut fs::File::open(program)?, &mut file)?;
        file.flush()?;
        file.sync_all()?;
    }
    fs::rename(&new, &to)?;
    Ok(to)
}
