//! What workloads log: an address of their own machine at which MLflow's clients find the control plane.
//!
//! Experiments, runs and numbers go on to the control plane, over the line that the agent holds anyway: no workload
//! needs a way to it. Artifacts stay at the site ([`artifacts`]). With the line gone a request waits here until it is
//! back: MLflow's clients would give up within minutes, and with them the training.

mod artifacts;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ed25519_dalek::{SigningKey, VerifyingKey};
use iroh::endpoint::Connection;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tombolo_api::frames;
use tombolo_api::run_token::{Claimed, RunToken, mlflow_run_id};
use tombolo_api::stream::Opening;
use tombolo_core::{Epoch, SiteId, WorkloadId};

use crate::shim::placement::Placement;
pub use artifacts::Shelf;
use tombolo_data::Store;

/// In the site's directory: the port, which workloads that outlive their agent go on to use.
const PORT_FILE: &str = "tracking.port";
/// In the site's directory.
const ARTIFACTS_DIR: &str = "artifacts";
/// Requests that are under way to the control plane; who comes later waits. Far below what a line carries at once.
const CALLS_MAX: usize = 64;
/// Requests that wait for the line; one that comes later is answered 503, on which clients wait and ask again.
const HELD_MAX: usize = 512;
/// How long a request waits for the line, and how long clients are told to wait for an answer.
const HELD_FOR: Duration = Duration::from_secs(55 * 60);
const CLIENTS_WAIT_SECONDS: u64 = 3_600;
/// How often clients ask again; the most that MLflow's take.
const CLIENTS_TRIES: u64 = 10;
/// How long the control plane may take to answer; it gives up after 60 s itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);

/// What a workload's environment says of it.
#[derive(Debug, Clone)]
pub struct Address {
    site: SiteId,
    key: SigningKey,
    /// `host:port`, as workloads reach it.
    at: String,
}

impl Address {
    /// None of it where the user's own environment says where to track: then all of it is theirs.
    pub fn environment(&self, workload: &WorkloadId, epoch: Epoch) -> BTreeMap<String, String> {
        let token = RunToken { site: self.site.clone(), workload: workload.clone(), epoch };
        let variables = [
            ("MLFLOW_TRACKING_URI", format!("http://{}", self.at)),
            (TOKEN_VARIABLE, token.sign(&self.key)),
            ("MLFLOW_RUN_ID", mlflow_run_id(workload)),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", CLIENTS_WAIT_SECONDS.to_string()),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", CLIENTS_TRIES.to_string()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// By which a process logs; masked in its logs as a secret is.
pub const TOKEN_VARIABLE: &str = "MLFLOW_TRACKING_TOKEN";
/// By which a user says that another server is meant.
pub const URI_VARIABLE: &str = "MLFLOW_TRACKING_URI";

#[derive(Clone)]
struct Proxy {
    line: watch::Receiver<Option<Connection>>,
    calls: Arc<Semaphore>,
    held: Arc<Semaphore>,
}

/// Serves for as long as the process lives. Where workloads run on other machines, `host` is this one's name for them.
pub async fn serve(
    site: SiteId,
    site_dir: &Path,
    key: SigningKey,
    shelf: Arc<Shelf>,
    line: watch::Receiver<Option<Connection>>,
    host: Option<&str>,
    port: Option<u16>,
) -> io::Result<Address> {
    let ip = if host.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let listener = match port {
        Some(port) => TcpListener::bind((ip, port)).await?,
        None => listen(&site_dir.join(PORT_FILE), ip).await?,
    };
    let bound = listener.local_addr()?;
    let at = host.map_or(bound.to_string(), |host| format!("{host}:{}", bound.port()));
    let address = Address { site, at, key: key.clone() };
    let work = site_dir.to_owned();
    let live = Arc::new(move |workload: &WorkloadId, epoch| {
        Placement::of(&work, workload, epoch).is_locked().unwrap_or_else(|error| {
            tracing::warn!(%workload, %error, "whether a placement is alive can't be seen");
            false
        })
    });
    let proxy = Proxy { line, calls: Arc::new(Semaphore::new(CALLS_MAX)), held: Arc::new(Semaphore::new(HELD_MAX)) };
    let door = artifacts::Door::Workloads { key: Box::new(key.verifying_key()), live, elsewhere: elsewhere(&proxy) };
    let keeper = artifacts::Keeper { shelf, door };
    let router = Router::new().fallback(forward).with_state(proxy).merge(artifacts::router(keeper));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "what workloads log is taken no more");
        }
    });
    Ok(address)
}

