//! The files of artifacts at a site: where each is, and what is put, listed and taken away.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tombolo_api::run_token::mlflow_run_id;
use tombolo_core::WorkloadId;

use super::super::{fault, root};
use super::{Asker, Keeper, aside, bad_path, missing};

/// Beside a run's artifacts: the workload that wrote first.
pub const OWNER_FILE: &str = "owner";
/// The owner of what no workload has made.
const PEOPLE: &str = "people";
/// The directory of artifacts in a run's own.
const ARTIFACTS: &str = "artifacts";
/// Longest path and deepest directory that are taken, in bytes and in parts.
const PATH_BYTES_MAX: usize = 1024;
const PATH_PARTS_MAX: usize = 32;
/// Files of one directory in an answer.
pub const LISTED_MAX: usize = 10_000;

#[derive(Serialize)]
pub struct FileInfo {
    path: String,
    is_dir: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_size: Option<u64>,
}

/// An artifact's place: the directory of its run or model, and its path in it.
pub struct Place {
    pub home: PathBuf,
    pub inner: PathBuf,
}

impl Place {
    pub fn path(&self) -> PathBuf {
        self.home.join(ARTIFACTS).join(&self.inner)
    }
}

/// None where the path says something else than an artifact, or leads out.
pub fn place(dir: &Path, path: &str) -> Option<Place> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let odd = |part: &&str| matches!(*part, "" | "." | "..") || part.contains(['\0', '\\']);
    if path.len() > PATH_BYTES_MAX || parts.len() > PATH_PARTS_MAX || parts.iter().any(odd) {
        return None;
    }
    let (home, inner) = match parts.as_slice() {
        [experiment, "models", model, ARTIFACTS, inner @ ..] => (root(dir, &[experiment, "models", model]), inner),
        [experiment, run, ARTIFACTS, inner @ ..] if *run != "models" => (root(dir, &[experiment, run]), inner),
        _ => return None,
    };
    Some(Place { home, inner: inner.iter().collect() })
}

/// The names in a directory; of what is none, nothing.
pub fn read_dir(dir: &Path) -> io::Result<Vec<FileInfo>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries.take(LISTED_MAX + 1) {
        let entry = entry?;
        let (name, metadata) = (entry.file_name(), entry.metadata()?);
        let Some(name) = name.to_str().filter(|name| !name.ends_with(DRAFT)) else { continue };
        let is_dir = metadata.is_dir();
        files.push(FileInfo { path: name.to_owned(), is_dir, file_size: (!is_dir).then_some(metadata.len()) });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

const DRAFT: &str = ".tombolo-draft";

/// A file that is gone unless it was given its name.
struct Draft {
    path: PathBuf,
    kept: bool,
}

impl Draft {
    fn keep_as(mut self, path: &Path, dir: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.kept = true;
        fs::File::open(dir)?.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Keeps a file, whole or not at all; a refusal where the place is another workload's, or where nobody may write any more
/// when it has come.
pub async fn keep(keeper: Keeper, place: Place, asker: Asker, body: Body) -> io::Result<Option<Response>> {
    let path = place.path();
    let Some(dir) = path.parent().map(Path::to_owned) else { return Ok(Some(bad_path(""))) };
    let (home, workload, in_dir) = (place.home, asker.workload().cloned(), dir.clone());
    let made = aside(move || {
        if let Some(refused) = own(&home, workload.as_ref())? {
            return Ok(Err(refused));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&in_dir)?;
        // Of its own each time: two may come for one name, and the last that is whole counts.
        let name = format!("{:016x}{DRAFT}", getrandom::u64().map_err(io::Error::other)?);
        Ok(Ok(Draft { path: in_dir.join(name), kept: false }))
    });
    let draft = match made.await? {
        Ok(draft) => draft,
        Err(refused) => return Ok(Some(refused)),
    };
    if let Err(refused) = receive(&draft.path, body).await? {
        return Ok(Some(refused));
    }
    aside(move || match keeper.refusal(&asker) {
        Some(refused) => Ok(Some(refused)),
        None => draft.keep_as(&path, &dir).map(|()| None),
    })
    .await
}

async fn receive(draft: &Path, body: Body) -> io::Result<Result<(), Response>> {
    let mut file = tokio::fs::File::create_new(draft).await?;
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => file.write_all(&piece).await?,
            Err(_) => {
                let why = "the file did not come whole";
                return Ok(Err(fault(StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE", why)));
            }
        }
    }
    file.sync_all().await?;
    Ok(Ok(()))
}

/// Makes the directory the workload's where it is nobody's; a refusal where it is another's. People may change all.
fn own(home: &Path, workload: Option<&WorkloadId>) -> io::Result<Option<Response>> {
    let note = home.join(OWNER_FILE);
    let name = workload.map_or(PEOPLE.to_owned(), ToString::to_string);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&note) {
        Ok(mut file) => {
            file.write_all(name.as_bytes())?;
            file.sync_all()?;
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let Some(workload) = workload else { return Ok(None) };
            let owner = fs::read_to_string(&note)?;
            let its_own = home.file_name().is_some_and(|run| run == mlflow_run_id(workload).as_str());
            // A note without a name is one whose writer was killed.
            if owner.is_empty() || its_own && owner != name {
                fs::write(&note, name)?;
                return Ok(None);
            }
            let refused = || {
                let why = format!("the artifacts here are {owner}'s; {workload} may not change them");
                fault(StatusCode::FORBIDDEN, "PERMISSION_DENIED", &why)
            };
            Ok((owner != name).then(refused))
        }
        Err(error) => Err(error),
    }
}

pub fn remove(place: &Place, asker: &Asker) -> io::Result<Option<Response>> {
    let path = place.path();
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(missing(&path_shown(place)))),
        Err(error) => return Err(error),
    };
    if let Some(refused) = own(&place.home, asker.workload())? {
        return Ok(Some(refused));
    }
    if metadata.is_dir() {
        fs::remove_dir_all(&path)?
    } else {
        fs::remove_file(&path)?
    }
    Ok(None)
}

fn path_shown(place: &Place) -> String {
    place.inner.display().to_string()
}
