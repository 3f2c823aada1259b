//! Artifacts that workloads log, kept at the site in which they were made: `mlflow-artifacts:/<experiment>/<run>/...`.
//!
//! ```text
//! artifacts/<experiment>/<run>/artifacts/...
//! artifacts/<experiment>/models/<model>/artifacts/...
//! ```
//! Who first writes into a run's or a model's directory owns it: a note beside the artifacts says so. A workload's own run
//! is the workload's whoever was there before. Only a placement that is alive has a say, at the end of what it sends too.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use ed25519_dalek::VerifyingKey;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use tombolo_api::run_token::{RunToken, mlflow_run_id};
use tombolo_core::{Epoch, WorkloadId};

use super::{fault, root, who};

const PREFIX: &str = "/api/2.0/mlflow-artifacts/artifacts";
/// Beside a run's artifacts: the workload that wrote first.
const OWNER_FILE: &str = "owner";
/// The directory of artifacts in a run's own.
const ARTIFACTS: &str = "artifacts";
/// Longest path and deepest directory that are taken, in bytes and in parts.
const PATH_BYTES_MAX: usize = 1024;
const PATH_PARTS_MAX: usize = 32;
/// Files of one directory in an answer.
const LISTED_MAX: usize = 10_000;

#[derive(Clone)]
pub struct Keeper {
    pub dir: PathBuf,
    pub key: VerifyingKey,
    /// Whether a placement at this site is alive.
    pub live: Live,
}

pub type Live = Arc<dyn Fn(&WorkloadId, Epoch) -> bool + Send + Sync>;

impl Keeper {
    /// The placement that asks; else the refusal.
    async fn who(&self, headers: &HeaderMap) -> Result<RunToken, Box<Response>> {
        let asks = who(headers, &self.key).ok_or_else(|| Box::new(unauthenticated()))?;
        let (keeper, asked) = (self.clone(), asks.clone());
        match aside(move || Ok(keeper.refusal(&asked))).await {
            Ok(None) => Ok(asks),
            Ok(Some(refused)) => Err(Box::new(refused)),
            Err(error) => Err(Box::new(broken(&error))),
        }
    }

    /// For whom no placement lives any more.
    fn refusal(&self, asks: &RunToken) -> Option<Response> {
        let why = || format!("{} runs no more as it did when it was given this token", asks.workload);
        let alive = (self.live)(&asks.workload, asks.epoch);
        (!alive).then(|| fault(StatusCode::FORBIDDEN, "PERMISSION_DENIED", &why()))
    }
}

/// Does work on files, away from the threads that serve: a disk may take its time.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

pub fn router(keeper: Keeper) -> Router {
    Router::new()
        .route(PREFIX, get(list))
        .route(&format!("{PREFIX}/{{*path}}"), any(one))
        .route("/api/2.0/mlflow-artifacts/{*rest}", any(no_parts))
        .with_state(keeper)
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    path: String,
}

#[derive(Serialize)]
struct Files {
    files: Vec<FileInfo>,
}

#[derive(Serialize)]
struct FileInfo {
    path: String,
    is_dir: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_size: Option<u64>,
}

/// An artifact's place: the directory of its run or model, and its path in it.
struct Place {
    home: PathBuf,
    inner: PathBuf,
}

