//! What an agent answers: the control plane's calls, and other sites that show a grant.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use futures_util::StreamExt;
use iroh::Endpoint;
use iroh::endpoint::{RecvStream, SendStream};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tombolo_api::frames::{self, FrameError};
use tombolo_api::grant::Grant;
use tombolo_api::stream::{ALPN_DATA, Call, Progress, Said};
use tombolo_core::{Millis, SiteId, VersionId};
use tombolo_data::{DataError, Store, VerifyOptions, transfer};

use crate::clock;
use crate::fetch::Fetcher;
use crate::host::HostDriver;
use crate::mind::{self, Wake};

/// What is younger than this, garbage collection leaves alone: somebody may be about to name it.
const GC_GRACE: Duration = Duration::from_secs(3600);
/// Files of a version that are listed at most.
const LISTED_MAX: usize = 10_000;

pub struct Answerer {
    pub site: SiteId,
    pub store: Arc<Store>,
    pub driver: Arc<HostDriver>,
    pub fetcher: Fetcher,
    pub journal: PathBuf,
    pub mind: mpsc::Sender<Wake>,
    pub gc_grace: Option<Duration>,
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
                "hits": hits
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

/// Serves other sites for as long as the process lives, each request against the grant that it shows.
pub async fn serve_sites(endpoint: Endpoint, store: Arc<Store>, site: SiteId, grant_key: VerifyingKey) {
    while let Some(incoming) = endpoint.accept().await {
        let (store, site) = (store.clone(), site.clone());
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            if connection.alpn() != ALPN_DATA {
                return connection.close(1u32.into(), b"sites say tombolo/data/1 to each other");
            }
            let gate = Arc::new(SiteGate { site, grant_key, to_key: tombolo_net::hex(&connection.remote_id()) });
            while let Ok((send, recv)) = connection.accept_bi().await {
                let (store, gate) = (store.clone(), gate.clone());
                tokio::spawn(async move {
                    if let Err(error) = transfer::serve_stream(&store, send, recv, &*gate).await {
                        tracing::debug!(%error, "a transfer's stream ended");
                    }
                });
            }
        });
    }
}

/// Lets a peer have what a grant of our control plane names, if this site is its source and the peer its destination.
struct SiteGate {
    site: SiteId,
    grant_key: VerifyingKey,
    to_key: String,
}

impl transfer::Gate for SiteGate {
    fn check(&self, grant: &[u8], version: VersionId) -> Result<(), String> {
        let opened = Grant::open(grant, &self.grant_key)
            .and_then(|grant| grant.check(version, &self.site, &self.to_key, clock::now()));
        opened.map_err(|fault| fault.to_string())
    }
}
