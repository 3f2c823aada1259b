//! The shelf of a site's artifacts: where each is, and what is put, listed, read and taken away.
//!
//! What is small lies in a file of its own; of the rest the file says which version of the site's store it is, under a pin
//! that keeps it from garbage collection. So a model that is logged again costs what is new in it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tombolo_api::run_token::mlflow_run_id;
use tombolo_core::{VersionId, WorkloadId};
use tombolo_data::{AddOptions, DataError, Form, Store};

use super::super::{fault, root};
use super::entry::Entry;
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
/// What is larger goes into the store, as everything does where the store is encrypted.
const ALONE_BYTES_MAX: u64 = 64 << 10;
/// What a draft is called, and by it the one file of its version: equal files are one version.
const DRAFT: &str = "file";

#[derive(Serialize)]
pub struct FileInfo {
    path: String,
    is_dir: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_size: Option<u64>,
}

pub struct Shelf {
    dir: PathBuf,
    /// Of what is on its way, each in a directory of its own; on the same file system.
    drafts: PathBuf,
    pub store: Arc<Store>,
    /// Held while a file's name comes to mean something else.
    turn: Mutex<()>,
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
fn place(dir: &Path, path: &str) -> Option<Place> {
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

impl Shelf {
    /// What was on its way when an agent was killed is gone.
    pub fn open(dir: PathBuf, store: Arc<Store>) -> io::Result<Shelf> {
        let drafts = dir.with_extension("drafts");
        match fs::remove_dir_all(&drafts) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Shelf { dir, drafts, store, turn: Mutex::default() })
    }

    pub fn place(&self, path: &str) -> Option<Place> {
        place(&self.dir, path)
    }

    /// The names in a directory; of what is none, nothing.
    pub fn list(&self, place: &Place) -> io::Result<Vec<FileInfo>> {
        let entries = match fs::read_dir(place.path()) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries.take(LISTED_MAX + 1) {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_dir = entry.file_type()?.is_dir();
            let file_size = if is_dir { None } else { Entry::read(&entry.path())?.map(|entry| entry.bytes()) };
            files.push(FileInfo { path: name, is_dir, file_size });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn draft(&self) -> io::Result<Draft> {
        // Of its own each time: two may come for one name, and the last that is whole counts.
        let dir = self.drafts.join(format!("{:016x}", getrandom::u64().map_err(io::Error::other)?));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Draft { dir })
    }

    /// Gives a draft its name.
    fn shelve(&self, draft: &Draft, path: &Path) -> io::Result<()> {
        let dir = path.parent().unwrap_or(&self.dir);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let bytes = fs::metadata(draft.file())?.len();
        let alone = bytes <= ALONE_BYTES_MAX && self.store.form() == Form::Plain;
        let new = draft.dir.join("entry");
        if alone {
            Entry::write_alone(&new, &fs::read(draft.file())?)?;
        } else {
            let version = self.store.add_tree(draft.file(), &AddOptions::default()).map_err(data)?.version;
            // From here on it is kept by the pin.
            let _hold = self.store.hold(version).map_err(data)?;
            Entry::write_stored(&new, version, bytes)?;
            return self.put(&new, path, dir, Some(version));
        }
        self.put(&new, path, dir, None)
    }

    /// Its pin holds the older version and the newer one until the name is the newer's.
    fn put(&self, new: &Path, path: &Path, dir: &Path, version: Option<VersionId>) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let pin = self.pin(path);
        let before = Entry::read(path)?.and_then(|entry| entry.version());
        let both: BTreeSet<VersionId> = before.into_iter().chain(version).collect();
        if version.is_some() {
            self.store.pin(&pin, &both).map_err(data)?;
        }
        fs::rename(new, path)?;
        fs::File::open(dir)?.sync_all()?;
        match version {
            Some(version) if both.len() > 1 => self.store.pin(&pin, &BTreeSet::from([version])).map_err(data),
            None if before.is_some() => self.store.unpin(&pin).map_err(data),
            _ => Ok(()),
        }
    }

    /// Of what is at this path.
    fn pin(&self, path: &Path) -> String {
        let inner = path.strip_prefix(&self.dir).unwrap_or(path);
        format!("artifact-{}", &blake3::hash(inner.as_os_str().as_encoded_bytes()).to_hex()[..32])
    }

    pub(super) fn remove(&self, place: &Place, asker: &Asker) -> io::Result<Option<Response>> {
        let path = place.path();
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(missing(&path_shown(place)))),
            Err(error) => return Err(error),
        };
        if let Some(refused) = own(&place.home, asker.workload())? {
            return Ok(Some(refused));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if metadata.is_dir() {
            self.remove_dir(&path)?;
        } else {
            self.remove_file(&path)?;
        }
        Ok(None)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.remove_dir(&entry.path())?;
            } else {
                self.remove_file(&entry.path())?;
            }
        }
        fs::remove_dir(dir)
    }

    /// The name first: a pin of nothing only costs room.
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let stored = Entry::read(path)?.is_some_and(|entry| entry.version().is_some());
        fs::remove_file(path)?;
        if stored { self.store.unpin(&self.pin(path)).map_err(data) } else { Ok(()) }
    }
}

fn data(error: DataError) -> io::Error {
    match error {
        DataError::Io { source, .. } => source,
        error => io::Error::other(error),
    }
}

/// A file that is on its way, gone with this.
struct Draft {
    dir: PathBuf,
}

impl Draft {
    fn file(&self) -> PathBuf {
        self.dir.join(DRAFT)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Keeps a file, whole or not at all; a refusal where the place is another workload's, or where nobody may write any more
/// when it has come.
pub async fn keep(keeper: Keeper, place: Place, asker: Asker, body: Body) -> io::Result<Option<Response>> {
    if place.inner.as_os_str().is_empty() {
        return Ok(Some(bad_path("")));
    }
    let path = place.path();
    let (home, workload, shelf) = (place.home, asker.workload().cloned(), keeper.shelf.clone());
    let made = aside(move || match own(&home, workload.as_ref())? {
        Some(refused) => Ok(Err(refused)),
        None => shelf.draft().map(Ok),
    });
    let draft = match made.await? {
        Ok(draft) => draft,
        Err(refused) => return Ok(Some(refused)),
    };
    if let Err(refused) = receive(&draft.file(), body).await? {
        return Ok(Some(refused));
    }
    aside(move || match keeper.refusal(&asker) {
        Some(refused) => Ok(Some(refused)),
        None => keeper.shelf.shelve(&draft, &path).map(|()| None),
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
    file.flush().await?;
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

fn path_shown(place: &Place) -> String {
    place.inner.display().to_string()
}
