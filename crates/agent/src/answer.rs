//! What an agent answers: the control plane's calls, and other sites that show a grant.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::VerifyingKey;
use futures_util::StreamExt;
use iroh::Endpoint;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tombolo_api::frames::{self, FrameError};
use tombolo_api::grant::{self, Begun, Spent};
use tombolo_api::stream::{ALPN_DATA, ALPN_GATEWAY, CLOSE_REVOKED, Call, Progress, Said};
use tombolo_core::{Millis, SiteId, VersionId};
use tombolo_data::{DataError, Store, VerifyOptions, transfer};

use crate::clock::{self, ControlTime};
use crate::driver::Driver;
use crate::fetch::Fetcher;
use crate::gateway::Gateway;
use crate::holds::Holds;
use crate::mind::{self, Wake};

/// What is younger than this, garbage collection leaves alone: somebody may be about to name it.
const GC_GRACE: Duration = Duration::from_secs(3600);
/// Files of a version that are listed at most.
const LISTED_MAX: usize = 10_000;

/// The keys of sites that are revoked: whatever grants they hold, nothing goes to them.
pub type Revoked = BTreeSet<String>;

pub struct Answerer {
    pub site: SiteId,
    pub store: Arc<Store>,
    pub driver: Arc<Driver>,
    pub fetcher: Fetcher,
    pub journal: PathBuf,
    pub mind: mpsc::Sender<Wake>,
    /// What the control plane said last of revoked keys.
    pub revoked: watch::Sender<Revoked>,
    pub control_time: ControlTime,
    pub gc_grace: Option<Duration>,
    pub holds: Arc<Holds>,
    pub gateway: Gateway,
    /// Where it listens.
    pub gateway_address: SocketAddr,
    /// Answers what the control plane asks of artifacts.
    pub artifacts: axum::Router,
}

impl Answerer {
    /// One call of the control plane, on a stream of its own.
    pub async fn answer(&self, mut send: SendStream, mut recv: RecvStream) -> Result<(), FrameError> {
        let call: Call = frames::read(&mut recv).await?;
        let last = match call {
            Call::Logs { workload, epoch, query } => {
                let mut lines = std::pin::pin!(self.driver.logs(&workload, epoch, query));
                while let Some(line) = lines.next().await {
                    match line {
                        Ok(line) => frames::write(&mut send, &Said::Log(line)).await?,
                        Err(error) => {
                            frames::write(&mut send, &Said::Failed(error.to_string())).await?;
                            let _ = send.finish();
                            return Ok(());
                        }
                    }
                }
                Ok(serde_json::Value::Null)
            }
            Call::Gc { keep } => self.gc(keep).await,
            Call::Verify => self.verify().await,
            Call::Fetch { version } => self.fetch(version, &mut send).await?,
            Call::List { version } => self.list(version).await,
            Call::Has { version } => self.blocking(move |store| amount(store, version)).await,
            Call::Hold { version } => self.hold(version).await,
            Call::Artifacts => {
                let served = tombolo_net::http::serve(send, recv, self.artifacts.clone()).await;
                return served.map_err(|error| FrameError::Io(std::io::Error::other(error)));
            }
        };
        let last = match last {
            Ok(value) => Said::Done(value),
            Err(why) => Said::Failed(why),
        };
        frames::write(&mut send, &last).await?;
        let _ = send.finish();
        Ok(())
    }

    async fn gc(&self, keep: Vec<VersionId>) -> Result<serde_json::Value, String> {
        let mut keep: BTreeSet<VersionId> = keep.into_iter().collect();
        keep.extend(mind::needed(&self.journal).map_err(|error| format!("nothing was collected: {error}"))?);
        let grace = Millis(self.gc_grace.unwrap_or(GC_GRACE).as_millis() as u64);
        self.blocking(move |store| {
            let done = store.gc(&keep, clock::now(), grace)?;
            Ok(json!({
                "versions_removed": done.versions_removed,
                "packs_removed": done.packs_removed,
                "packs_rewritten": done.packs_rewritten,
                "bytes_freed": done.bytes_freed,
                "condemned": done.condemned,
                "condemned_for_ms": done.condemned_for.0,
            }))
        })
        .await
    }

    async fn verify(&self) -> Result<serde_json::Value, String> {
        self.blocking(|store| {
            let report = store.verify(&VerifyOptions::default())?;
            let damaged = report.damaged.iter();
            let hits = report.hits.iter();
            Ok(json!({
                "packs": report.packs,
                "chunks": report.chunks,
                "bytes": report.bytes,
                "damaged": damaged
                    .map(|damage| json!({ "pack": damage.pack, "chunk": damage.chunk, "reason": damage.reason }))
                    .collect::<Vec<_>>(),
                "manifests_damaged": report.manifests_damaged,
                "files_unreadable": hits
                    .map(|hit| json!({ "version": hit.version, "path": hit.path, "chunk": hit.chunk }))
                    .collect::<Vec<_>>(),
                "quarantined": report.quarantined,
            }))
        })
        .await
    }

