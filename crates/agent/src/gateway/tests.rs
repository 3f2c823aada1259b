//! Gateways of several sites in one process, with real sockets between clients, gateways and services.

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

#[tokio::test]
async fn an_endpoint_is_found_by_path_and_by_host() {
    let [a] = sites(["a"]).await;
    let seen = service(|request| async move {
        let get = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        let prefix = get("x-forwarded-prefix");
        Response::new(Body::from(format!("{} {prefix} {}", request.uri(), get("x-forwarded-for"))))
    });
    a.has("s", seen.await, false);
    a.know(route("s@a"));
    assert_eq!(a.get("/p/s/x/y?q=1").await.1, "/x/y?q=1 /p/s 127.0.0.1");
    assert_eq!(a.get("/p/s").await.1, "/ /p/s 127.0.0.1");
    assert_eq!(a.get("/p/s?q").await.1, "/?q /p/s 127.0.0.1");
    for host in ["s.p", "s.p.example:80", "S.P.localhost"] {
        let asked = Request::get("/x").header("host", host).body(Body::empty()).unwrap();
        assert_eq!(whole(a.ask(asked).await).await.1, "/x - 127.0.0.1", "{host}");
    }
    for path in ["/", "/p", "/p/t/", "/q/s/", "/P/s", "/-/x"] {
        let (status, body) = a.get(path).await;
        assert!(status == StatusCode::NOT_FOUND && body.contains("no-endpoint"), "{path}: {body}");
    }
    let (status, body) = a.get("/-/health").await;
    assert!(status == StatusCode::OK && body.contains(r#""answering":1"#), "{body}");

    // To one that knows where it is served the path goes as it was asked for, and nothing was taken off it.
    a.know(Route { keeps_prefix: true, ..route("s@a") });
    for path in ["/p/s/x/y?q=1", "/p/s", "/p/s?q"] {
        assert_eq!(a.get(path).await.1, format!("{path} - 127.0.0.1"));
    }
    assert_eq!(a.get("/q/s/").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bodies_stream_both_ways_here_and_from_site_to_site() {
    let [a, b] = sites(["a", "b"]).await;
    let echo = service(|request| async move { Response::new(Body::new(request.into_body())) }).await;
    b.has("s", echo, false);
    for one in [&a, &b] {
        one.know(route("s@b"));
        // A first piece comes back before the second is sent, so nothing collects them.
        let (pieces, coming) = mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
        let body = Body::from_stream(futures_util::stream::unfold(coming, |mut coming| async move {
            Some((coming.recv().await?, coming))
        }));
        pieces.send(Ok("first".into())).await.unwrap();
        let mut answer = one.ask(request("POST", "/p/s/", body)).await.into_body();
        let mut next = async || {
            let frame =
                within(std::future::poll_fn(|cx| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut answer), cx)));
            frame.await.map(|frame| frame.unwrap().into_data().unwrap())
        };
        assert_eq!(next().await.unwrap(), "first");
        pieces.send(Ok("second".into())).await.unwrap();
        assert_eq!(next().await.unwrap(), "second");
        drop(pieces);
        assert!(next().await.is_none());
        let long: String = (0..1_000_000).map(|i| format!("{i:09}\n")).collect();
        let (status, came) = one.post(Body::from(long.clone())).await;
        assert!(status == StatusCode::OK && came == long, "{status}, {} bytes", came.len());
        assert_eq!(one.post(Body::from("short")).await.1, "short");
    }
}

#[tokio::test]
async fn web_sockets_and_other_upgrades_go_through() {
    let [a, b] = sites(["a", "b"]).await;
    let echo = service(|mut request| async move {
        if request.headers().get("upgrade").is_none_or(|to| to != "echo") {
            return Response::builder().status(400).body(Body::empty()).unwrap();
        }
        let client = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(client.await.unwrap()));
            tokio::io::copy(&mut read, &mut write).await
        });
        let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        answer.body(Body::empty()).unwrap()
    });
    b.has("s", echo.await, false);
    for one in [&a, &b] {
        one.know(route("s@b"));
        let mut asked = request("GET", "/p/s/", Body::empty());
        asked.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        asked.headers_mut().insert("upgrade", "echo".parse().unwrap());
        let answer = one.ask(asked).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()["upgrade"]), (101, &"echo".parse().unwrap()));
        let mut line = TokioIo::new(within(hyper::upgrade::on(answer)).await.unwrap());
        for word in ["one", "two"] {
            line.write_all(word.as_bytes()).await.unwrap();
            let mut back = [0; 3];
            within(line.read_exact(&mut back)).await.unwrap();
            assert_eq!(&back, word.as_bytes());
        }
        // Without it the service says what it says.
        assert_eq!(one.get("/p/s/").await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers() {
    let [a, b] = sites(["a", "b"]).await;
    let served = service(|request| async move {
        let version = format!("{:?}", request.version());
        let te = request.headers().get("te").map_or("-", |te| te.to_str().unwrap()).to_owned();
        let body = to_bytes(Body::new(request.into_body()), 1000).await.unwrap();
        let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
        let frames =
            [Ok::<_, std::io::Error>(hyper::body::Frame::data(body)), Ok(hyper::body::Frame::trailers(trailers))];
        let answer = Response::builder().header("x-version", version).header("x-te", te);
        answer.body(Body::new(Frames(frames.into_iter().collect()))).unwrap()
    });
    b.has("s", served.await, false);
    for one in [&a, &b] {
        one.know(route("s@b"));
        let stream = TcpStream::connect(one.at).await.unwrap();
        let (mut sender, exchange) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(exchange);
        for kind in ["application/grpc+proto", "text/plain"] {
            let asked = Request::post(format!("http://{}/p/s/Method", one.at));
            let asked = asked.header("content-type", kind).header("te", "trailers").body(Body::from("word")).unwrap();
            let answer = within(sender.send_request(asked)).await.unwrap();
            let version = if kind == "text/plain" { "HTTP/1.1" } else { "HTTP/2.0" };
            assert_eq!(
                (&answer.headers()["x-version"], &answer.headers()["x-te"]),
                (&version.parse().unwrap(), &"trailers".parse().unwrap())
            );
            let (mut body, mut data, mut status) = (answer.into_body(), Vec::new(), None);
            while let Some(frame) =
                within(std::future::poll_fn(|cx| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)))
                    .await
            {
                match frame.unwrap().into_data() {
                    Ok(bytes) => data.extend(bytes),
                    Err(frame) => status = frame.into_trailers().ok().map(|trailers| trailers["grpc-status"].clone()),
                }
            }
            assert_eq!(data, b"word");
            assert!(kind == "text/plain" || status.is_some_and(|status| status == "0"), "no trailers came of {kind}");
        }
    }
}

