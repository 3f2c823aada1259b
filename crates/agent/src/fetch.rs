//! Brings versions to this site: asks the control plane from where it may, and fetches from there.

mod under_way;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iroh::Endpoint;
use iroh::endpoint::Connection;
use tokio::sync::watch;
use tombolo_api::frames;
use tombolo_api::stream::{ALPN_DATA, Opening, PeerAddress, Progress, Sources};
use tombolo_core::sync::{Outcome, TransferSeen};
use tombolo_core::{Millis, VersionId, WorkloadId};
use tombolo_data::transfer::{self, Budget, FetchError, FetchOptions};
use tombolo_data::{DataError, Store};
use tombolo_net::{NetError, Streams};

use crate::pace::{Paced, Paces};
use crate::pause::Pauses;
use under_way::{Meter, Moving, Turn, UnderWay};

/// Attempts in a row in which every source failed and nothing came, before the fetch is given up. Waiting for a line
/// counts as none, and what has come is not fetched again: a long transfer over a bad line gets there in the end.
const ATTEMPTS_MAX: u32 = 6;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How long a connection to another site is kept after it was last asked for.
const DIALLED_FOR: Duration = Duration::from_secs(45);

#[derive(Clone)]
pub struct Fetcher {
    pub store: Arc<Store>,
    pub endpoint: Endpoint,
    /// The line to the control plane, while there is one.
    pub line: watch::Receiver<Option<Connection>>,
    /// The memory that all fetches share.
    pub budget: Budget,
    /// Fetches under way, so that two stages that need one version bring it once.
    under_way: UnderWay,
    pauses: Pauses,
    paces: Paces,
    dialled: Dialled,
    /// How far the fetches for placements are.
    moving: Arc<Mutex<BTreeMap<WorkloadId, Meter>>>,
}

impl Fetcher {
    pub fn new(store: Arc<Store>, endpoint: Endpoint, line: watch::Receiver<Option<Connection>>) -> Fetcher {
        let pauses = Pauses::new(PAUSE_FIRST, PAUSE_MAX);
        Fetcher {
            store,
            endpoint,
            line,
            budget: Budget::new(transfer::BUDGET_BYTES),
            under_way: Arc::default(),
            pauses,
            paces: Paces::default(),
            dialled: Dialled::default(),
            moving: Arc::default(),
        }
    }

    /// What is being brought for placements right now.
    pub fn moving(&self) -> BTreeMap<WorkloadId, Progress> {
        let moving = self.moving.lock().expect("nobody panics holding it");
        moving.iter().map(|(workload, meter)| (workload.clone(), meter.read())).collect()
    }

    /// Has a version here, whole. What came over the line is told in the answer; nothing where it was here.
    pub async fn fetch(
        &self,
        version: VersionId,
        workload: Option<&WorkloadId>,
        watcher: Option<watch::Sender<Progress>>,
    ) -> Result<Option<TransferSeen>, Outcome> {
        let turn = Turn::of(&self.under_way, version);
        let _turn = turn.lock.lock().await;
        let watcher = watcher.map(Arc::new);
        let mut pauses = self.pauses.clone();
        let mut attempts = 0;
        let mut first: Option<String> = None;
        while !self.has(version).await? {
            let sources = match self.sources(version).await {
                Asked::Refused(why) => return Err(Outcome::Unprepared { why }),
                // The control plane is out of reach, or who has it is; that is nobody's failure.
                Asked::NoLine => {
                    tokio::time::sleep(PAUSE_FIRST).await;
                    continue;
                }
                Asked::From(sources) if sources.is_empty() => {
                    tokio::time::sleep(pauses.next()).await;
                    continue;
                }
                Asked::From(sources) => sources,
            };
            let fault = match self.fetch_from(version, sources, workload, watcher.clone()).await {
                Ok(seen) => return Ok(Some(seen)),
                Err(fault) => fault,
            };
            let Outcome::Unprepared { why } = &fault.outcome else { return Err(fault.outcome) };
            if fault.bytes > 0 {
                attempts = 0;
                pauses.reset();
            }
            attempts += 1;
            // Damage is set aside when it is found, and only the first attempt meets it.
            let first = first.get_or_insert_with(|| why.clone());
            if attempts >= ATTEMPTS_MAX {
                return Err(match first == why {
                    true => fault.outcome,
                    false => unprepared(format!("{why}; at first: {first}")),
                });
            }
            tracing::warn!(%version, why, came_bytes = fault.bytes, "a fetch failed; trying again");
            tokio::time::sleep(pauses.next()).await;
        }
        Ok(None)
    }