    async fn list(&self, version: VersionId) -> Result<serde_json::Value, String> {
        self.blocking(move |store| {
            let files = store.list(version)?;
            let listed = files.iter().take(LISTED_MAX).map(|file| json!({ "path": file.path, "bytes": file.bytes }));
            Ok(json!(listed.collect::<Vec<_>>()))
        })
        .await
    }

    async fn hold(&self, version: VersionId) -> Result<serde_json::Value, String> {
        let holds = self.holds.clone();
        let held = self.blocking(move |store| Ok(json!(holds.hold(store, version, Instant::now())?))).await?;
        match held {
            serde_json::Value::Bool(true) => Ok(held),
            _ => Err(format!("version {} is not here any more", version.short())),
        }
    }

    async fn blocking(
        &self,
        f: impl FnOnce(&Store) -> Result<serde_json::Value, DataError> + Send + 'static,
    ) -> Result<serde_json::Value, String> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || f(&store)).await.map_err(|error| error.to_string())?;
        done.map_err(|error| error.to_string())
    }

    async fn fetch(
        &self,
        version: VersionId,
        send: &mut SendStream,
    ) -> Result<Result<serde_json::Value, String>, FrameError> {
        let (watcher, mut moved) = watch::channel(Progress::default());
        // Whoever asks may have found damage in the store, and set it aside, as a process of its own.
        if let Err(why) = self.blocking(|store| store.refresh().map(|()| serde_json::Value::Null)).await {
            return Ok(Err(why));
        }
        let mut fetching = std::pin::pin!(self.fetcher.fetch(version, None, Some(watcher)));
        let mut watching = true;
        let ended = loop {
            tokio::select! {
                ended = &mut fetching => break ended,
                changed = moved.changed(), if watching => {
                    watching = changed.is_ok();
                    let progress = moved.borrow_and_update().clone();
                    frames::write(send, &Said::Progress(progress)).await?;
                }
            }
        };
        Ok(match ended {
            Ok(Some(seen)) => {
                let answer = serde_json::to_value(&seen).expect("plain data");
                let _ = self.mind.send(Wake::Fetched(seen)).await;
                Ok(answer)
            }
            Ok(None) => Ok(serde_json::Value::Null),
            Err(outcome) => Err(outcome.to_string()),
        })
    }
}

/// What a version here comes to, or false where it isn't here whole.
fn amount(store: &Store, version: VersionId) -> Result<serde_json::Value, DataError> {
    if !store.has(version)? {
        return Ok(json!(false));
    }
    let summary = store.summary(version)?;
    Ok(json!({ "bytes": summary.bytes, "files": summary.files }))
}

/// What other sites get versions from, and by what it is decided which.
#[derive(Clone)]
pub struct Serving {
    pub store: Arc<Store>,
    pub site: SiteId,
    pub grant_key: VerifyingKey,
    pub revoked: watch::Receiver<Revoked>,
    pub time: ControlTime,
}

/// Serves other sites for as long as the process lives: versions, each against the grant that is shown for it, and
/// endpoints.
pub async fn serve_sites(endpoint: Endpoint, serving: Serving, gateway: Gateway) {
    let spent = Arc::new(Mutex::new(Spent::default()));
    while let Some(incoming) = endpoint.accept().await {
        let (serving, gateway) = (serving.clone(), gateway.clone());
        let spent = spent.clone();
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            match connection.alpn() {
                ALPN_DATA => {
                    let Serving { store, site, grant_key, revoked, time } = serving;
                    let to_key = tombolo_net::hex(&connection.remote_id());
                    let gate = SiteGate { site, grant_key, to_key, time, begun: Mutex::default(), spent };
                    serve_site(connection, store, gate, revoked).await;
                }
                ALPN_GATEWAY => gateway.attend(connection).await,
                _ => connection.close(1u32.into(), b"sites say tombolo/data/1 or tombolo/gateway/1 to each other"),
            }
        });
    }
}