struct Frames(std::collections::VecDeque<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>);

impl hyper::body::Body for Frames {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

#[tokio::test]
async fn what_can_t_be_reached_is_passed_over_and_nothing_is_done_twice() {
    let [a, b] = sites(["a", "b"]).await;
    a.has("s", nobody().await, false);
    let there = says("there").await;
    b.has("s-2", there, false);
    a.know(route("s@a s-2@b"));
    // Nothing was sent to the dead one, so that whatever it is may go to the other, however long.
    assert_eq!(a.get("/p/s/").await, (StatusCode::OK, "there".to_owned()));
    assert_eq!(a.post(Body::from("x".repeat(1 << 20))).await, (StatusCode::OK, "there".to_owned()));

    // This one has taken the request, and may have done what was asked.
    let (silent, count) = hangs_up().await;
    a.has("s-3", silent, false);
    a.know(route("s-3@a s-2@b"));
    assert_eq!(a.get("/p/s/").await, (StatusCode::OK, "there".to_owned()));
    assert_eq!(*count.lock().unwrap(), 1);
    a.know(route("s-3@a"));
    let (status, body) = a.post(Body::from("x")).await;
    assert!(status == StatusCode::BAD_GATEWAY && body.contains("may have been done"), "{status} {body}");
    assert_eq!(*count.lock().unwrap(), 2, "a POST is sent once");
    let (status, _) = a.get("/p/s/").await;
    assert_eq!((status, *count.lock().unwrap()), (StatusCode::BAD_GATEWAY, 3), "there is nowhere else");

    // Nobody is left; a service whose replicas are all gone says so at once.
    a.know(route("s@a"));
    let answer = a.ask(request("GET", "/p/s/", Body::empty())).await;
    assert_eq!(answer.headers()["retry-after"], "5");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(whole(answer).await.0, StatusCode::SERVICE_UNAVAILABLE);
    a.know(Route { state: "p-1/s is queued".into(), ..route("") });
    assert!(a.get("/p/s/").await.1.contains("p-1/s is queued"));
}

#[tokio::test]
async fn a_site_that_is_gone_is_passed_over() {
    let [a, b, c] = sites(["a", "b", "c"]).await;
    c.has("s-2", says("c").await, false);
    a.know(route("s@b s-2@c"));
    b.endpoint.close().await;
    assert_eq!(a.get("/p/s/").await, (StatusCode::OK, "c".to_owned()));
}

#[tokio::test]
async fn requests_wait_in_a_gap_and_go_on_over_the_same_connection() {
    let [a, b] = sites(["a", "b"]).await;
    a.know(Route { waits: true, ..route("") });
    let mut client = a.client().await;
    let mut asked = tokio::spawn(async move {
        let first = client.send_request(request("POST", "/p/s/", Body::from("x".repeat(1 << 20)))).await.unwrap();
        let first = whole(first).await;
        client.ready().await.unwrap();
        (first, whole(client.send_request(request("GET", "/p/s/", Body::empty())).await.unwrap()).await)
    });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut asked).await.is_err(), "nobody answers yet");
    b.has("s", says("there").await, false);
    a.know(route("s@b"));
    let there = (StatusCode::OK, "there".to_owned());
    assert_eq!(within(asked).await.unwrap(), (there.clone(), there));
}