    /// [`Fetcher::fetch`] of what another process has found damaged and set aside.
    pub async fn fetch_again(
        &self,
        version: VersionId,
        workload: &WorkloadId,
    ) -> Result<Option<TransferSeen>, Outcome> {
        let store = self.store.clone();
        let looked = tokio::task::spawn_blocking(move || store.refresh()).await;
        looked.map_err(|error| unprepared(error.to_string()))?.map_err(|error| outcome(&error))?;
        self.fetch(version, Some(workload), None).await
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
    ) -> Result<TransferSeen, Fault> {
        let mut sources = Vec::new();
        let (mut faults, mut keys) = (Vec::new(), Vec::new());
        let mut first = None;
        for source in from {
            match self.dialled.to(&self.endpoint, &source.address).await {
                Ok(connection) => {
                    keys.push(source.address.key.clone());
                    first.get_or_insert(source.site.clone());
                    sources.push(transfer::Source {
                        dial: Paced { streams: Streams(connection), pace: self.paces.of(&source.site, source.limit) },
                        grant: source.grant.into_bytes(),
                        name: source.site.to_string(),
                    });
                }
                Err(error) => faults.push(format!("{}: {error}", source.site)),
            }
        }
        let Some(from) = first else { return Err(Fault { outcome: unprepared(faults.join("; ")), bytes: 0 }) };
        let mut options = FetchOptions { budget: self.budget.clone(), ..FetchOptions::default() };
        let moving = Moving { all: self.moving.clone(), workload: workload.cloned() };
        let meter = Mutex::new(Meter::new(format!("version {}", version.short())));
        let came = Arc::new(AtomicU64::new(0));
        let counted = came.clone();
        options.progress = Some(Arc::new(move |done_bytes, total_bytes| {
            counted.fetch_max(done_bytes, Ordering::Relaxed);
            let mut meter = meter.lock().expect("nobody panics holding it");
            meter.note(done_bytes, total_bytes);
            if let Some(watcher) = &watcher {
                let _ = watcher.send(meter.read());
            }
            moving.note(&meter);
        }));
        let begun = Instant::now();
        let fetched = transfer::fetch(&self.store, version, &sources, &options).await.map_err(|error| {
            // The next attempt dials anew.
            keys.iter().for_each(|key| self.dialled.forget(key));
            let outcome = match error {
                FetchError::Data(error) => outcome(&error),
                full @ FetchError::NoSpace { .. } => Outcome::NoSpace { why: full.to_string() },
                other => unprepared(other.to_string()),
            };
            Fault { outcome, bytes: came.load(Ordering::Relaxed) }
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

/// Connections to other sites that were used a moment ago, by the sites' keys: the last round of a move need not wait for
/// another handshake.
#[derive(Clone, Default)]
struct Dialled(Arc<Mutex<BTreeMap<String, (Instant, Connection)>>>);

impl Dialled {
    async fn to(&self, endpoint: &Endpoint, address: &PeerAddress) -> Result<Connection, NetError> {
        let before = self.lock().remove(&address.key).map(|(_, connection)| connection);
        let connection = match before.filter(|connection| connection.close_reason().is_none()) {
            Some(connection) => connection,
            None => tombolo_net::connect(endpoint, address, ALPN_DATA).await?,
        };
        let used = Instant::now();
        self.lock().insert(address.key.clone(), (used, connection.clone()));
        let (kept, key) = (Arc::downgrade(&self.0), address.key.clone());
        tokio::spawn(async move {
            tokio::time::sleep(DIALLED_FOR).await;
            let Some(kept) = kept.upgrade() else { return };
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.get(&key).is_some_and(|(last, _)| *last == used) {
                kept.remove(&key);
            }
        });
        Ok(connection)
    }

    fn forget(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Connection)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that failed, and how many verified bytes it has brought all the same.
struct Fault {
    outcome: Outcome,
    bytes: u64,
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Poll};

    use iroh::SecretKey;
    use iroh::endpoint::SendStream;
    use tempfile::TempDir;
    use tokio::io::AsyncWrite;
    use tombolo_api::stream::ALPN_AGENT;
    use tombolo_data::{AddOptions, StoreOptions};

    use super::*;

    const BYTES: usize = 6 << 20;

    async fn endpoint(alpn: &[u8]) -> Endpoint {
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = tombolo_net::BindOptions { listen, alpns: vec![alpn.to_vec()], relay: None };
        tombolo_net::bind(SecretKey::generate(), options).await.unwrap()
    }

    fn store(dir: &TempDir, name: &str) -> Arc<Store> {
        Arc::new(Store::open(dir.path().join(name), StoreOptions::default()).unwrap())
    }

    /// A version of bytes that neither compress nor repeat.
    fn version(dir: &TempDir, store: &Store) -> VersionId {
        let mut bytes = vec![0; BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        std::fs::write(dir.path().join("file"), bytes).unwrap();
        store.add_tree(dir.path().join("file"), &AddOptions::default()).unwrap().version
    }

    struct Open;

    impl transfer::Gate for Open {
        fn check(&self, _grant: &[u8], _version: VersionId) -> Result<(), String> {
            Ok(())
        }
    }

    /// A stream that breaks once its connection has carried so many bytes.
    struct Breaking {
        stream: SendStream,
        left: Arc<AtomicUsize>,
    }

    impl AsyncWrite for Breaking {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            // What still fits goes through, as it would over a real line.
            let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                (left > 0).then(|| left.saturating_sub(bytes.len()))
            });
            let Ok(left) = taken else { return Poll::Ready(Err(io::Error::other("the line is cut"))) };
            Pin::new(&mut self.stream).poll_write(cx, &bytes[..left.min(bytes.len())]).map_err(io::Error::other)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    /// A site that has the store, and whose connections carry so many bytes each. Answers its address, and how many
    /// connections there were.
    async fn bad_line(store: Arc<Store>, bytes: usize) -> (PeerAddress, Arc<AtomicUsize>) {
        let endpoint = endpoint(ALPN_DATA).await;
        let address = tombolo_net::address(&endpoint, None);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let Ok(connection) = incoming.await else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let left = Arc::new(AtomicUsize::new(bytes));
                while let Ok((stream, recv)) = connection.accept_bi().await {
                    let (store, stream) = (store.clone(), Breaking { stream, left: left.clone() });
                    tokio::spawn(async move { transfer::serve_stream(&store, stream, recv, &Open).await.map(drop) });
                }
            }
        });
        (address, connections)
    }

    /// A control plane that knows one source.
    async fn fetcher(store: Arc<Store>, from: PeerAddress) -> (Fetcher, watch::Sender<Option<Connection>>) {
        let (control, own) = (endpoint(ALPN_AGENT).await, endpoint(ALPN_DATA).await);
        let address = tombolo_net::address(&control, None);
        tokio::spawn(async move {
            let connection = control.accept().await.unwrap().await.unwrap();
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let Ok(Opening::Sources(_)) = frames::read(&mut recv).await else { panic!("it asks for sources only") };
                let site = "away".parse().unwrap();
                let grant = "granted".to_owned();
                let source = tombolo_api::stream::Source { site, address: from.clone(), grant, limit: None };
                frames::write(&mut send, &Sources::From(vec![source])).await.unwrap();
                let _ = send.finish();
            }
        });
        let line = tombolo_net::connect(&own, &address, ALPN_AGENT).await.unwrap();
        let (sender, line) = watch::channel(Some(line));
        let pauses = Pauses::new(Duration::from_millis(1), Duration::from_millis(10));
        (Fetcher { pauses, ..Fetcher::new(store, own, line) }, sender)
    }

