//! Gateways of several sites in one process, with real sockets between clients, gateways and services.

mod edge;
mod ending;
mod passing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use iroh::SecretKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tombolo_api::stream::{ALPN_GATEWAY, Peer, PeerAddress};
use tombolo_core::routes::{Access, Pass, Replica, Route};
use tombolo_core::spec::{Command, Kind, Service, WorkloadSpec};
use tombolo_core::sync::{Order, Phase};
use tombolo_core::{Digest, EndpointId, Millis, Timestamp, VersionId};

use super::*;

/// Far longer than anything here takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes within a minute")
}

struct Site {
    name: SiteId,
    gateway: Gateway,
    /// Where clients come in.
    at: SocketAddr,
    address: PeerAddress,
    endpoint: Endpoint,
    _dir: tempfile::TempDir,
}

async fn site(name: &str, limits: Limits) -> Site {
    let options = tombolo_net::BindOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        alpns: vec![ALPN_GATEWAY.to_vec()],
        relay: None,
    };
    let endpoint = tombolo_net::bind(SecretKey::generate(), options).await.unwrap();
    let (dir, name) = (tempfile::tempdir().unwrap(), SiteId::new(name).unwrap());
    let gateway = Gateway::new(name.clone(), dir.path(), endpoint.clone(), ControlTime::default(), limits);
    let listener = listen(dir.path(), None).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(gateway.clone().serve(listener));
    let (accepting, attending) = (endpoint.clone(), gateway.clone());
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            if let Ok(connection) = incoming.await {
                tokio::spawn(attending.clone().attend(connection));
            }
        }
    });
    let address = tombolo_net::address(&endpoint, None);
    Site { name, gateway, at, address, endpoint, _dir: dir }
}

/// Sites that know each other.
async fn sites<const N: usize>(names: [&str; N]) -> [Site; N] {
    let mut all = Vec::new();
    for name in names {
        all.push(site(name, Limits::default()).await);
    }
    for one in &all {
        let others = all.iter().filter(|other| other.name != one.name);
        let peers = others.map(|other| Peer {
            site: other.name.clone(),
            key: other.address.key.clone(),
            latency: Millis(5),
            address: Some(other.address.clone()),
        });
        one.gateway.learn(RoutesNews { peers: Some(peers.collect()), ..RoutesNews::default() });
    }
    all.try_into().ok().unwrap()
}

/// `p/s`, with replicas as `s@a s-2@b`; every one is under its first epoch.
fn route(replicas: &str) -> Route {
    let replica = |text: &str| {
        let (name, at) = text.split_once('@').unwrap();
        Replica { workload: format!("p-1/{name}").parse().unwrap(), epoch: Epoch(1), site: SiteId::new(at).unwrap() }
    };
    let replicas = replicas.split_whitespace().map(replica).collect();
    Route { access: Access::Public, replicas, ..Route::default() }
}

impl Site {
    fn know(&self, route: Route) {
        let id: EndpointId = "p/s".parse().unwrap();
        self.gateway.learn(RoutesNews { set: vec![(id, route)], ..RoutesNews::default() });
    }

    /// A placement of this site that answers at an address.
    fn has(&self, name: &str, address: SocketAddr, stopping: bool) {
        let workload: WorkloadId = format!("p-1/{name}").parse().unwrap();
        self.gateway.note(&workload, Some(&entry(address, stopping)));
    }

    fn drain(&self, name: &str, drain_ms: u64) -> impl Future<Output = ()> + use<> {
        let workload: WorkloadId = format!("p-1/{name}").parse().unwrap();
        let mut entry = entry("127.0.0.1:1".parse().unwrap(), true);
        if let Some(order) = &mut entry.order
            && let Kind::Service(service) = &mut order.spec.kind
        {
            service.drain = Millis(drain_ms);
        }
        self.gateway.drain(&workload, Epoch(1), Some(&entry)).expect("it answers here")
    }

    async fn client(&self) -> http1::SendRequest<Body> {
        let stream = TcpStream::connect(self.at).await.unwrap();
        let (sender, exchange) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(exchange.with_upgrades());
        sender
    }

    async fn ask(&self, request: Request<Body>) -> Response<Incoming> {
        within(self.client().await.send_request(request)).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        whole(self.ask(request("GET", path, Body::empty())).await).await
    }

    async fn post(&self, body: Body) -> (StatusCode, String) {
        whole(self.ask(request("POST", "/p/s/", body)).await).await
    }
}

fn request(method: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(path).header("host", "gate").body(body).unwrap()
}

async fn whole(answer: Response<Incoming>) -> (StatusCode, String) {
    let status = answer.status();
    let body = within(to_bytes(Body::new(answer.into_body()), usize::MAX)).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn entry(address: SocketAddr, stopping: bool) -> Entry {
    let spec = WorkloadSpec::new(Kind::Service(Service::default()), Command::Run("true".into()));
    let order = Order { spec, code: VersionId(Digest([0; 32])), inputs: BTreeMap::new(), state: None };
    let phase = Phase::Ready { since: Timestamp(0), address: address.to_string() };
    Entry { epoch: Epoch(1), order: Some(order), phase, stopping, held: false, next: None }
}

/// A service that answers what `f` says.
async fn service<F, R>(f: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let f = f.clone();
            let answer = service_fn(move |request| {
                let answer = f(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer).await;
            });
        }
    });
    at
}

/// One that says a word, when it has heard all.
async fn says(word: &'static str) -> SocketAddr {
    let answer = move |request: Request<Incoming>| async move {
        to_bytes(Body::new(request.into_body()), usize::MAX).await.unwrap();
        Response::new(Body::from(word))
    };
    service(answer).await
}

async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Takes each connection, reads something of it, and hangs up; how often.
async fn hangs_up() -> (SocketAddr, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, count) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            *counted.lock().unwrap() += 1;
        }
    });
    (at, count)
}