impl Place {
    fn path(&self) -> PathBuf {
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

fn bad_path(path: &str) -> Response {
    let path: String = path.chars().take(200).collect();
    let why = format!("Invalid path {path:?}: it must be <experiment>/<run>/artifacts/<path>, without .. in it");
    fault(StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE", &why)
}

fn missing(path: &str) -> Response {
    fault(StatusCode::NOT_FOUND, "RESOURCE_DOES_NOT_EXIST", &format!("No such artifact at this site: {path:?}"))
}

fn unauthenticated() -> Response {
    fault(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", "a run token of this site is needed: $MLFLOW_TRACKING_TOKEN")
}

fn broken(error: &io::Error) -> Response {
    match error.kind() {
        ErrorKind::StorageFull => {
            fault(StatusCode::INSUFFICIENT_STORAGE, "RESOURCE_EXHAUSTED", "the site's disk is full")
        }
        _ => {
            tracing::error!(%error, "an artifact can't be kept or read");
            fault(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "the agent failed to do this; its log says why")
        }
    }
}

async fn no_parts() -> Response {
    let why = "uploads in parts and signed addresses aren't served; without them clients send a file whole";
    fault(StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", why)
}

async fn list(State(keeper): State<Keeper>, headers: HeaderMap, Query(asked): Query<Listed>) -> Response {
    if let Err(refused) = keeper.who(&headers).await {
        return *refused;
    }
    let Some(place) = place(&keeper.dir, &asked.path) else { return bad_path(&asked.path) };
    match aside(move || read_dir(&place.path())).await {
        Ok(files) if files.len() > LISTED_MAX => {
            let why = format!("the directory has more than {LISTED_MAX} entries, which is too many for one answer");
            fault(StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE", &why)
        }
        Ok(files) => axum::Json(Files { files }).into_response(),
        Err(error) => broken(&error),
    }
}

/// The names in a directory; of what is none, nothing.
fn read_dir(dir: &Path) -> io::Result<Vec<FileInfo>> {
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

async fn one(State(keeper): State<Keeper>, request: Request) -> Response {
    let asks = match keeper.who(request.headers()).await {
        Ok(asks) => asks,
        Err(refused) => return *refused,
    };
    let encoded = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().trim_start_matches('/');
    let Some(path) = decoded(encoded) else { return bad_path(encoded) };
    let Some(place) = place(&keeper.dir, &path) else { return bad_path(&path) };
    match *request.method() {
        Method::GET | Method::HEAD => match send(&place.path()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => missing(&path),
            Err(error) => broken(&error),
        },
        Method::PUT if place.inner.as_os_str().is_empty() => bad_path(&path),
        Method::PUT => match keep(keeper, place, asks, request.into_body()).await {
            Ok(None) => axum::Json(serde_json::json!({})).into_response(),
            Ok(Some(refused)) => refused,
            Err(error) => broken(&error),
        },
        Method::DELETE => match aside(move || remove(&place, &asks.workload)).await {
            Ok(None) => axum::Json(serde_json::json!({})).into_response(),
            Ok(Some(refused)) => refused,
            Err(error) => broken(&error),
        },
        _ => no_parts().await,
    }
}

fn decoded(path: &str) -> Option<String> {
    percent_encoding::percent_decode_str(path).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// None where there is no such file.
async fn send(path: &Path) -> io::Result<Option<Response>> {
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata().await?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, metadata.len().to_string()),
    ];
    Ok(Some((headers, Body::from_stream(ReaderStream::new(file))).into_response()))
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
async fn keep(keeper: Keeper, place: Place, asks: RunToken, body: Body) -> io::Result<Option<Response>> {
    let path = place.path();
    let Some(dir) = path.parent().map(Path::to_owned) else { return Ok(Some(bad_path(""))) };
    let (home, workload, in_dir) = (place.home, asks.workload.clone(), dir.clone());
    let made = aside(move || {
        if let Some(refused) = own(&home, &workload)? {
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
    aside(move || match keeper.refusal(&asks) {
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

/// Makes the directory the workload's where it is nobody's; a refusal where it is another's.
fn own(home: &Path, workload: &WorkloadId) -> io::Result<Option<Response>> {
    let note = home.join(OWNER_FILE);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&note) {
        Ok(mut file) => {
            file.write_all(workload.to_string().as_bytes())?;
            file.sync_all()?;
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let owner = fs::read_to_string(&note)?;
            let its_own = home.file_name().is_some_and(|run| run == mlflow_run_id(workload).as_str());
            // A note without a name is one whose writer was killed.
            if owner.is_empty() || its_own && owner != workload.to_string() {
                fs::write(&note, workload.to_string())?;
                return Ok(None);
            }
            let refused = || {
                let why = format!("the artifacts here are {owner}'s; {workload} may not change them");
                fault(StatusCode::FORBIDDEN, "PERMISSION_DENIED", &why)
            };
            Ok((owner != workload.to_string()).then(refused))
        }
        Err(error) => Err(error),
    }
}

fn remove(place: &Place, workload: &WorkloadId) -> io::Result<Option<Response>> {
    let path = place.path();
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(missing(&path_shown(place)))),
        Err(error) => return Err(error),
    };
    if let Some(refused) = own(&place.home, workload)? {
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

#[cfg(test)]
mod tests;