    fn under_way(fetcher: &Fetcher) -> usize {
        fetcher.under_way.lock().unwrap().len()
    }

    #[tokio::test]
    async fn a_transfer_that_moves_is_not_given_up_however_often_its_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (there, here) = (store(&dir, "there"), store(&dir, "here"));
        let version = version(&dir, &there);
        let (address, connections) = bad_line(there, BYTES / 10).await;
        let (fetcher, _line) = fetcher(here.clone(), address).await;
        let seen = fetcher.fetch(version, None, None).await.unwrap().expect("it was not here");
        assert!(connections.load(Ordering::Relaxed) > ATTEMPTS_MAX as usize, "the line was too good");
        assert!(seen.raw_bytes < BYTES as u64 / 2, "{} bytes were fetched in the last attempt", seen.raw_bytes);
        assert!(here.has(version).unwrap());
        assert_eq!(under_way(&fetcher), 0);
    }

    #[tokio::test]
    async fn a_transfer_that_does_not_move_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (there, here) = (store(&dir, "there"), store(&dir, "here"));
        let version = version(&dir, &there);
        let (address, connections) = bad_line(there, 1_000).await;
        let (fetcher, _line) = fetcher(here, address).await;
        let outcome = fetcher.fetch(version, None, None).await.unwrap_err();
        assert!(matches!(&outcome, Outcome::Unprepared { why } if why.contains("away")), "{outcome}");
        assert_eq!(connections.load(Ordering::Relaxed), ATTEMPTS_MAX as usize);
        assert_eq!(under_way(&fetcher), 0);
    }

    #[tokio::test]
    async fn nothing_stays_under_way_of_a_fetch_that_ends_in_the_middle() {
        let dir = tempfile::tempdir().unwrap();
        let (there, here) = (store(&dir, "there"), store(&dir, "here"));
        let version = version(&dir, &there);
        let (address, _) = bad_line(there, BYTES * 2).await;
        let (fetcher, line) = fetcher(here.clone(), address).await;
        line.send_replace(None);
        let (mut first, mut second) =
            (Box::pin(fetcher.fetch(version, None, None)), Box::pin(fetcher.fetch(version, None, None)));
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(under_way(&fetcher), 1, "the other still waits");
        drop(second);
        assert_eq!(under_way(&fetcher), 0);
        // A manifest that can't be read ends it as well.
        std::fs::create_dir(here.dir().join("manifests").join(version.to_string())).unwrap();
        fetcher.fetch(version, None, None).await.unwrap_err();
        assert_eq!(under_way(&fetcher), 0);
    }
}
