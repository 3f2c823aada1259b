//! The agents' connections: they dial in, are known by their keys, report, and are told what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use ed25519_dalek::SigningKey;
use iroh::Endpoint;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{mpsc, watch};
use tombolo_api::frames::{self, FrameError};
use tombolo_api::stream::{
    ALPN_AGENT, CLOSE_FAULT, CLOSE_REPLACED, CLOSE_REVOKED, CLOSE_UNKNOWN, Call, Down, Hello, Opening, Peer,
    PeerAddress, Progress, Said, Up,
};
use tombolo_api::wire::AuditEntry;
use tombolo_core::sync::{Assignment, Finish, Intent, Observed, Outcome, Phase};
use tombolo_core::{Epoch, Name, SiteId, WorkloadId};

use crate::engine::{Engine, EngineGone};
use crate::refusals::{self, TurnedAway};
use crate::secrets::Secrets;
use crate::store::Write;

mod grants;
mod told;

use told::{News, Told};

/// Pieces of an agent's answer that may wait for a slow reader.
const SAID_MAX: usize = 256;
/// Heartbeats after which an agent is told everything again, also what it was told before.
const RESEND_EVERY: u64 = 10;

#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    engine: Engine,
    secrets: Arc<Secrets>,
    grant_key: SigningKey,
    connected: Mutex<BTreeMap<SiteId, Connected>>,
    /// Where sites were last, be they connected or not.
    known: Mutex<BTreeMap<SiteId, Whereabouts>>,
    /// What each site said last of the transfers that are under way there.
    moving: Mutex<BTreeMap<SiteId, BTreeMap<WorkloadId, Progress>>>,
    /// Rings when a site was revoked, or has said where it is: the others hear of it at once.
    sites: watch::Sender<()>,
    turned_away: Mutex<TurnedAway>,
    /// Answers what workloads log.
    tracking: OnceLock<axum::Router>,
}

#[derive(Clone)]
struct Connected {
    connection: Connection,
    address: PeerAddress,
}

