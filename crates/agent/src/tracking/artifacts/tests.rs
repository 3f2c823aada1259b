//! What is put, listed, fetched and refused; what becomes of it when its placement ends.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use ed25519_dalek::SigningKey;
use tombolo_api::run_token::mlflow_run_id;
use tombolo_core::Epoch;
use tower::ServiceExt;

use super::files::{OWNER_FILE, Place};
use super::*;

struct Site {
    dir: tempfile::TempDir,
    key: SigningKey,
    /// Whether the second placement, which is the one that lives, has ended.
    over: Arc<AtomicBool>,
}

impl Site {
    fn keeper(&self) -> Keeper {
        let over = Arc::clone(&self.over);
        let live = Arc::new(move |_: &WorkloadId, epoch| epoch == Epoch(2) && !over.load(Ordering::SeqCst));
        // Of what is called so, another site has some.
        let elsewhere: Elsewhere = Arc::new(|request: Request| {
            let there = request.uri().to_string().contains("elsewhere");
            let answer = if there { "from there".into_response() } else { missing("nowhere") };
            Box::pin(std::future::ready(answer))
        });
        let door = Door::Workloads { key: self.key.verifying_key(), live, elsewhere };
        Keeper { dir: self.dir.path().to_owned(), door }
    }

    async fn ask(&self, method: &str, path: &str, workload: Option<&str>, body: &str) -> (u16, String) {
        self.ask_as(method, path, workload.map(|workload| (workload, Epoch(2))), body).await
    }

