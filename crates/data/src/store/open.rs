//! Making a store of a directory, and finding out whether one is.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::form::{FORMAT_BYTES_MAX, Form};
use super::{DIRS, StoreOptions, write_synced};
use crate::bucket::{Bucket, BucketOptions};
use crate::error::{At, DataError};
use crate::lease;
use crate::pack::sync_dir;

/// Holds the address of the bucket whose cache the directory is.
const BUCKET_FILE: &str = "bucket";
const BUCKET_URL_BYTES_MAX: u64 = 4096;
const FORMAT_FILE: &str = "format";
const FORMAT_KIND: &str = "tombolo-store";

/// The file's bytes, at most `bytes_max`; None where there is no such file.
pub(crate) fn read_file(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, DataError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(DataError::io("can't open", path, e)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).at("can't read", path)?;
    Ok(Some(bytes))
}

/// The form of the store in the directory; None where there is none yet.
pub(super) fn form_of(dir: &Path) -> Result<Option<Form>, DataError> {
    let Some(text) = read_file(&dir.join(FORMAT_FILE), FORMAT_BYTES_MAX)? else { return Ok(None) };
    let known = Form::Plain.text(FORMAT_KIND);
    let form = Form::parse(&text, FORMAT_KIND);
    form.map(Some).map_err(|found| not_a_store(dir, format!("its format is {found}, not {known:?}")))
}

/// Makes what a store needs, or says why the directory is none, and finds its bucket. Processes may do so at the same
/// time. Nothing is written unless the form is the store's, in the directory and in the bucket.
pub(super) fn prepare(dir: &Path, options: &StoreOptions, form: Form) -> Result<Option<Bucket>, DataError> {
    let is_made = match form_of(dir)? {
        Some(found) => {
            found.expect(form, dir.display())?;
            true
        }
        None if options.create => {
            check_empty(dir)?;
            false
        }
        None => return Err(not_a_store(dir, "it has no format file".into())),
    };
    let bucket = bucket_of(dir, options, is_made)?;
    let bucket = bucket.map(|options| Bucket::open(&options, dir, form)).transpose()?;
    if !is_made {
        make(dir, options, form)?;
    }
    for name in DIRS {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).at("can't create", &path)?;
    }
    sync_dir(dir)?;
    // Another process may have made it meanwhile, of another bucket.
    bucket_of(dir, options, true)?;
    bucket.as_ref().map_or(Ok(()), Bucket::make_cache)?;
    Ok(bucket)
}

fn make(dir: &Path, options: &StoreOptions, form: Form) -> Result<(), DataError> {
    std::fs::create_dir_all(dir).at("can't create", dir)?;
    // Of two who make it at once, each with a key, only one may believe that its key is the store's.
    let _turn = lease::exclusive(&dir.join("format.lock"))?;
    if let Some(found) = form_of(dir)? {
        return found.expect(form, dir.display());
    }
    sync_above(dir)?;
    // The format comes last but for the directories, which every opening makes anew where they are missing.
    let tmp = dir.join(format!("format.{}", std::process::id()));
    if let Some(bucket) = &options.bucket {
        write_synced(&tmp, bucket.url.as_bytes())?;
        std::fs::rename(&tmp, dir.join(BUCKET_FILE)).at("can't rename", &tmp)?;
    }
    write_synced(&tmp, form.text(FORMAT_KIND).as_bytes())?;
    std::fs::rename(&tmp, dir.join(FORMAT_FILE)).at("can't rename", &tmp)?;
    Ok(())
}

/// Makes the directory's own name durable, and those of the directories above it, which may have been made with it or by
/// somebody who was killed right after.
fn sync_above(dir: &Path) -> Result<(), DataError> {
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).at("can't look at", path);
    let dir = dir.canonicalize().at("can't look at", dir)?;
    let here = device(&dir)?;
    for above in dir.ancestors().skip(1) {
        // Where a file system is mounted is nothing that it keeps.
        if device(above)? != here {
            break;
        }
        match sync_dir(above) {
            // One that may be entered and not read is somebody else's to make durable.
            Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// That nothing is there but what a making that was interrupted has left.
fn check_empty(dir: &Path) -> Result<(), DataError> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.at("can't list", dir)?,
    };
    for entry in entries {
        let name = entry.at("can't list", dir)?.file_name();
        let name = name.to_string_lossy();
        if !DIRS.contains(&&*name) && name != BUCKET_FILE && !name.starts_with(FORMAT_FILE) {
            return Err(not_a_store(dir, format!("it has no format file, but a {name:?}")));
        }
    }
    Ok(())
}

/// The bucket that the store is, as remembered or, where it isn't made yet, as it shall be.
fn bucket_of(dir: &Path, options: &StoreOptions, is_made: bool) -> Result<Option<BucketOptions>, DataError> {
    let remembered = read_file(&dir.join(BUCKET_FILE), BUCKET_URL_BYTES_MAX)?;
    let remembered = remembered.map(|url| String::from_utf8_lossy(&url).into_owned());
    match (&options.bucket, remembered) {
        (None, remembered) => Ok(remembered.map(BucketOptions::new)),
        (Some(bucket), _) if !is_made => Ok(Some(bucket.clone())),
        (Some(bucket), Some(url)) if bucket.url == url => Ok(Some(bucket.clone())),
        (Some(bucket), Some(url)) => {
            Err(not_a_store(dir, format!("it belongs to the bucket {url}, not to {}", bucket.url)))
        }
        (Some(_), None) => Err(not_a_store(dir, "it was made without a bucket".into())),
    }
}

fn not_a_store(dir: &Path, why: String) -> DataError {
    DataError::NotAStore { path: dir.to_path_buf(), why }
}