#[tokio::test]
async fn not_too_many_wait_and_not_too_long() {
    let limits = Limits { wait_max: Duration::from_millis(400), waiting_max: 1 };
    let a = site("a", limits).await;
    a.know(Route { waits: true, ..route("") });
    let began = std::time::Instant::now();
    let both = tokio::join!(a.get("/p/s/"), a.get("/p/s/"));
    let mut why = [both.0, both.1].map(|(status, body)| {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        body.contains("too many")
    });
    why.sort();
    assert_eq!(why, [false, true], "one waits in vain, and one not at all");
    assert!(began.elapsed() >= Duration::from_millis(400));
}

/// Answers when it is let go; says when it has been asked.
async fn slow() -> (SocketAddr, mpsc::Receiver<oneshot::Sender<()>>) {
    let (tell, asked) = mpsc::channel(8);
    let at = service(move |_| {
        let tell = tell.clone();
        async move {
            let (go, gone) = oneshot::channel();
            tell.send(go).await.unwrap();
            let _ = gone.await;
            Response::new(Body::from("slow"))
        }
    });
    (at.await, asked)
}

#[tokio::test]
async fn what_is_under_way_is_finished_before_a_placement_ends() {
    let [a, b] = sites(["a", "b"]).await;
    let (at, mut asked) = slow().await;
    a.has("s", at, false);
    b.has("s-2", says("there").await, false);
    b.know(route("s@a"));
    a.know(route("s@a"));
    // One through its own gateway and one from elsewhere.
    let (near, far) = (a.client().await.send_request(request("GET", "/p/s/", Body::empty())), b.client().await);
    let mut far = far;
    let far = far.send_request(request("POST", "/p/s/", Body::from("x")));
    let (near, far) = (tokio::spawn(near), tokio::spawn(far));
    let mut go = [within(asked.recv()).await.unwrap(), within(asked.recv()).await.unwrap()];
    let mut drained = tokio::spawn(a.drain("s", 60_000));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut drained).await.is_err());
    // Who comes now goes to what takes its place, also from a gateway that has not heard of that.
    a.know(route("s-2@b"));
    for one in [&a, &b] {
        assert_eq!(one.get("/p/s/").await, (StatusCode::OK, "there".to_owned()));
        assert_eq!(one.post(Body::from("x".repeat(1 << 20))).await, (StatusCode::OK, "there".to_owned()));
    }
    for (go, answer) in
        std::mem::replace(&mut go, [oneshot::channel().0, oneshot::channel().0]).into_iter().zip([near, far])
    {
        assert!(!drained.is_finished());
        go.send(()).unwrap();
        assert_eq!(whole(within(answer).await.unwrap().unwrap()).await.1, "slow");
    }
    within(drained).await.unwrap();
}

