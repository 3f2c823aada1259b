//! Artifacts that are logged at a site, kept there: `mlflow-artifacts:/<experiment>/<run>/...`.
//!
//! ```text
//! artifacts/<experiment>/<run>/artifacts/...
//! artifacts/<experiment>/models/<model>/artifacts/...
//! ```
//! Who first writes into a run's or a model's directory owns it: a note beside the artifacts says so. A workload's own run
//! is the workload's whoever was there before. Only a placement that is alive has a say, at the end of what it sends too. What
//! isn't here another site may have: the control plane is asked, which also sends here whoever may have what is here.

mod entry;
mod send;
mod shelf;

use std::io::{self, ErrorKind};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use ed25519_dalek::VerifyingKey;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tombolo_api::run_token::RunToken;
use tombolo_core::{Epoch, WorkloadId};

use super::{fault, who};
use send::send;
pub use shelf::Shelf;
use shelf::{FileInfo, LISTED_MAX, keep};

const PREFIX: &str = "/api/2.0/mlflow-artifacts/artifacts";

#[derive(Clone)]
pub struct Keeper {
    pub shelf: Arc<Shelf>,
    pub door: Door,
}

/// Who comes in, and by whose word.
#[derive(Clone)]
pub enum Door {
    /// Workloads of this site, by tokens that it has signed.
    Workloads {
        key: Box<VerifyingKey>,
        /// Whether a placement at this site is alive.
        live: Live,
        elsewhere: Elsewhere,
    },
    /// Whoever the control plane has let in.
    Control,
}

pub type Live = Arc<dyn Fn(&WorkloadId, Epoch) -> bool + Send + Sync>;
/// Asks for what isn't here.
pub type Elsewhere = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// Who asks.
#[derive(Debug, Clone)]
enum Asker {
    Placement(RunToken),
    People,
}

impl Asker {
    fn workload(&self) -> Option<&WorkloadId> {
        match self {
            Asker::Placement(token) => Some(&token.workload),
            Asker::People => None,
        }
    }
}

impl Keeper {
    /// Who asks, if they may; else the refusal.
    async fn who(&self, headers: &HeaderMap) -> Result<Asker, Box<Response>> {
        let Door::Workloads { key, .. } = &self.door else { return Ok(Asker::People) };
        let asks = Asker::Placement(who(headers, key).ok_or_else(|| Box::new(unauthenticated()))?);
        let (keeper, asked) = (self.clone(), asks.clone());
        match aside(move || Ok(keeper.refusal(&asked))).await {
            Ok(None) => Ok(asks),
            Ok(Some(refused)) => Err(Box::new(refused)),
            Err(error) => Err(Box::new(broken(&error))),
        }
    }

    /// For whom no placement lives any more.
    fn refusal(&self, asks: &Asker) -> Option<Response> {
        let (Door::Workloads { live, .. }, Asker::Placement(token)) = (&self.door, asks) else { return None };
        let why = || format!("{} runs no more as it did when it was given this token", token.workload);
        let alive = live(&token.workload, token.epoch);
        (!alive).then(|| fault(StatusCode::FORBIDDEN, "PERMISSION_DENIED", &why()))
    }

    /// What another site answers; none where nobody else is to be asked.
    async fn elsewhere(&self, request: Request) -> Option<Response> {
        match &self.door {
            Door::Workloads { elsewhere, .. } => Some(elsewhere(request).await),
            Door::Control => None,
        }
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

async fn list(State(keeper): State<Keeper>, Query(asked): Query<Listed>, request: Request) -> Response {
    if let Err(refused) = keeper.who(request.headers()).await {
        return *refused;
    }
    let Some(place) = keeper.shelf.place(&asked.path) else { return bad_path(&asked.path) };
    let shelf = keeper.shelf.clone();
    match aside(move || shelf.list(&place)).await {
        Ok(files) if files.len() > LISTED_MAX => {
            let why = format!("the directory has more than {LISTED_MAX} entries, which is too many for one answer");
            fault(StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE", &why)
        }
        Ok(files) if files.is_empty() => {
            let elsewhere = keeper.elsewhere(request).await;
            elsewhere.unwrap_or_else(|| axum::Json(Files { files }).into_response())
        }
        Ok(files) => axum::Json(Files { files }).into_response(),
        Err(error) => broken(&error),
    }
}

async fn one(State(keeper): State<Keeper>, request: Request) -> Response {
    let asks = match keeper.who(request.headers()).await {
        Ok(asks) => asks,
        Err(refused) => return *refused,
    };
    let encoded = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().trim_start_matches('/');
    let Some(path) = decoded(encoded) else { return bad_path(encoded) };
    let Some(place) = keeper.shelf.place(&path) else { return bad_path(&path) };
    match *request.method() {
        Method::GET | Method::HEAD => match send(&place.path(), &keeper.shelf.store, request.headers()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => keeper.elsewhere(request).await.unwrap_or_else(|| missing(&path)),
            Err(error) => broken(&error),
        },
        Method::PUT => match keep(keeper, place, asks, request.into_body()).await {
            Ok(None) => axum::Json(serde_json::json!({})).into_response(),
            Ok(Some(refused)) => refused,
            Err(error) => broken(&error),
        },
        Method::DELETE => match aside(move || keeper.shelf.remove(&place, &asks)).await {
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

#[cfg(test)]
mod tests;
