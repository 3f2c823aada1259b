//! Waiting in the gap of a move, and ending with nothing unanswered.

use super::*;

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
