//! What is put, listed, fetched and refused; what becomes of it when its placement ends.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::header;
use ed25519_dalek::SigningKey;
use tombolo_api::run_token::mlflow_run_id;
use tombolo_core::{Epoch, Millis, Timestamp};
use tombolo_data::{SiteKey, Store, StoreOptions};
use tower::ServiceExt;

use super::shelf::{OWNER_FILE, Place};
use super::*;

struct Site {
    dir: tempfile::TempDir,
    shelf: Arc<Shelf>,
    key: SigningKey,
    /// Whether the second placement, which is the one that lives, has ended.
    over: Arc<AtomicBool>,
}

impl Site {
    /// What is on its way.
    fn drafts(&self) -> usize {
        fs::read_dir(self.dir.path().join("artifacts.drafts")).map_or(0, Iterator::count)
    }

    async fn bytes(&self, path: &str, range: Option<&str>) -> (u16, Vec<u8>) {
        let control = Keeper { shelf: self.shelf.clone(), door: Door::Control };
        let request =
            range.into_iter().fold(Request::builder().uri(path), |request, range| request.header("range", range));
        let answer = router(control).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (status, length) = (answer.status().as_u16(), answer.headers().get("content-length").cloned());
        let body = axum::body::to_bytes(answer.into_body(), 64 << 20).await.unwrap().to_vec();
        if let Some(length) = length {
            assert_eq!(length.to_str().unwrap(), body.len().to_string());
        }
        (status, body)
    }

    async fn put(&self, path: &str, body: Vec<u8>) {
        let control = Keeper { shelf: self.shelf.clone(), door: Door::Control };
        let request = Request::builder().method("PUT").uri(path).body(Body::from(body)).unwrap();
        assert_eq!(router(control).oneshot(request).await.unwrap().status(), 200);
    }

    /// Bytes that the store's packs have.
    fn at_rest(&self) -> u64 {
        let packs = fs::read_dir(self.dir.path().join("store/packs")).unwrap();
        packs.map(|pack| pack.unwrap().metadata().unwrap().len()).sum()
    }

    fn keeper(&self) -> Keeper {
        let over = Arc::clone(&self.over);
        let live = Arc::new(move |_: &WorkloadId, epoch| epoch == Epoch(2) && !over.load(Ordering::SeqCst));
        // Of what is called so, another site has some.
        let elsewhere: Elsewhere = Arc::new(|request: Request| {
            let there = request.uri().to_string().contains("elsewhere");
            let answer = if there { "from there".into_response() } else { missing("nowhere") };
            Box::pin(std::future::ready(answer))
        });
        let door = Door::Workloads { key: Box::new(self.key.verifying_key()), live, elsewhere };
        Keeper { shelf: self.shelf.clone(), door }
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
    site_with(3, None)
}

fn site_with(key: u8, store_key: Option<SiteKey>) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { key: store_key, ..StoreOptions::default() };
    let store = Arc::new(Store::open(dir.path().join("store"), options).unwrap());
    let shelf = Arc::new(Shelf::open(dir.path().join("artifacts"), store).unwrap());
    Site { dir, shelf, key: SigningKey::from_bytes(&[key; 32]), over: Arc::default() }
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
    assert!(!site.dir.path().join("artifacts").exists(), "nothing was made");
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
    (site.keeper(), site.shelf.place("1/abc/artifacts/a").unwrap(), Asker::Placement(token))
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
    assert!(fs::read_to_string(&path).unwrap().ends_with("\nwhole"));
    assert_eq!(site.drafts(), 0, "no draft stays");
}

