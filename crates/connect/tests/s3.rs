//! Imports from an S3-compatible server within the test's process.

mod servers;

use std::collections::BTreeMap;

use servers::s3::{SECRET, env, serve};
use tombolo_connect::{Brought, ConnectError, Import, bring};
use tombolo_core::source::Source;

async fn import(address: &str, url: &str, secret: &str) -> (Result<Brought, ConnectError>, tempfile::TempDir) {
    let output = tempfile::tempdir().expect("a directory");
    let mut env: BTreeMap<_, _> = env(address).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    env.insert("AWS_SECRET_ACCESS_KEY".to_owned(), secret.to_owned());
    env.insert("UNRELATED".to_owned(), "is not the store's".to_owned());
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
