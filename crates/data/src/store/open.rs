//! Making a store of a directory, and finding out whether one is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{DIRS, FORMAT, StoreOptions, write_synced};
use crate::bucket::BucketOptions;
use crate::error::{At, DataError};
use crate::pack::sync_dir;

/// Holds the address of the bucket whose cache the directory is.
const BUCKET_FILE: &str = "bucket";
const BUCKET_URL_BYTES_MAX: u64 = 4096;
/// The file's bytes, at most `bytes_max`; None where there is no such file.
pub(super) fn read_file(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, DataError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(DataError::io("can't open", path, e)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).at("can't read", path)?;
    Ok(Some(bytes))
}

/// Makes what a store needs, or says why the directory is none, and finds its bucket. Processes may do so at the same
/// time.
pub(super) fn prepare(dir: &Path, options: &StoreOptions) -> Result<Option<BucketOptions>, DataError> {
    let create = options.create;
    let began = std::time::SystemTime::now();
    let not = |why: String| DataError::NotAStore { path: dir.to_path_buf(), why };
    let format = dir.join("format");
    match std::fs::read_to_string(&format) {
        Ok(text) if text == FORMAT => {}
        Ok(text) => {
            return Err(not(format!("its format is {:?}, not {FORMAT:?}", text.chars().take(40).collect::<String>())));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && create => {
            std::fs::create_dir_all(dir).at("can't create", dir)?;
            for entry in std::fs::read_dir(dir).at("can't list", dir)? {
                let name = entry.at("can't list", dir)?.file_name();
                let name = name.to_string_lossy();
                if !DIRS.contains(&&*name) && name != BUCKET_FILE && !name.starts_with("format") {
                    return Err(not(format!("it has no format file, but a {name:?}")));
                }
            }
            // The format comes last but for the directories, which every opening makes anew where they are missing.
            let tmp = dir.join(format!("format.{}", std::process::id()));
            if let Some(bucket) = &options.bucket {
                write_synced(&tmp, bucket.url.as_bytes())?;
                std::fs::rename(&tmp, dir.join(BUCKET_FILE)).at("can't rename", &tmp)?;
            }
            write_synced(&tmp, FORMAT.as_bytes())?;
            std::fs::rename(&tmp, &format).at("can't rename", &tmp)?;
            // The directory's own name, and those above it that were made with it.
            for above in dir.ancestors().skip(1).take_while(|above| !above.as_os_str().is_empty()) {
                match sync_dir(above) {
                    // One that may be entered and not read is somebody else's to make durable.
                    Err(DataError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {}
                    synced => synced?,
                }
                if above.metadata().is_ok_and(|meta| meta.created().is_ok_and(|at| at < began)) {
                    break;
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(not("it has no format file".into())),
        Err(e) => return Err(DataError::io("can't read", format, e)),
    }
    for name in DIRS {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).at("can't create", &path)?;
    }
    sync_dir(dir)?;
    let remembered = read_file(&dir.join(BUCKET_FILE), BUCKET_URL_BYTES_MAX)?;
    let remembered = remembered.map(|url| String::from_utf8_lossy(&url).into_owned());
    match (&options.bucket, remembered) {
        (None, remembered) => Ok(remembered.map(BucketOptions::new)),
        (Some(bucket), Some(url)) if bucket.url == url => Ok(Some(bucket.clone())),
        (Some(bucket), Some(url)) => Err(not(format!("it belongs to the bucket {url}, not to {}", bucket.url))),
        (Some(_), None) => Err(not("it was made without a bucket".into())),
    }
}