#[tokio::test]
async fn a_drain_has_its_limit_and_can_be_hurried() {
    let [a] = sites(["a"]).await;
    let (at, mut asked) = slow().await;
    a.know(route("s@a"));
    for hurried in [false, true] {
        a.has("s", at, false);
        let answer = a.client().await.send_request(request("GET", "/p/s/", Body::empty()));
        let answer = tokio::spawn(answer);
        let go = within(asked.recv()).await.unwrap();
        let began = std::time::Instant::now();
        let drained = tokio::spawn(a.drain("s", if hurried { 600_000 } else { 300 }));
        if hurried {
            a.gateway.hurry(&"p-1/s".parse().unwrap(), Epoch(1));
        }
        within(drained).await.unwrap();
        assert!(hurried || began.elapsed() >= Duration::from_millis(300));
        drop(go);
        within(answer).await.unwrap().unwrap();
        a.gateway.note(&"p-1/s".parse().unwrap(), None);
    }
}

#[tokio::test]
async fn streams_are_waited_for_where_something_answers_beside_them() {
    let [a, b] = sites(["a", "b"]).await;
    let events = service(|_| async move {
        let first = futures_util::stream::once(async { Ok::<_, std::io::Error>("data: 1\n\n") });
        let all = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        Response::builder().header("content-type", "text/event-stream").body(Body::from_stream(all)).unwrap()
    });
    let at = events.await;
    for successor in [false, true] {
        a.has("s", at, false);
        a.know(route("s@a"));
        let mut answer = a.ask(request("GET", "/p/s/", Body::empty())).await.into_body();
        let first = std::future::poll_fn(|cx| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut answer), cx));
        assert_eq!(within(first).await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
        a.know(if successor { route("s-2@b") } else { Route { waits: true, ..route("") } });
        let mut drained = tokio::spawn(a.drain("s", 60_000));
        if successor {
            assert!(tokio::time::timeout(Duration::from_millis(300), &mut drained).await.is_err());
            drop(answer);
        }
        within(drained).await.unwrap();
        a.gateway.note(&"p-1/s".parse().unwrap(), None);
    }
    drop(b);
}

