//! Who is let in, and what is kept out.

use super::*;

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