    async fn ask_as(&self, method: &str, path: &str, asks: Option<(&str, Epoch)>, body: &str) -> (u16, String) {
        let site = "here".parse().unwrap();
        let keeper = self.keeper();
        let mut request = Request::builder().method(method).uri(path);
        if let Some((workload, epoch)) = asks {
            let token = RunToken { site, workload: workload.parse().unwrap(), epoch }.sign(&self.key);
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = router(keeper).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn site() -> Site {
    Site { dir: tempfile::tempdir().unwrap(), key: SigningKey::from_bytes(&[3; 32]), over: Arc::default() }
}

#[tokio::test]
async fn what_is_put_is_listed_and_comes_back() {
    let (site, me) = (site(), Some("p-1/train"));
    let file = format!("{PREFIX}/1/abc/artifacts/sub/a%20b.txt");
    assert_eq!(site.ask("PUT", &file, me, "hello").await.0, 200);
    assert_eq!(site.ask("GET", &file, me, "").await, (200, "hello".to_owned()));
    let listed = site.ask("GET", &format!("{PREFIX}?path=1/abc/artifacts"), me, "").await;
    assert_eq!(listed, (200, r#"{"files":[{"path":"sub","is_dir":true}]}"#.to_owned()));
    let listed = site.ask("GET", &format!("{PREFIX}?path=1/abc/artifacts/sub"), me, "").await;
    assert_eq!(listed.1, r#"{"files":[{"path":"a b.txt","is_dir":false,"file_size":5}]}"#);
    assert_eq!(site.ask("PUT", &file, me, "again").await.0, 200);
    assert_eq!(site.ask("GET", &file, me, "").await.1, "again");
    assert_eq!(site.ask("DELETE", &file, me, "").await.0, 200);
    assert_eq!(site.ask("GET", &file, me, "").await.0, 404);
    assert_eq!(site.ask("DELETE", &file, me, "").await.0, 404);
}

#[tokio::test]
async fn paths_lead_nowhere_else() {
    let (site, me) = (site(), Some("p-1/train"));
    for path in [
        "1/abc/artifacts/../../../../etc/passwd",
        "1/abc/artifacts/%2e%2e/%2e%2e/x",
        "1/abc/artifacts/a%2F..%2Fb",
        "1/abc/artifacts/a%5Cb",
        "1/abc/artifacts//x",
        "1/abc/other/x",
        "1/../artifacts/x",
        "x",
        "1/abc/artifacts",
        "1/abc/artifacts/a%00b",
    ] {
        assert_eq!(site.ask("PUT", &format!("{PREFIX}/{path}"), me, "x").await.0, 400, "{path}");
    }
    assert_eq!(site.ask("GET", &format!("{PREFIX}?path=../.."), me, "").await.0, 400);
    assert_eq!(fs::read_dir(site.dir.path()).unwrap().count(), 0, "nothing was made");
}

#[tokio::test]
async fn a_token_is_good_while_its_placement_lives() {
    let site = site();
    let file = format!("{PREFIX}/1/abc/artifacts/a");
    assert_eq!(site.ask("PUT", &file, Some("p-1/train"), "x").await.0, 200);
    for method in ["PUT", "GET", "DELETE"] {
        let (status, why) = site.ask_as(method, &file, Some(("p-1/train", Epoch(1))), "y").await;
        assert!(status == 403 && why.contains("runs no more"), "{method}: {status} {why}");
    }
    assert_eq!(site.ask("GET", &file, Some("p-1/train"), "").await, (200, "x".to_owned()));
}

#[tokio::test]
async fn nobody_takes_the_run_of_another() {
    let site = site();
    let (me, other) = (Some("p-1/train"), Some("p-1/test"));
    let file = format!("{PREFIX}/1/{}/artifacts/a", mlflow_run_id(&"p-1/train".parse().unwrap()));
    assert_eq!(site.ask("PUT", &file, other, "theirs").await.0, 200);
    assert_eq!(site.ask("PUT", &file, me, "mine").await.0, 200);
    assert_eq!(site.ask("PUT", &file, other, "again").await.0, 403);
    assert_eq!(site.ask("GET", &file, me, "").await, (200, "mine".to_owned()));
}

/// A body that comes as it is told to.
fn told() -> (tokio::sync::mpsc::Sender<io::Result<&'static str>>, Body) {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let stream = futures_util::stream::unfold(receive, |mut receive: tokio::sync::mpsc::Receiver<_>| async {
        receive.recv().await.map(|piece| (piece, receive))
    });
    (send, Body::from_stream(stream))
}

fn asks(site: &Site) -> (Keeper, Place, Asker) {
    let token = RunToken { site: "here".parse().unwrap(), workload: "p-1/train".parse().unwrap(), epoch: Epoch(2) };
    (site.keeper(), place(site.dir.path(), "1/abc/artifacts/a").unwrap(), Asker::Placement(token))
}

#[tokio::test]
async fn what_comes_half_leaves_what_came_whole() {
    let site = site();
    let path = asks(&site).1.path();
    let (send, body) = told();
    let (keeper, place, me) = asks(&site);
    let half = keep(keeper, place, me, body);
    let whole = async {
        send.send(Ok("half")).await.unwrap();
        let (keeper, place, me) = asks(&site);
        assert!(keep(keeper, place, me, Body::from("whole")).await.unwrap().is_none());
        send.send(Err(io::Error::other("it breaks off"))).await.unwrap();
        drop(send);
    };
    let (half, ()) = tokio::join!(half, whole);
    assert!(half.unwrap().is_some(), "what broke off was refused");
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft stays");
}

#[tokio::test]
async fn whoever_goes_away_meanwhile_leaves_no_draft() {
    let site = site();
    let dir = asks(&site).1.path().parent().unwrap().to_owned();
    let (send, body) = told();
    let (keeper, place, me) = asks(&site);
    let half = tokio::spawn(keep(keeper, place, me, body));
    send.send(Ok("half")).await.unwrap();
    // Taken, as there is room for the next.
    send.reserve().await.unwrap();
    half.abort();
    assert!(half.await.unwrap_err().is_cancelled());
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
}

#[tokio::test]
async fn a_placement_that_ends_while_it_sends_leaves_nothing() {
    let site = site();
    let path = asks(&site).1.path();
    let (send, body) = told();
    let (keeper, place, me) = asks(&site);
    let sent = keep(keeper, place, me, body);
    let ends = async {
        send.send(Ok("late")).await.unwrap();
        site.over.store(true, Ordering::SeqCst);
        drop(send);
    };
    let (sent, ()) = tokio::join!(sent, ends);
    assert_eq!(sent.unwrap().unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

/// The note of who owns a directory is a pipe here, from which nothing comes for a while, as from a disk that is slow.
#[tokio::test]
async fn a_slow_disk_holds_up_nobody_else() {
    let site = site();
    let (keeper, place, me) = asks(&site);
    fs::create_dir_all(&place.home).unwrap();
    let note = place.home.join(OWNER_FILE);
    nix::unistd::mkfifo(&note, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (go, gone) = std::sync::mpsc::channel();
    let disk = std::thread::spawn(move || {
        let in_time = gone.recv_timeout(std::time::Duration::from_secs(20)).is_ok();
        fs::write(note, "p-1/train").unwrap();
        in_time
    });
    let others = async { go.send(()).unwrap() };
    let (kept, ()) = tokio::join!(keep(keeper, place, me, Body::from("x")), others);
    assert!(kept.unwrap().is_none());
    assert!(disk.join().unwrap(), "nobody else was served until the disk answered");
}

#[tokio::test]
async fn others_read_and_do_not_write() {
    let site = site();
    let (me, other) = (Some("p-1/train"), Some("p-1/test"));
    for home in ["1/abc", "1/models/m-1"] {
        let file = format!("{PREFIX}/{home}/artifacts/a");
        assert_eq!(site.ask("PUT", &file, None, "x").await.0, 401);
        assert_eq!(site.ask("PUT", &file, me, "mine").await.0, 200);
        for method in ["PUT", "DELETE"] {
            assert_eq!(site.ask(method, &file, other, "x").await.0, 403);
        }
        assert_eq!(site.ask("GET", &file, other, "").await, (200, "mine".to_owned()));
        assert_eq!(site.ask("GET", &file, None, "").await.0, 401);
    }
    let stranger =
        Site { dir: tempfile::tempdir().unwrap(), key: SigningKey::from_bytes(&[4; 32]), over: Arc::default() };
    let forged = RunToken { site: "here".parse().unwrap(), workload: "p-1/train".parse().unwrap(), epoch: Epoch(1) };
    assert!(
        who(
            &HeaderMap::from_iter([(
                header::AUTHORIZATION,
                format!("Bearer {}", forged.sign(&stranger.key)).parse().unwrap()
            )]),
            &site.key.verifying_key()
        )
        .is_none()
    );
}

#[tokio::test]
async fn what_is_not_here_is_asked_for_elsewhere() {
    let (site, me) = (site(), Some("p-1/train"));
    let file = format!("{PREFIX}/1/elsewhere/artifacts/a");
    let list = format!("{PREFIX}?path=1/elsewhere/artifacts");
    for uri in [&file, &list] {
        assert_eq!(site.ask("GET", uri, me, "").await, (200, "from there".to_owned()));
        assert_eq!(site.ask("GET", uri, None, "").await.0, 401);
    }
    assert_eq!(site.ask("PUT", &file, me, "from here").await.0, 200);
    assert_eq!(site.ask("GET", &file, me, "").await, (200, "from here".to_owned()));
    assert!(site.ask("GET", &list, me, "").await.1.contains("\"file_size\":9"));
}

/// The control plane has looked who asks; and what people have put no workload changes.
#[tokio::test]
async fn whoever_the_control_plane_lets_in_reads_and_writes() {
    let site = site();
    let control = Keeper { dir: site.dir.path().to_owned(), door: Door::Control };
    let ask = async |method: &str, path: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
        router(control.clone()).oneshot(request).await.unwrap().status().as_u16()
    };
    let (theirs, mine) = (format!("{PREFIX}/1/abc/artifacts/a"), format!("{PREFIX}/1/xyz/artifacts/a"));
    assert_eq!(ask("PUT", &theirs, "of people").await, 200);
    assert_eq!(site.ask("PUT", &theirs, Some("p-1/train"), "x").await.0, 403);
    assert_eq!(site.ask("GET", &theirs, Some("p-1/train"), "").await, (200, "of people".to_owned()));
    assert_eq!(site.ask("PUT", &mine, Some("p-1/train"), "of a workload").await.0, 200);
    assert_eq!(ask("PUT", &mine, "mended").await, 200);
    assert_eq!(site.ask("PUT", &mine, Some("p-1/train"), "again").await.0, 200, "it is still its own");
    assert_eq!(ask("GET", &format!("{PREFIX}/1/abc/artifacts/elsewhere"), "").await, 404, "nobody else is asked");
    assert_eq!(ask("DELETE", &theirs, "").await, 200);
}