/// What another site may have, by way of the control plane, which decides whether it may come here.
fn elsewhere(proxy: &Proxy) -> artifacts::Elsewhere {
    let proxy = proxy.clone();
    Arc::new(move |request| {
        let proxy = proxy.clone();
        Box::pin(async move { forward(State(proxy), request).await })
    })
}

/// What a site has of artifacts, for the control plane, which has let in who asks.
pub fn for_control(shelf: Arc<Shelf>) -> Router {
    artifacts::router(artifacts::Keeper { shelf, door: artifacts::Door::Control })
}

/// Where a site's artifacts are.
pub fn shelf(site_dir: &Path, store: Arc<Store>) -> io::Result<Shelf> {
    Shelf::open(site_dir.join(ARTIFACTS_DIR), store)
}

/// At the port that was used before, for what still runs; at any where there was none or another program has it.
async fn listen(file: &Path, ip: Ipv4Addr) -> io::Result<TcpListener> {
    let before = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u16>().ok());
    if let Some(port) = before {
        match TcpListener::bind((ip, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                tracing::warn!(port, %error, "another port takes what workloads log; those that run can't log any more");
            }
        }
    }
    let listener = TcpListener::bind((ip, 0)).await?;
    tombolo_net::write_private(file, listener.local_addr()?.port().to_string().as_bytes())?;
    Ok(listener)
}

impl Proxy {
    /// The line, once there is one; None where too many wait already, or for too long.
    async fn connection(&self) -> Option<Connection> {
        let mut line = self.line.clone();
        if let Some(connection) = line.borrow_and_update().clone() {
            return Some(connection);
        }
        let _held = self.held.try_acquire().ok()?;
        let back = tokio::time::timeout(HELD_FOR, line.wait_for(Option::is_some)).await;
        back.ok()?.ok()?.clone()
    }
}

/// One request to the control plane, on a stream of its own.
async fn forward(State(proxy): State<Proxy>, request: Request) -> Response {
    let away = |why: &str| fault(StatusCode::SERVICE_UNAVAILABLE, "TEMPORARILY_UNAVAILABLE", why);
    let Some(connection) = proxy.connection().await else {
        return away("the control plane can't be reached now; what was logged is to be sent again");
    };
    let Ok(_place) = proxy.calls.clone().acquire_owned().await else { return away("the agent is stopping") };
    match tokio::time::timeout(ANSWER_WITHIN, call(&connection, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => away(&format!("the control plane did not answer: {error}")),
        Err(_) => away(&format!("the control plane did not answer within {ANSWER_WITHIN:?}")),
    }
}

async fn call(connection: &Connection, request: Request) -> Result<Response, tombolo_net::http::Failed> {
    let (mut send, recv) = connection.open_bi().await?;
    frames::write(&mut send, &Opening::Track).await?;
    tombolo_net::http::ask(send, recv, request).await
}

/// An error as MLflow's clients read it.
fn fault(status: StatusCode, code: &str, message: &str) -> Response {
    let body = serde_json::json!({ "error_code": code, "message": message }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The placement that asks, by a token that this site has signed.
fn who(headers: &HeaderMap, key: &VerifyingKey) -> Option<RunToken> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (_, token) = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))?;
    let claimed = Claimed::read(token.trim())?;
    claimed.check(key).then_some(claimed.claim)
}

/// Where everything of a site's runs and models is kept.
fn root(dir: &Path, parts: &[&str]) -> PathBuf {
    parts.iter().fold(dir.to_owned(), |path, part| path.join(part))
}