/// What a site has said of where it can be reached.
#[derive(Clone, PartialEq)]
struct Whereabouts {
    address: PeerAddress,
    gateway: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the site {0} is not connected")]
    Unreachable(SiteId),
    #[error("the connection to {site} failed")]
    Broken {
        site: SiteId,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn broken(site: &SiteId, source: Box<dyn std::error::Error + Send + Sync>) -> CallError {
    CallError::Broken { site: site.clone(), source }
}

impl Hub {
    /// Accepts agents on the endpoint for as long as the process lives.
    pub fn start(engine: Engine, secrets: Arc<Secrets>, grant_key: SigningKey, endpoint: Endpoint) -> Hub {
        let hub = Hub::new(engine, secrets, grant_key);
        let accepting = hub.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let hub = accepting.clone();
                tokio::spawn(async move {
                    match incoming.await {
                        Ok(connection) => hub.attend(connection).await,
                        Err(error) => tracing::debug!(%error, "a connection was not made"),
                    }
                });
            }
        });
        hub
    }

    fn new(engine: Engine, secrets: Arc<Secrets>, grant_key: SigningKey) -> Hub {
        Hub(Arc::new(Inner {
            engine,
            secrets,
            grant_key,
            connected: Mutex::default(),
            known: Mutex::default(),
            moving: Mutex::default(),
            sites: watch::Sender::new(()),
            turned_away: Mutex::default(),
            tracking: OnceLock::new(),
        }))
    }

    /// Says who answers what workloads log; the first word counts. It checks their tokens itself.
    pub fn track_with(&self, tracking: axum::Router) {
        let _ = self.0.tracking.set(tracking);
    }

    /// Opens a stream to a site's agent with a call.
    async fn open(&self, site: &SiteId, call: &Call) -> Result<(SendStream, RecvStream), CallError> {
        let connected = self.lock().get(site).cloned().ok_or_else(|| CallError::Unreachable(site.clone()))?;
        let (mut send, recv) = connected.connection.open_bi().await.map_err(|error| broken(site, error.into()))?;
        frames::write(&mut send, call).await.map_err(|error| broken(site, error.into()))?;
        Ok((send, recv))
    }

    /// Sends a request about artifacts to the site that has them. Who may is decided before.
    pub async fn artifacts(&self, site: &SiteId, request: Request) -> Result<Response, CallError> {
        let (send, recv) = self.open(site, &Call::Artifacts).await?;
        tombolo_net::http::ask(send, recv, request).await.map_err(|source| broken(site, source))
    }

    /// Asks something of a site's agent; its answer comes piece by piece.
    pub async fn call(&self, site: &SiteId, call: Call) -> Result<mpsc::Receiver<Said>, CallError> {
        let (mut send, mut recv) = self.open(site, &call).await?;
        let _ = send.finish();
        let (said, answer) = mpsc::channel(SAID_MAX);
        tokio::spawn(async move {
            loop {
                let piece = match frames::read::<Said>(&mut recv).await {
                    Ok(piece) => piece,
                    Err(FrameError::Closed) => return,
                    Err(error) => Said::Failed(format!("the connection to the site broke: {error}")),
                };
                let last = matches!(piece, Said::Failed(_) | Said::Done(_));
                if said.send(piece).await.is_err() || last {
                    let _ = recv.stop(VarInt::from_u32(0));
                    return;
                }
            }
        });
        Ok(answer)
    }

    /// What is being brought for a placement right now.
    pub fn moving(&self, workload: &WorkloadId) -> Option<Progress> {
        let moving = self.0.moving.lock().expect("nobody panics while holding it");
        moving.values().find_map(|site| site.get(workload).cloned())
    }

    /// Ends the connection of a site that was revoked, and tells the others. One that is just being made ends by
    /// itself, see [`Hub::stream`].
    pub fn disconnect(&self, site: &SiteId) {
        if let Some(connected) = self.lock().remove(site) {
            close_revoked(&connected.connection);
            self.0.moving.lock().expect("nobody panics while holding it").remove(site);
        }
        self.0.sites.send_replace(());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SiteId, Connected>> {
        self.0.connected.lock().expect("nobody panics while holding it")
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<SiteId, Whereabouts>> {
        self.0.known.lock().expect("nobody panics while holding it")
    }

    /// Where sites serve endpoints, as they have said since this began.
    pub fn gateways(&self) -> BTreeMap<SiteId, String> {
        let known = self.known();
        known.iter().filter_map(|(site, at)| Some((site.clone(), at.gateway.clone()?))).collect()
    }

    /// One agent's connection, from its key's check to its end.
    async fn attend(&self, connection: Connection) {
        if connection.alpn() != ALPN_AGENT {
            connection.close(CLOSE_UNKNOWN.into(), b"this is a control plane; agents say tombolo/agent/1");
            return;
        }
        let key = tombolo_net::hex(&connection.remote_id());
        let asked = key.clone();
        let found = self.0.engine.look(move |world, _| {
            let site = world.sites.values().find(|site| site.key == asked)?;
            Some((site.info.id.clone(), site.revoked))
        });
        let site = match found.await {
            Ok(Some((site, false))) => site,
            Ok(Some((site, true))) => {
                self.record_turned_away(&key, format!("site {site}"), "it is revoked").await;
                return close_revoked(&connection);
            }
            Ok(None) => {
                self.record_turned_away(&key, "nobody".to_owned(), "no site has this key").await;
                return connection.close(CLOSE_UNKNOWN.into(), b"no site has this key; join first");
            }
            Err(EngineGone) => return,
        };
        while let Ok((send, recv)) = connection.accept_bi().await {
            let hub = self.clone();
            let (site, connection) = (site.clone(), connection.clone());
            tokio::spawn(async move {
                if let Err(error) = hub.stream(&site, &connection, send, recv).await {
                    tracing::debug!(%site, %error, "a stream ended");
                }
            });
        }
        self.forget(&site, &connection);
    }

    fn forget(&self, site: &SiteId, connection: &Connection) {
        let mut connected = self.lock();
        if connected.get(site).is_some_and(|known| known.connection.stable_id() == connection.stable_id()) {
            connected.remove(site);
            self.0.moving.lock().expect("nobody panics while holding it").remove(site);
        }
    }

    async fn stream(
        &self,
        site: &SiteId,
        connection: &Connection,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), FrameError> {
        let opening = frames::read(&mut recv).await?;
        if let Opening::Sync(hello) = &opening {
            self.greet(site, connection, hello);
        }
        // Asked after the connection is among those that `disconnect` ends: a site that is revoked at any time
        // after its key was checked is either seen here or found there.
        if self.is_revoked(site).await {
            self.forget(site, connection);
            close_revoked(connection);
            return Ok(());
        }
        match opening {
            Opening::Sync(_) => {
                let ended = self.sync(site, connection, send, recv).await;
                self.forget(site, connection);
                connection.close(CLOSE_FAULT.into(), b"the sync stream ended");
                ended
            }
            Opening::Sources(version) => {
                let sources = self.sources(site, version).await;
                frames::write(&mut send, &sources).await?;
                let _ = send.finish();
                Ok(())
            }
            Opening::Track => {
                let Some(tracking) = self.0.tracking.get() else { return Ok(()) };
                let served = tombolo_net::http::serve(send, recv, tracking.clone()).await;
                served.map_err(|error| FrameError::Io(std::io::Error::other(error)))
            }
        }
    }

    /// True also where it can't be known: the process is stopping then.
    async fn is_revoked(&self, site: &SiteId) -> bool {
        let site = site.clone();
        let asked = self.0.engine.look(move |world, _| world.sites.get(&site).is_none_or(|site| site.revoked));
        asked.await.unwrap_or(true)
    }

    fn greet(&self, site: &SiteId, connection: &Connection, hello: &Hello) {
        tracing::info!(%site, version = hello.version, "agent connected");
        // Others dial it by the key that it has proved to hold, whatever it says.
        let address = PeerAddress { key: tombolo_net::hex(&connection.remote_id()), ..hello.address.clone() };
        let whereabouts = Whereabouts { address: address.clone(), gateway: hello.gateway.clone() };
        let before = self.known().insert(site.clone(), whereabouts.clone());
        if before != Some(whereabouts) {
            self.0.sites.send_replace(());
        }
        let now = Connected { connection: connection.clone(), address };
        let before = self.lock().insert(site.clone(), now);
        if let Some(before) = before.filter(|before| before.connection.stable_id() != connection.stable_id()) {
            before.connection.close(CLOSE_REPLACED.into(), b"the agent has connected again");
        }
    }

    /// Reports come up, desired state goes down, until one side is gone.
    async fn sync(
        &self,
        site: &SiteId,
        connection: &Connection,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), FrameError> {
        let mut wakes = self.0.engine.site_wakes(site);
        let mut sites = self.0.sites.subscribe();
        let (up, mut reports) = mpsc::channel::<Up>(4);
        let reader = tokio::spawn(async move {
            loop {
                let report = frames::read(&mut recv).await?;
                if up.send(report).await.is_err() {
                    return Ok::<(), FrameError>(());
                }
            }
        });
        let mut told = Told::default();
        let mut answers = 0;
        let mut left = Vec::new();
        let ended = loop {
            let observed = tokio::select! {
                report = reports.recv() => match report {
                    Some(up) => {
                        answers = up.number;
                        if up.number.is_multiple_of(RESEND_EVERY) {
                            told = Told::default();
                        }
                        let observed = up.report.observed.clone();
                        left.clone_from(&up.report.left);
                        match self.take(site, connection.stable_id(), up).await {
                            Ok(true) => {}
                            // Another connection speaks for the site now, or none may.
                            Ok(false) | Err(EngineGone) => break Ok(()),
                        }
                        wakes.mark_unchanged();
                        observed
                    }
                    None => break reader.await.unwrap_or(Ok(())),
                },
                woken = wakes.changed() => match woken {
                    Ok(()) => Vec::new(),
                    Err(_) => break Ok(()),
                },
                // Never an error: the hub holds the sender.
                _ = sites.changed() => Vec::new(),
            };
            let Some(parts) = self.down(site, answers, observed, std::mem::take(&mut left), &mut told).await else {
                break Ok(());
            };
            let mut written = Ok(());
            for part in parts {
                written = frames::write(&mut send, &part).await;
                if written.is_err() {
                    break;
                }
            }
            if written.is_err() {
                break written;
            }
        };
        let _ = send.finish();
        ended
    }

    /// Takes a report in, unless the connection that brought it speaks for the site no more: whether it did.
    async fn take(&self, site: &SiteId, connection: usize, up: Up) -> Result<bool, EngineGone> {
        let (hub, site) = (self.clone(), site.clone());
        let change = self.0.engine.change(move |world, now| {
            // Asked here, where reports follow one another: whoever connects later reports after this.
            let speaks = hub.lock().get(&site).is_some_and(|known| known.connection.stable_id() == connection);
            if speaks {
                world.report(&site, &up.report, now);
                hub.0.moving.lock().expect("nobody panics while holding it").insert(site, up.moving);
            }
            Ok::<_, std::convert::Infallible>((speaks, Vec::new()))
        });
        let Ok(speaks) = change.await?;
        Ok(speaks)
    }

    async fn down(
        &self,
        site: &SiteId,
        answers: u64,
        observed: Vec<Observed>,
        left: Vec<(WorkloadId, Epoch)>,
        told: &mut Told,
    ) -> Option<Vec<Down>> {
        let place = site.clone();
        let seen = observed.clone();
        let looked = self.0.engine.look(move |world, now| {
            let revoked = world.sites.values().filter(|site| site.revoked).map(|site| site.key.clone()).collect();
            (world.desired(&place, &seen), revoked, world.routes(), told::peers(world, &place), now)
        });
        let (mut desired, revoked, routes, mut peers, now) = looked.await.ok()?;
        {
            let known = self.known();
            let of = |peer: &Peer| known.get(&peer.site).filter(|at| at.address.key == peer.key);
            peers.iter_mut().for_each(|peer| peer.address = of(peer).map(|at| at.address.clone()));
        }
        // Of runs that are over the world knows nothing any more, but the store does.
        for (workload, epoch) in self.0.engine.settle_past(site, &observed).await {
            let over = |seen: &&Observed| matches!(seen.phase, Phase::Finished(_));
            match observed.iter().find(|seen| seen.workload == workload && seen.epoch == epoch).filter(over) {
                Some(_) => desired.settled.push((workload, epoch)),
                None => desired.assignments.push(Assignment { workload, epoch, intent: Intent::Stop }),
            }
        }
        // A state directory of such a run is of no use any more.
        let phase = || Phase::Finished(Box::new(Finish::without_running(Outcome::Stopped, now)));
        let left = left.into_iter().map(|(workload, epoch)| Observed { workload, epoch, phase: phase() });
        desired.forget.extend(self.0.engine.settle_past(site, &left.collect::<Vec<_>>()).await);
        desired.assignments.retain(|assignment| told.is_news(assignment));
        let mut secrets = BTreeMap::new();
        for assignment in &desired.assignments {
            if let Intent::Run(order) | Intent::Prepare(order) = &assignment.intent
                && !order.spec.secrets.is_empty()
            {
                secrets.insert(assignment.workload.clone(), self.secrets_of(&order.spec.secrets).await);
            }
        }
        let news = News { revoked: told.revoked(revoked), routes: told.routes(routes, peers) };
        let mut parts = told::parts(answers, desired, secrets, news);
        parts[0].now = Some(now);
        Some(parts)
    }

    /// Those of the named secrets that there are; the agent says which lack.
    async fn secrets_of(&self, names: &BTreeSet<Name>) -> BTreeMap<Name, String> {
        let mut opened = BTreeMap::new();
        for name in names {
            let Ok(Some(sealed)) = self.0.engine.store().secret(name).await else { continue };
            match self.0.secrets.open_sealed(name, &sealed) {
                Ok(plain) => {
                    opened.insert(name.clone(), String::from_utf8_lossy(&plain).into_owned());
                }
                Err(error) => tracing::error!(%name, %error, "a secret can't be opened"),
            }
        }
        opened
    }

    async fn record_turned_away(&self, key: &str, who: String, why: &str) {
        let admitted = {
            let mut turned_away = self.0.turned_away.lock().expect("nobody panics while holding it");
            turned_away.admit(key, Instant::now())
        };
        let Some(left_out) = admitted else { return };
        let detail = refusals::detail(Some(why.to_owned()), left_out);
        self.record(who, "connect", key.to_owned(), "refused", detail).await;
    }

    async fn record(&self, who: String, what: &str, on: String, outcome: &str, detail: Option<String>) {
        let (number, at) = (0, self.0.engine.now().0);
        let entry = AuditEntry { number, at, who, what: what.to_owned(), on, outcome: outcome.to_owned(), detail };
        let write = vec![Write::Audit(Box::new(entry))];
        let _ = self.0.engine.change(move |_, _| Ok::<_, std::convert::Infallible>(((), write))).await;
    }
}

fn close_revoked(connection: &Connection) {
    connection.close(CLOSE_REVOKED.into(), b"this site is revoked");
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use tombolo_core::sync::{Replicas, Report};
    use tombolo_core::world::{SiteRecord, VersionRecord};
    use tombolo_core::{Digest, VersionId};

    use super::*;
    use crate::store::sqlite::SqliteStore;

    const ALPN: &[u8] = b"t";

    async fn endpoint() -> Endpoint {
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = tombolo_net::BindOptions { listen, alpns: vec![ALPN.to_vec()], relay: None };
        tombolo_net::bind(SecretKey::generate(), options).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_was_replaced_reports_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&dir.path().join("t.db")).await.unwrap());
        let engine = Engine::start(store).await.unwrap();
        let secrets = Arc::new(Secrets::open(dir.path()).unwrap());
        let hub = Hub::new(engine.clone(), secrets, SigningKey::from_bytes(&[7; 32]));
        let (site, version) = (SiteId::new("home").unwrap(), VersionId(Digest([1; 32])));
        let record: SiteRecord = serde_json::from_value(serde_json::json!({
            "info": { "id": "home", "capacity": {} }, "key": "k", "joined": 0,
        }))
        .unwrap();
        let known: VersionRecord = serde_json::from_value(serde_json::json!({
            "bytes": 1, "files": 1, "residency": [], "at": 0, "replicas": [],
        }))
        .unwrap();
        let set = engine.change(move |world, _| {
            world.sites.insert(record.info.id.clone(), record);
            world.versions.insert(version, known);
            Ok::<_, std::convert::Infallible>(((), Vec::new()))
        });
        let Ok(()) = set.await.unwrap();

        let (here, there) = (endpoint().await, endpoint().await);
        let address = tombolo_net::address(&here, None);
        let connect = async || {
            let (dialled, accepted) = tokio::join!(tombolo_net::connect(&there, &address, ALPN), async {
                here.accept().await.unwrap().await.unwrap()
            });
            (dialled.unwrap(), accepted)
        };
        let ((_a, first), (_b, second)) = (connect().await, connect().await);
        let info = serde_json::from_value(serde_json::json!({ "id": "home", "capacity": {} })).unwrap();
        let hello = Hello { version: "t".to_owned(), address: address.clone(), info, gateway: None };
        let take = async |connection: &Connection, versions: &[VersionId]| {
            let report = Report { replicas: Replicas::All(versions.to_vec()), ..Report::default() };
            let up = Up { number: 1, report, moving: BTreeMap::new() };
            hub.take(&site, connection.stable_id(), up).await.unwrap()
        };
        let held = async || engine.look(move |world, _| !world.versions[&version].replicas.is_empty()).await.unwrap();

        hub.greet(&site, &first, &hello);
        assert!(take(&first, &[version]).await && held().await);
        hub.greet(&site, &second, &hello);
        assert!(!take(&first, &[]).await && held().await, "an old report took the replica away");
        assert!(take(&second, &[]).await && !held().await);
        hub.disconnect(&site);
        assert!(!take(&second, &[version]).await && !held().await, "a site that was cut off reports nothing");
    }
}
