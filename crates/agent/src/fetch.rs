//! Brings versions to this site: asks the control plane from where it may, and fetches from there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iroh::Endpoint;
use iroh::endpoint::Connection;
use tokio::sync::watch;
use tombolo_api::frames;
use tombolo_api::stream::{ALPN_DATA, Opening, Progress, Sources};
use tombolo_core::sync::{Outcome, TransferSeen};
use tombolo_core::{Millis, VersionId, WorkloadId};
use tombolo_data::transfer::{self, FetchError, FetchOptions};
use tombolo_data::{DataError, Store};
use tombolo_net::Streams;

/// Attempts in which every source failed, before the fetch is given up. Waiting for a line counts as none.
const ATTEMPTS_MAX: u32 = 6;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub struct Fetcher {
    pub store: Arc<Store>,
    pub endpoint: Endpoint,
    /// The line to the control plane, while there is one.
    pub line: watch::Receiver<Option<Connection>>,
    /// Fetches under way, so that two stages that need one version bring it once.
    under_way: Arc<Mutex<BTreeMap<VersionId, Arc<tokio::sync::Mutex<()>>>>>,
    /// How far the fetches for placements are.
    moving: Arc<Mutex<BTreeMap<WorkloadId, Progress>>>,
}

impl Fetcher {
    pub fn new(store: Arc<Store>, endpoint: Endpoint, line: watch::Receiver<Option<Connection>>) -> Fetcher {
        Fetcher { store, endpoint, line, under_way: Arc::default(), moving: Arc::default() }
    }

    /// What is being brought for placements right now.
    pub fn moving(&self) -> BTreeMap<WorkloadId, Progress> {
        self.moving.lock().expect("nobody panics holding it").clone()
    }

    /// Has a version here, whole. What came over the line is told in the answer; nothing where it was here.
    pub async fn fetch(
        &self,
        version: VersionId,
        workload: Option<&WorkloadId>,
        watcher: Option<watch::Sender<Progress>>,
    ) -> Result<Option<TransferSeen>, Outcome> {
        let turn = self.under_way.lock().expect("nobody panics holding it").entry(version).or_default().clone();
        let _turn = turn.lock().await;
        let watcher = watcher.map(Arc::new);
        let mut pause = PAUSE_FIRST;
        let mut attempts = 0;
        let ended = loop {
            if self.has(version).await? {
                break Ok(None);
            }
            let fault = match self.sources(version).await {
                Asked::Refused(why) => break Err(Outcome::Unprepared { why }),
                Asked::NoLine => {
                    // Hold: the control plane is out of reach, which is nobody's failure.
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Asked::From(sources) if sources.is_empty() => {
                    // Who has it is out of reach for now, which is nobody's failure either.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    continue;
                }
                Asked::From(sources) => match self.fetch_from(version, sources, workload, watcher.clone()).await {
                    Ok(seen) => break Ok(Some(seen)),
                    Err(Outcome::Unprepared { why }) => why,
                    Err(outcome) => break Err(outcome),
                },
            };
            attempts += 1;
            if attempts >= ATTEMPTS_MAX {
                break Err(Outcome::Unprepared { why: fault });
            }
            tracing::warn!(%version, fault, "a fetch failed; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        self.under_way.lock().expect("nobody panics holding it").remove(&version);
        ended
    }

    async fn has(&self, version: VersionId) -> Result<bool, Outcome> {
        let store = self.store.clone();
        let answer = tokio::task::spawn_blocking(move || store.has(version)).await;
        answer.map_err(|error| unprepared(error.to_string()))?.map_err(|error| outcome(&error))
    }

    async fn sources(&self, version: VersionId) -> Asked {
        let Some(line) = self.line.borrow().clone() else { return Asked::NoLine };
        let ask = async {
            let (mut send, mut recv) = line.open_bi().await.ok()?;
            frames::write(&mut send, &Opening::Sources(version)).await.ok()?;
            let _ = send.finish();
            frames::read::<Sources>(&mut recv).await.ok()
        };
        match ask.await {
            None => Asked::NoLine,
            Some(Sources::Refused(why)) => Asked::Refused(why),
            Some(Sources::From(sources)) => Asked::From(sources),
        }
    }

    async fn fetch_from(
        &self,
        version: VersionId,
        from: Vec<tombolo_api::stream::Source>,
        workload: Option<&WorkloadId>,
        watcher: Option<Arc<watch::Sender<Progress>>>,
    ) -> Result<TransferSeen, Outcome> {
        let mut sources = Vec::new();
        let mut faults = Vec::new();
        let mut first = None;
        for source in from {
            match tombolo_net::connect(&self.endpoint, &source.address, ALPN_DATA).await {
                Ok(connection) => {
                    first.get_or_insert(source.site.clone());
                    sources.push(transfer::Source {
                        dial: Streams(connection),
                        grant: source.grant.into_bytes(),
                        name: source.site.to_string(),
                    });
                }
                Err(error) => faults.push(format!("{}: {error}", source.site)),
            }
        }
        let Some(from) = first else { return Err(unprepared(faults.join("; "))) };
        let mut options = FetchOptions::default();
        let moving = Moving { all: self.moving.clone(), workload: workload.cloned() };
        let what = format!("version {}", version.short());
        options.progress = Some(Arc::new(move |done_bytes, total_bytes| {
            let progress = Progress { what: what.clone(), done_bytes, total_bytes };
            if let Some(watcher) = &watcher {
                let _ = watcher.send(progress.clone());
            }
            moving.note(progress);
        }));
        let begun = Instant::now();
        let fetched = transfer::fetch(&self.store, version, &sources, &options).await.map_err(|error| match error {
            FetchError::Data(error) => outcome(&error),
            full @ FetchError::NoSpace { .. } => Outcome::NoSpace { why: full.to_string() },
            other => unprepared(other.to_string()),
        })?;
        Ok(TransferSeen {
            version,
            workload: workload.cloned(),
            from,
            wire_bytes: fetched.bytes_wire,
            raw_bytes: fetched.bytes_raw,
            took: Millis(begun.elapsed().as_millis() as u64),
        })
    }
}

/// A fetch's line among what is moving; gone with the fetch, however it ends.
struct Moving {
    all: Arc<Mutex<BTreeMap<WorkloadId, Progress>>>,
    workload: Option<WorkloadId>,
}

impl Moving {
    fn note(&self, progress: Progress) {
        if let Some(workload) = &self.workload {
            self.all.lock().expect("nobody panics holding it").insert(workload.clone(), progress);
        }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        if let Some(workload) = &self.workload {
            self.all.lock().expect("nobody panics holding it").remove(workload);
        }
    }
}

enum Asked {
    From(Vec<tombolo_api::stream::Source>),
    Refused(String),
    NoLine,
}

fn unprepared(why: String) -> Outcome {
    Outcome::Unprepared { why }
}

fn outcome(error: &DataError) -> Outcome {
    match error.is_no_space() {
        true => Outcome::NoSpace { why: error.to_string() },
        false => Outcome::Unprepared { why: error.to_string() },
    }
}
