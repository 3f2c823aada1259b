//! The data plane as a small program, for `cargo xtask bench`: one verb a call, one line of JSON at its end.
//!
//! ```text
//! bench add <store> <path> [<bucket>]        adds a tree; to a bucket such as s3://a/b, of which the store is the cache
//! bench get <store> <version> <path> [<bucket>]    writes a version's files
//! bench serve <store>                        prints an address on loopback and answers there, until it is ended
//! bench fetch <store> <address> <version>    brings a version from there
//! ```
//! The transfer protocol runs over plain TCP here, so that what is measured is the protocol and the stores.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tombolo_core::VersionId;
use tombolo_data::transfer::{Dial, FetchOptions, Gate, Source, fetch, serve_stream};
use tombolo_data::{AddOptions, BucketOptions, DataError, MaterializeOptions, Store, StoreOptions};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["add", store, path] => add(&open(store, None)?, path),
        ["add", store, path, bucket] => add(&open(store, Some(bucket))?, path),
        ["get", store, version, path] => get(&open(store, None)?, version.parse()?, path),
        ["get", store, version, path, bucket] => get(&open(store, Some(bucket))?, version.parse()?, path),
        ["serve", store] => runtime()?.block_on(serve(store)),
        ["fetch", store, from, version] => runtime()?.block_on(bring(store, from.parse()?, version.parse()?)),
        _ => Err(
            "usage: bench add <store> <path> [<bucket>] | get <store> <version> <path> [<bucket>] | serve <store> | \
                  fetch <store> <address> <version>"
                .into(),
        ),
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn open(store: &str, bucket: Option<&str>) -> Result<Store, DataError> {
    Store::open(store, StoreOptions { bucket: bucket.map(BucketOptions::new), ..StoreOptions::default() })
}

/// The bytes of the files, written and synced to no disk: so do the peers.
fn get(store: &Store, version: VersionId, path: &str) -> Outcome {
    let began = Instant::now();
    let summary = store.materialize(version, path, &MaterializeOptions::default())?;
    let report = serde_json::json!({
        "version": version.to_string(),
        "bytes": summary.bytes,
        "seconds": began.elapsed().as_secs_f64(),
        "memory_peak_bytes": memory_peak_bytes()?,
    });
    println!("{report}");
    Ok(())
}

fn add(store: &Store, path: &str) -> Outcome {
    let began = Instant::now();
    let added = store.add_tree(Path::new(path), &AddOptions::default())?;
    let report = serde_json::json!({
        "version": added.version.to_string(),
        "bytes": added.bytes,
        "bytes_new": added.bytes_new,
        "seconds": began.elapsed().as_secs_f64(),
        "memory_peak_bytes": memory_peak_bytes()?,
    });
    println!("{report}");
    Ok(())
}

async fn serve(store: &str) -> Outcome {
    let store = Store::open(store, StoreOptions::default())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let store = store.clone();
        tokio::spawn(async move {
            let (recv, send) = stream.into_split();
            if let Err(error) = serve_stream(&store, send, recv, &Anybody).await {
                eprintln!("a stream ended early: {error}");
            }
        });
    }
}

/// Whoever can reach loopback may have everything here.
struct Anybody;

impl Gate for Anybody {
    fn check(&self, _grant: &[u8], _version: VersionId) -> Result<(), String> {
        Ok(())
    }
}

/// A connection of its own for each stream.
struct Tcp(SocketAddr);

impl Dial for Tcp {
    type Send = OwnedWriteHalf;
    type Recv = OwnedReadHalf;

    async fn open(&self) -> io::Result<(OwnedWriteHalf, OwnedReadHalf)> {
        let stream = TcpStream::connect(self.0).await?;
        stream.set_nodelay(true)?;
        let (recv, send) = stream.into_split();
        Ok((send, recv))
    }
}

async fn bring(store: &str, from: SocketAddr, version: VersionId) -> Outcome {
    let began = Instant::now();
    let store = Store::open(store, StoreOptions::default())?;
    let sources = [Source { dial: Tcp(from), grant: Vec::new(), name: from.to_string() }];
    let fetched = fetch(&store, version, &sources, &FetchOptions::default()).await?;
    let report = serde_json::json!({
        "version": version.to_string(),
        "bytes": store.version_bytes(version)?,
        "bytes_wire": fetched.bytes_wire,
        "seconds": began.elapsed().as_secs_f64(),
        "memory_peak_bytes": memory_peak_bytes()?,
    });
    println!("{report}");
    Ok(())
}

/// Most memory that was resident at once, as Linux counts it.
fn memory_peak_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Ok(kib.ok_or("the kernel doesn't say the peak")? * 1024)
}