#[tokio::test]
async fn nobody_sends_on_what_was_sent_on() {
    let [a, b, c] = sites(["a", "b", "c"]).await;
    // Each of two believes that the other has it.
    a.know(route("s@b"));
    b.know(route("s@c"));
    c.know(route("s@b"));
    for body in ["x".to_owned(), "x".repeat(1 << 20)] {
        let (status, said) = a.post(Body::from(body)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    }
    // It is in the gap of a move, as only its own site knows: then it is waited for.
    b.know(Route { waits: true, ..route("") });
    let at = a.at;
    let asked = tokio::spawn(async move {
        let (mut sender, exchange) =
            http1::handshake(TokioIo::new(TcpStream::connect(at).await.unwrap())).await.unwrap();
        tokio::spawn(exchange);
        whole(sender.send_request(request("POST", "/p/s/", Body::from("x"))).await.unwrap()).await
    });
    c.has("s", says("c").await, false);
    b.know(route("s@c"));
    assert_eq!(within(asked).await.unwrap(), (StatusCode::OK, "c".to_owned()));
}

#[tokio::test]
async fn only_sites_are_served() {
    let [a, b] = sites(["a", "b"]).await;
    b.has("s", says("b").await, false);
    a.know(route("s@b"));
    b.know(route("s@b"));
    assert_eq!(a.get("/p/s/").await.0, StatusCode::OK);
    let stranger = site("a", Limits::default()).await;
    let peer =
        Peer { site: b.name.clone(), key: b.address.key.clone(), latency: Millis(1), address: Some(b.address.clone()) };
    stranger.gateway.learn(RoutesNews { peers: Some(vec![peer]), ..RoutesNews::default() });
    stranger.know(route("s@b"));
    assert_ne!(stranger.get("/p/s/").await.0, StatusCode::OK);
    // Who is revoked is cut off, from one moment to the next.
    b.gateway.learn(RoutesNews { peers: Some(Vec::new()), ..RoutesNews::default() });
    assert_ne!(a.get("/p/s/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_token_opens_one_endpoint_and_stays_at_the_gateway() {
    let [a] = sites(["a"]).await;
    let seen = service(|request| async move {
        let get = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        Response::new(Body::from(format!("{} {}", get("authorization"), get("x-tombolo-token"))))
    });
    a.has("s", seen.await, false);
    let far = Timestamp(i64::MAX);
    let pass = |token: &str, expires| Pass { hash: blake3::hash(token.as_bytes()).to_hex().to_string(), expires };
    let passes = vec![pass("good", far), pass("old", Timestamp(1))];
    let with = |access| Route { access, passes: passes.clone(), ..route("s@a") };
    let ask = async |name: &str, value: &str| {
        let mut asked = request("GET", "/p/s/", Body::empty());
        asked.headers_mut().insert(http_name(name), value.parse().unwrap());
        asked.headers_mut().insert("x-other", "1".parse().unwrap());
        whole(a.ask(asked).await).await
    };
    a.know(with(Access::Token));
    assert_eq!(ask("authorization", "Bearer good").await, (StatusCode::OK, "- -".to_owned()));
    assert_eq!(ask("x-tombolo-token", "good").await, (StatusCode::OK, "- -".to_owned()));
    for (name, value) in
        [("authorization", "Bearer bad"), ("authorization", "Bearer old"), ("authorization", "Basic x"), ("x-y", "z")]
    {
        let (status, body) = ask(name, value).await;
        assert!(
            status == StatusCode::UNAUTHORIZED && body.contains("tombolo endpoint token p/s"),
            "{name} {value}: {body}"
        );
    }
    let mut both = request("GET", "/p/s/", Body::empty());
    both.headers_mut().insert("authorization", "Basic own".parse().unwrap());
    both.headers_mut().insert("x-tombolo-token", "good".parse().unwrap());
    assert_eq!(whole(a.ask(both).await).await.1, "Basic own -", "the service has a use of its own for it");
    a.know(with(Access::TokenPassed));
    assert_eq!(ask("authorization", "Bearer good").await.1, "Bearer good -");
    a.know(with(Access::Public));
    assert_eq!(ask("authorization", "Bearer whatever").await.1, "Bearer whatever -");
}

fn http_name(name: &str) -> axum::http::HeaderName {
    name.parse().unwrap()
}

#[tokio::test]
async fn heads_have_a_limit() {
    let [a] = sites(["a"]).await;
    a.has("s", says("here").await, false);
    a.know(route("s@a"));
    let with = |bytes: usize| {
        let mut asked = request("GET", "/p/s/", Body::empty());
        asked.headers_mut().insert("x-long", "x".repeat(bytes).parse().unwrap());
        asked
    };
    assert_eq!(a.ask(with(32 << 10)).await.status(), StatusCode::OK);
    assert_eq!(a.ask(with(80 << 10)).await.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn the_address_stays() {
    let dir = tempfile::tempdir().unwrap();
    let first = listen(dir.path(), None).await.unwrap().local_addr().unwrap();
    let again = listen(dir.path(), None).await.unwrap();
    assert_eq!(again.local_addr().unwrap(), first);
    // Taken by another program: somewhere else, and there from now on.
    let second = listen(dir.path(), None).await.unwrap().local_addr().unwrap();
    assert_ne!(second, first);
    drop(again);
    assert_eq!(listen(dir.path(), None).await.unwrap().local_addr().unwrap(), second);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert!(listen(dir.path(), Some(taken.local_addr().unwrap())).await.is_err(), "what is asked for is not changed");
}
