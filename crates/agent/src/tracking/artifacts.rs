//! Artifacts that workloads log, kept at the site in which they were made: `mlflow-artifacts:/<experiment>/<run>/...`.
//!
//! ```text
//! artifacts/<experiment>/<run>/artifacts/...
//! artifacts/<experiment>/models/<model>/artifacts/...
//! ```
//! Who first writes into a run's or a model's directory owns it: a note beside the artifacts says so. A workload's own run
//! is the workload's whoever was there before. Only a placement that is alive has a say.

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
use tombolo_api::run_token::mlflow_run_id;
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
    /// The workload that asks; else the refusal.
    fn who(&self, headers: &HeaderMap) -> Result<WorkloadId, Box<Response>> {
        let token = who(headers, &self.key).ok_or_else(|| Box::new(unauthenticated()))?;
        match (self.live)(&token.workload, token.epoch) {
            true => Ok(token.workload),
            false => {
                let why = format!("{} runs no more as it did when it was given this token", token.workload);
                Err(Box::new(fault(StatusCode::FORBIDDEN, "PERMISSION_DENIED", &why)))
            }
        }
    }
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
    if let Err(refused) = keeper.who(&headers) {
        return *refused;
    }
    let Some(place) = place(&keeper.dir, &asked.path) else { return bad_path(&asked.path) };
    match read_dir(&place.path()) {
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
    let workload = match keeper.who(request.headers()) {
        Ok(workload) => workload,
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
        Method::PUT => match keep(&place, &workload, request.into_body()).await {
            Ok(None) => axum::Json(serde_json::json!({})).into_response(),
            Ok(Some(refused)) => refused,
            Err(error) => broken(&error),
        },
        Method::DELETE => match remove(&place, &workload) {
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

/// Keeps a file, whole or not at all; a refusal where the place is another workload's.
async fn keep(place: &Place, workload: &WorkloadId, body: Body) -> io::Result<Option<Response>> {
    let path = place.path();
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Some(bad_path(""))) };
    if let Some(refused) = own(&place.home, workload)? {
        return Ok(Some(refused));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Of its own each time: two may come for one name, and the last that is whole counts.
    let draft = dir.join(format!("{:016x}{DRAFT}", getrandom::u64().map_err(io::Error::other)?));
    let written = receive(&draft, body).await;
    match written {
        Ok(Ok(())) => {
            let kept = fs::rename(&draft, dir.join(name)).and_then(|()| fs::File::open(dir)?.sync_all());
            if kept.is_err() {
                let _ = fs::remove_file(&draft);
            }
            kept.map(|()| None)
        }
        Ok(Err(refused)) => {
            let _ = fs::remove_file(&draft);
            Ok(Some(refused))
        }
        Err(error) => {
            let _ = fs::remove_file(&draft);
            Err(error)
        }
    }
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
mod tests {
    use ed25519_dalek::SigningKey;
    use tombolo_api::run_token::RunToken;
    use tombolo_core::Epoch;
    use tower::ServiceExt;

    use super::*;

    struct Site {
        dir: tempfile::TempDir,
        key: SigningKey,
    }

    impl Site {
        async fn ask(&self, method: &str, path: &str, workload: Option<&str>, body: &str) -> (u16, String) {
            self.ask_as(method, path, workload.map(|workload| (workload, Epoch(2))), body).await
        }

        async fn ask_as(&self, method: &str, path: &str, asks: Option<(&str, Epoch)>, body: &str) -> (u16, String) {
            let site = "here".parse().unwrap();
            let live = Arc::new(|_: &WorkloadId, epoch| epoch == Epoch(2));
            let keeper = Keeper { dir: self.dir.path().to_owned(), key: self.key.verifying_key(), live };
            let mut request = Request::builder().method(method).uri(path);
            if let Some((workload, epoch)) = asks {
                let token = RunToken { site, workload: workload.parse().unwrap(), epoch }.sign(&self.key);
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(Body::from(body.to_owned())).unwrap();
            let answer = router(keeper).oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        }
    }

    fn site() -> Site {
        Site { dir: tempfile::tempdir().unwrap(), key: SigningKey::from_bytes(&[3; 32]) }
    }

    #[tokio::test]
    async fn what_is_put_is_listed_and_comes_back() {
        let (site, me) = (site(), Some("p-1/train"));
        let file = format!("{PREFIX}/1/abc/artifacts/sub/a%20b.txt");
        assert_eq!(site.ask("PUT", &file, me, "hello").await.0, 200);
        assert_eq!(site.ask("GET", &file, me, "").await, (200, "hello".to_owned()));
        let listed = site.ask("GET", &format!("{PREFIX}?path=1/abc/artifacts"), me, "").await;
        assert_eq!(listed, (200, r#"{"files":[{"path":"sub","is_dir":true}]}"#.to_owned()));
        let listed = site.ask("GET", &format!("{PREFIX}?path=1/abc/artifacts/sub"), me, "").await;
        assert_eq!(listed.1, r#"{"files":[{"path":"a b.txt","is_dir":false,"file_size":5}]}"#);
        assert_eq!(site.ask("PUT", &file, me, "again").await.0, 200);
        assert_eq!(site.ask("GET", &file, me, "").await.1, "again");
        assert_eq!(site.ask("DELETE", &file, me, "").await.0, 200);
        assert_eq!(site.ask("GET", &file, me, "").await.0, 404);
        assert_eq!(site.ask("DELETE", &file, me, "").await.0, 404);
    }

    #[tokio::test]
    async fn paths_lead_nowhere_else() {
        let (site, me) = (site(), Some("p-1/train"));
        for path in [
            "1/abc/artifacts/../../../../etc/passwd",
            "1/abc/artifacts/%2e%2e/%2e%2e/x",
            "1/abc/artifacts/a%2F..%2Fb",
            "1/abc/artifacts/a%5Cb",
            "1/abc/artifacts//x",
            "1/abc/other/x",
            "1/../artifacts/x",
            "x",
            "1/abc/artifacts",
            "1/abc/artifacts/a%00b",
        ] {
            assert_eq!(site.ask("PUT", &format!("{PREFIX}/{path}"), me, "x").await.0, 400, "{path}");
        }
        assert_eq!(site.ask("GET", &format!("{PREFIX}?path=../.."), me, "").await.0, 400);
        assert_eq!(fs::read_dir(site.dir.path()).unwrap().count(), 0, "nothing was made");
    }

    #[tokio::test]
    async fn a_token_is_good_while_its_placement_lives() {
        let site = site();
        let file = format!("{PREFIX}/1/abc/artifacts/a");
        assert_eq!(site.ask("PUT", &file, Some("p-1/train"), "x").await.0, 200);
        for method in ["PUT", "GET", "DELETE"] {
            let (status, why) = site.ask_as(method, &file, Some(("p-1/train", Epoch(1))), "y").await;
            assert!(status == 403 && why.contains("runs no more"), "{method}: {status} {why}");
        }
        assert_eq!(site.ask("GET", &file, Some("p-1/train"), "").await, (200, "x".to_owned()));
    }

    #[tokio::test]
    async fn nobody_takes_the_run_of_another() {
        let site = site();
        let (me, other) = (Some("p-1/train"), Some("p-1/test"));
        let file = format!("{PREFIX}/1/{}/artifacts/a", mlflow_run_id(&"p-1/train".parse().unwrap()));
        assert_eq!(site.ask("PUT", &file, other, "theirs").await.0, 200);
        assert_eq!(site.ask("PUT", &file, me, "mine").await.0, 200);
        assert_eq!(site.ask("PUT", &file, other, "again").await.0, 403);
        assert_eq!(site.ask("GET", &file, me, "").await, (200, "mine".to_owned()));
    }

    #[tokio::test]
    async fn what_comes_half_leaves_what_came_whole() {
        let site = site();
        let place = place(site.dir.path(), "1/abc/artifacts/a").unwrap();
        let me = "p-1/train".parse().unwrap();
        let (send, receive) = tokio::sync::mpsc::channel::<io::Result<&'static str>>(1);
        let body = Body::from_stream(futures_util::stream::unfold(receive, |mut receive| async {
            receive.recv().await.map(|piece| (piece, receive))
        }));
        let half = keep(&place, &me, body);
        let whole = async {
            send.send(Ok("half")).await.unwrap();
            assert!(keep(&place, &me, Body::from("whole")).await.unwrap().is_none());
            send.send(Err(io::Error::other("it breaks off"))).await.unwrap();
            drop(send);
        };
        let (half, ()) = tokio::join!(half, whole);
        assert!(half.unwrap().is_some(), "what broke off was refused");
        assert_eq!(fs::read_to_string(place.path()).unwrap(), "whole");
        assert_eq!(fs::read_dir(place.path().parent().unwrap()).unwrap().count(), 1, "no draft stays");
    }

    #[tokio::test]
    async fn others_read_and_do_not_write() {
        let site = site();
        let (me, other) = (Some("p-1/train"), Some("p-1/test"));
        for home in ["1/abc", "1/models/m-1"] {
            let file = format!("{PREFIX}/{home}/artifacts/a");
            assert_eq!(site.ask("PUT", &file, None, "x").await.0, 401);
            assert_eq!(site.ask("PUT", &file, me, "mine").await.0, 200);
            for method in ["PUT", "DELETE"] {
                assert_eq!(site.ask(method, &file, other, "x").await.0, 403);
            }
            assert_eq!(site.ask("GET", &file, other, "").await, (200, "mine".to_owned()));
            assert_eq!(site.ask("GET", &file, None, "").await.0, 401);
        }
        let stranger = Site { dir: tempfile::tempdir().unwrap(), key: SigningKey::from_bytes(&[4; 32]) };
        let forged =
            RunToken { site: "here".parse().unwrap(), workload: "p-1/train".parse().unwrap(), epoch: Epoch(1) };
        assert!(
            who(
                &HeaderMap::from_iter([(
                    header::AUTHORIZATION,
                    format!("Bearer {}", forged.sign(&stranger.key)).parse().unwrap()
                )]),
                &site.key.verifying_key()
            )
            .is_none()
        );
    }
}