#[tokio::test]
async fn whoever_goes_away_meanwhile_leaves_no_draft() {
    let site = site();
    let path = asks(&site).1.path();
    let (send, body) = told();
    let (keeper, place, me) = asks(&site);
    let half = tokio::spawn(keep(keeper, place, me, body));
    send.send(Ok("half")).await.unwrap();
    // Taken, as there is room for the next.
    send.reserve().await.unwrap();
    half.abort();
    assert!(half.await.unwrap_err().is_cancelled());
    assert_eq!((site.drafts(), path.exists()), (0, false));
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
    assert_eq!((site.drafts(), path.exists()), (0, false));
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
    let stranger = site_with(4, None);
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
    let control = Keeper { shelf: site.shelf.clone(), door: Door::Control };
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

/// Bytes that don't compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn a_large_file_is_a_version_and_its_next_one_costs_what_is_new() {
    let site = site();
    let file = format!("{PREFIX}/1/abc/artifacts/model/weights.bin");
    let first = noise(1, 8 << 20);
    site.put(&file, first.clone()).await;
    assert_eq!(site.bytes(&file, None).await, (200, first.clone()));
    for (range, expected) in [
        ("bytes=0-9", &first[..10]),
        ("bytes=3000000-3999999", &first[3_000_000..4_000_000]),
        ("bytes=8388600-", &first[8_388_600..]),
        ("bytes=-5", &first[(8 << 20) - 5..]),
    ] {
        assert_eq!(site.bytes(&file, Some(range)).await, (206, expected.to_vec()), "{range}");
    }
    assert_eq!(site.bytes(&file, Some("bytes=8388608-")).await.0, 416);
    let listed = site.ask("GET", &format!("{PREFIX}?path=1/abc/artifacts/model"), Some("p-1/x"), "").await.1;
    assert!(listed.contains("\"file_size\":8388608"), "{listed}");

    let before = site.at_rest();
    let mut second = first.clone();
    second[1 << 20..(1 << 20) + 1000].fill(7);
    site.put(&file, second.clone()).await;
    assert_eq!(site.bytes(&file, None).await.1, second);
    let more = site.at_rest() - before;
    assert!(more < 1 << 20, "{more} more bytes at rest for a thousand changed ones");

    // Of two equal files at two places each is there while its place is.
    let other = format!("{PREFIX}/1/models/m-1/artifacts/weights.bin");
    site.put(&other, second.clone()).await;
    assert_eq!(site.shelf.store.pins().unwrap().len(), 2);
    assert_eq!(site.ask("DELETE", &file, Some("p-1/x"), "").await.0, 403);
    assert_eq!(
        site.shelf.store.gc(&BTreeSet::new(), Timestamp(i64::MAX / 2), Millis(0)).unwrap().versions_removed.len(),
        1
    );
    assert_eq!(site.bytes(&other, None).await.1, second);
    assert_eq!(site.bytes(&file, None).await.1, second);
    let control = Keeper { shelf: site.shelf.clone(), door: Door::Control };
    for gone in [format!("{PREFIX}/1/abc/artifacts/model"), other.clone()] {
        let request = Request::builder().method("DELETE").uri(&gone).body(Body::empty()).unwrap();
        assert_eq!(router(control.clone()).oneshot(request).await.unwrap().status(), 200);
    }
    assert_eq!(site.bytes(&file, None).await.0, 404);
    assert_eq!(site.shelf.store.pins().unwrap(), [], "nothing is kept for a file that is gone");
}

/// A small one is a file of its own, and one that was large before leaves nothing behind.
#[tokio::test]
async fn a_file_grows_and_shrinks() {
    let site = site();
    let file = format!("{PREFIX}/1/abc/artifacts/a");
    for length in [10, 1 << 20, 0, 2 << 20, 70_000, 64 << 10] {
        let body = noise(length as u64 + 1, length);
        site.put(&file, body.clone()).await;
        assert_eq!(site.bytes(&file, None).await, (200, body), "{length}");
        assert_eq!(site.shelf.store.pins().unwrap().len(), usize::from(length > 64 << 10), "{length}");
    }
}

#[tokio::test]
async fn nothing_of_an_artifact_is_readable_where_the_store_is_encrypted() {
    let site = site_with(3, Some(SiteKey::new([5; 32])));
    for length in [100, 1 << 20] {
        let file = format!("{PREFIX}/1/abc/artifacts/a{length}");
        let body: Vec<u8> = b"a secret. ".iter().copied().cycle().take(length).collect();
        site.put(&file, body.clone()).await;
        assert_eq!(site.bytes(&file, None).await.1, body);
    }
    let mut dirs = vec![site.dir.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let found = fs::read(&path).unwrap().windows(9).any(|nine| nine == b"a secret.");
                assert!(!found, "{}", path.display());
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_artifact_is_not_given_out_as_whole() {
    let site = site();
    let file = format!("{PREFIX}/1/abc/artifacts/a");
    site.put(&file, noise(9, 4 << 20)).await;
    let pack = fs::read_dir(site.dir.path().join("store/packs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let control = Keeper { shelf: site.shelf.clone(), door: Door::Control };
    let request = Request::builder().uri(&file).body(Body::empty()).unwrap();
    let answer = router(control).oneshot(request).await.unwrap();
    assert!(axum::body::to_bytes(answer.into_body(), 64 << 20).await.is_err());
}
