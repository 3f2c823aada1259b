//! What goes through, and which way.

use super::*;

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

/// Each is a stream of the one connection between the two sites, of which either end gives up all that it has held: there
/// are more than may be open at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_between_sites_carries_any_number_of_requests() {
    const CLIENTS: usize = 32;
    const EACH: usize = 160;
    const { assert!(CLIENTS * EACH > mesh::STREAMS_MAX as usize) };
    let [a, b] = sites(["a", "b"]).await;
    b.has("s", says("yes").await, false);
    a.know(route("s@b"));
    let clients = (0..CLIENTS).map(|_| async {
        let mut sender = a.client().await;
        for _ in 0..EACH {
            within(sender.ready()).await.unwrap();
            let answer = within(sender.send_request(request("GET", "/p/s/", Body::empty()))).await.unwrap();
            assert_eq!(whole(answer).await, (StatusCode::OK, "yes".to_owned()));
        }
    });
    futures_util::future::join_all(clients).await;
}
