//! kill -9 of a process that fetches: what it had verified isn't sent again, but for a little.

mod help;
#[path = "help/peer.rs"]
mod peer;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use help::{noise, write};
use peer::{Mangle, check_arrived, source, world_of};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tombolo_data::transfer::{Budget, Dial, FetchOptions, Seal, Source, fetch};
use tombolo_data::{Store, StoreOptions};

const STORE: &str = "TOMBOLO_TEST_RESUME_STORE";
const FROM: &str = "TOMBOLO_TEST_RESUME_FROM";
const VERSION: &str = "TOMBOLO_TEST_RESUME_VERSION";

const BYTES: u64 = 8 << 20;
const KILLED_AT: u64 = 6 << 20;
const SEAL_BYTES: u64 = 256 << 10;
const BUDGET_BYTES: u64 = 2 << 20;

struct Tcp(SocketAddr);

impl Dial for Tcp {
    type Send = OwnedWriteHalf;
    type Recv = OwnedReadHalf;

    async fn open(&self) -> std::io::Result<(OwnedWriteHalf, OwnedReadHalf)> {
        let (recv, send) = TcpStream::connect(self.0).await?.into_split();
        Ok((send, recv))
    }
}

/// What the killed process does; without the variables it is no test. Tells how far it is, and at the end `done`.
#[tokio::test]
async fn child() {
    let (Ok(store), Ok(from), Ok(version)) = (std::env::var(STORE), std::env::var(FROM), std::env::var(VERSION)) else {
        return;
    };
    let store = Store::open(store, StoreOptions::default()).unwrap();
    let sources = [Source { dial: Tcp(from.parse().unwrap()), grant: Vec::new(), name: "parent".into() }];
    // A single write, so that a line is there whole or not at all.
    let say = |what: String| std::io::stdout().write_all(format!("{what}\n").as_bytes()).unwrap();
    let options = FetchOptions {
        budget: Budget::new(BUDGET_BYTES),
        seal: Seal { bytes: SEAL_BYTES, after: Duration::ZERO },
        progress: Some(Arc::new(move |done, _| say(format!("come {done}")))),
        ..FetchOptions::default()
    };
    let fetched = fetch(&store, version.parse().unwrap(), &sources, &options).await.unwrap();
    say(format!("done {}", fetched.bytes_raw));
}

/// Runs the child until it has brought so much; answers what it said last.
fn run(store: &Path, from: SocketAddr, version: &str, killed_at: u64) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(STORE, store)
        .env(FROM, from.to_string())
        .env(VERSION, version)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The harness may have begun the line.
        let Some(at) = line.find("come ").or_else(|| line.find("done ")) else { continue };
        last = line[at..].to_owned();
        let come = last.strip_prefix("come ").and_then(|come| come.parse::<u64>().ok());
        if come.is_some_and(|come| come >= killed_at) {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_receiver_had_verified_is_not_sent_again() {
    let world = world_of(|tree| write(tree, "large.bin", &noise(1, BYTES as usize)));
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let mangle: Mangle = Arc::new(move |body| {
        counted.fetch_add(if body[0] == 3 { body.len() as u64 - 5 } else { 0 }, Ordering::Relaxed);
        true
    });
    let from = source(&world.from, "parent", Some(mangle));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (send, recv) = from.dial.open().await.unwrap();
            tokio::spawn(async move {
                // A child that is killed cuts it.
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut tokio::io::join(recv, send)).await;
            });
        }
    });
    let (dir, version) = (world.to.dir().to_owned(), world.version.to_string());
    let child = async |killed_at: u64| {
        let (dir, version) = (dir.clone(), version.clone());
        tokio::task::spawn_blocking(move || run(&dir, address, &version, killed_at)).await.unwrap()
    };
    let last = child(KILLED_AT).await;
    assert!(last.starts_with("come"), "it was to be killed in the middle: {last}");
    let first = sent.load(Ordering::Relaxed);
    let last = child(u64::MAX).await;
    let rest: u64 = last.strip_prefix("done ").unwrap_or_else(|| panic!("{last}")).parse().unwrap();
    let again = sent.load(Ordering::Relaxed) - BYTES;
    // What was sealed last, what was on its way, and a chunk or two of each stream.
    let little = SEAL_BYTES + BUDGET_BYTES;
    assert!(again <= little, "{again} bytes of {first} were sent again");
    assert!(rest <= BYTES - KILLED_AT + little, "{rest}");
    world.to.refresh().unwrap();
    check_arrived(&world);
}
