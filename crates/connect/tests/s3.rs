//! Imports from an S3-compatible server within the test's process.

use std::collections::BTreeMap;
use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tombolo_connect::{Brought, ConnectError, Import, bring};
use tombolo_core::source::Source;

const KEY: &str = "key-of-the-test";
const SECRET: &str = "secret-of-the-test";

/// Serves the directory's subdirectories as buckets; answers with its address.
async fn serve(root: &Path) -> String {
    let mut builder = S3ServiceBuilder::new(FileSystem::new(root).expect("a directory"));
    builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = builder.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn import(address: &str, url: &str, secret: &str) -> (Result<Brought, ConnectError>, tempfile::TempDir) {
    let output = tempfile::tempdir().expect("a directory");
    let env = [
        ("AWS_ENDPOINT_URL", address),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("UNRELATED", "is not the store's"),
    ];
    let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let path = output.path().to_owned();
    let source = Source::parse(url, None).expect("a source");
    (bring(&Import { source, output: path.clone(), state: path, env }).await, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_with_their_names_below_the_prefix() {
    let root = tempfile::tempdir().expect("a directory");
    let large: Vec<u8> = (0..40 << 20).map(|i: u32| (i % 251) as u8).collect();
    for (name, bytes) in [
        ("lake/flights/2026/a.csv", b"a".as_slice()),
        ("lake/flights/2026/large.bin", &large),
        ("lake/flights/empty", b""),
        ("lake/flightsnot/b.csv", b"b"),
    ] {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    let address = serve(root.path()).await;
    let (brought, output) = import(&address, "s3://lake/flights", SECRET).await;
    let brought = brought.expect("brought");
    assert_eq!((brought.files, brought.bytes), (3, large.len() as u64 + 1));
    assert_eq!(std::fs::read(output.path().join("2026/a.csv")).expect("a file"), b"a");
    assert!(std::fs::read(output.path().join("2026/large.bin")).expect("a file") == large);
    assert_eq!(std::fs::read(output.path().join("empty")).expect("a file"), b"");
    assert!(!output.path().join("b.csv").exists(), "another prefix");

    let (brought, output) = import(&address, "s3://lake/flights/2026/a.csv", SECRET).await;
    assert_eq!(brought.expect("brought").files, 1);
    assert_eq!(std::fs::read(output.path().join("a.csv")).expect("a file"), b"a");

    for (url, secret, expected) in [
        ("s3://lake/nothing", SECRET, "nothing is at s3://lake/nothing"),
        ("s3://sea/flights", SECRET, "hint:"),
        ("s3://lake/flights", "wrong", "credentials"),
    ] {
        let error = import(&address, url, secret).await.0.expect_err(url).to_string();
        assert!(error.contains(expected), "{url}: {error}");
        assert!(!error.contains(SECRET), "{error}");
    }
}