/// One site's connection, until it ends or the site is revoked, which also ends what it is being sent.
async fn serve_site(connection: Connection, store: Arc<Store>, gate: SiteGate, mut revoked: watch::Receiver<Revoked>) {
    let gate = Arc::new(gate);
    loop {
        if revoked.borrow_and_update().contains(&gate.to_key) {
            return connection.close(CLOSE_REVOKED.into(), b"this site is revoked");
        }
        let (send, recv) = tokio::select! {
            opened = connection.accept_bi() => match opened {
                Ok(streams) => streams,
                Err(_) => return,
            },
            changed = revoked.changed() => match changed {
                Ok(()) => continue,
                // The agent is ending.
                Err(_) => return,
            },
        };
        let (store, gate) = (store.clone(), gate.clone());
        tokio::spawn(async move {
            if let Err(error) = transfer::serve_stream(&store, send, recv, &*gate).await {
                tracing::debug!(%error, "a transfer's stream ended");
            }
        });
    }
}

/// Lets a peer have what a grant of our control plane names, if this site is its source and the peer its destination.
struct SiteGate {
    site: SiteId,
    grant_key: VerifyingKey,
    to_key: String,
    time: ControlTime,
    begun: Mutex<Begun>,
    /// Of all connections.
    spent: Arc<Mutex<Spent>>,
}

impl transfer::Gate for SiteGate {
    fn check(&self, grant: &[u8], version: VersionId) -> Result<(), String> {
        let mut begun = self.begun.lock().expect("nobody panics holding it");
        let wanted = (version, &self.site, self.to_key.as_str());
        begun.check(grant, &self.grant_key, wanted, self.time.now()).map_err(|fault| fault.to_string())
    }

    fn spend(&self, grant: &[u8], amount: transfer::Amount, more: u64) -> Result<(), String> {
        let amount = grant::Amount { bytes: amount.bytes, manifest_bytes: amount.manifest_bytes };
        let mut spent = self.spent.lock().expect("nobody panics holding it");
        let counted = spent.spend(grant, &self.grant_key, amount, more, self.time.now());
        counted.map_err(|fault| fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use tombolo_api::grant::{GRANT_LIFE, Grant};
    use tombolo_data::StoreOptions;
    use tombolo_data::transfer::{FetchOptions, Source, fetch};

    use super::*;

    async fn endpoint() -> Endpoint {
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = tombolo_net::BindOptions { listen, alpns: vec![ALPN_DATA.to_vec()], relay: None };
        tombolo_net::bind(SecretKey::generate(), options).await.unwrap()
    }

    #[tokio::test]
    async fn a_revoked_site_is_cut_off_whatever_grant_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Arc::new(Store::open(dir.path().join(name), StoreOptions::default()).unwrap());
        let (here, there) = (open("here"), open("there"));
        let file = dir.path().join("file");
        std::fs::write(&file, "some bytes").unwrap();
        let version = here.add_tree(&file, &tombolo_data::AddOptions::default()).unwrap().version;

        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let site = SiteId::new("here").unwrap();
        let (serving, fetching) = (endpoint().await, endpoint().await);
        let address = tombolo_net::address(&serving, None);
        let (revoke, revoked) = watch::channel(Revoked::from(["somebody else".to_owned()]));
        let time = ControlTime::default();
        let limits = crate::gateway::Limits::default();
        let gateway = Gateway::new(site.clone(), dir.path(), serving.clone(), time.clone(), limits);
        let served = Serving { store: here, site: site.clone(), grant_key: key.verifying_key(), revoked, time };
        tokio::spawn(serve_sites(serving, served, gateway));
        let to_key = tombolo_net::hex(&fetching.id());
        let to = SiteId::new("there").unwrap();
        let until = clock::now() + GRANT_LIFE;
        let grant = Grant { version, from: site, to, to_key: to_key.clone(), until, bytes: Some(10) }.sign(&key);
        let source = |connection| {
            let grant = grant.clone();
            Source { dial: tombolo_net::Streams(connection), grant, name: "here".to_owned() }
        };
        let connect = async || tombolo_net::connect(&fetching, &address, ALPN_DATA).await.unwrap();

        let connection = connect().await;
        fetch(&there, version, &[source(connection.clone())], &FetchOptions::default()).await.unwrap();
        assert!(connection.close_reason().is_none());
        revoke.send_if_modified(|keys| keys.insert(to_key));
        let code = |closed| match closed {
            iroh::endpoint::ConnectionError::ApplicationClosed(closed) => {
                u32::try_from(closed.error_code.into_inner()).unwrap()
            }
            other => panic!("{other}"),
        };
        let patience = Duration::from_secs(60);
        let closed = tokio::time::timeout(patience, connection.closed()).await.expect("the connection is cut");
        assert_eq!(code(closed), CLOSE_REVOKED);
        let again = connect().await;
        let options = FetchOptions::default();
        fetch(&open("third"), version, &[source(again)], &options).await.expect_err("it holds a grant that is good");
    }
}
