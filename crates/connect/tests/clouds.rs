//! Imports from Azure's and Google's object storage, against their emulators.

#[path = "../../data/tests/help/clouds.rs"]
mod clouds;

use std::collections::BTreeMap;

use clouds::{BUCKET, Cloud, KEY};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use tombolo_connect::{Brought, ConnectError, Import, bring};
use tombolo_core::source::Source;

/// As a stage finds them in its environment.
fn env(cloud: &Cloud) -> BTreeMap<String, String> {
    cloud.settings.iter().map(|(name, value)| (name.to_ascii_uppercase(), value.clone())).collect()
}

async fn import(url: &str, env: BTreeMap<String, String>) -> (Result<Brought, ConnectError>, tempfile::TempDir) {
    let output = tempfile::tempdir().expect("a directory");
    let path = output.path().to_owned();
    let source = Source::parse(url, None).expect("a source");
    (bring(&Import { source, output: path.clone(), state: path, env }).await, output)
}

async fn check(cloud: &Cloud) {
    let url = url::Url::parse(cloud.url).expect("an address");
    let (store, _) = object_store::parse_url_opts(&url, cloud.settings.clone()).expect("a client");
    // Longer than one range is.
    let large: Vec<u8> = (0..20 << 20).map(|i: u32| (i % 251) as u8).collect();
    for (name, bytes) in [
        ("lake/flights/2026/a.csv", b"a".to_vec()),
        ("lake/flights/2026/large.bin", large.clone()),
        ("lake/flights/a name, with spaces", b"named".to_vec()),
        ("lake/flights/empty", Vec::new()),
        ("lake/flightsnot/b.csv", b"b".to_vec()),
    ] {
        store.put(&Key::from(name), PutPayload::from(bytes)).await.expect(name);
    }
    let scheme = url.scheme();
    let (brought, output) = import(&format!("{scheme}://{BUCKET}/lake/flights"), env(cloud)).await;
    let brought = brought.expect("brought");
    assert_eq!((brought.files, brought.bytes), (4, large.len() as u64 + 6));
    let file = |name: &str| std::fs::read(output.path().join(name)).expect(name);
    assert_eq!(file("2026/a.csv"), b"a");
    assert!(file("2026/large.bin") == large);
    assert_eq!(file("a name, with spaces"), b"named");
    assert!(file("empty").is_empty());
    assert!(!output.path().join("b.csv").exists(), "another prefix");

    let (brought, output) = import(&format!("{scheme}://{BUCKET}/lake/flights/2026/a.csv"), env(cloud)).await;
    assert_eq!(brought.expect("brought").files, 1);
    assert_eq!(std::fs::read(output.path().join("a.csv")).expect("a file"), b"a");

    for (path, expected) in
        [(format!("{BUCKET}/lake/nothing"), "nothing is at"), ("elsewhere/lake".to_owned(), "hint:")]
    {
        let error = import(&format!("{scheme}://{path}"), env(cloud)).await.0.expect_err(&path).to_string();
        assert!(error.contains(expected), "{path}: {error}");
        assert!(!error.contains(KEY), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_from_azure() {
    let cloud = Cloud::azure();
    check(&cloud).await;
    // Another key than the account's.
    let mut wrong = env(&cloud);
    wrong.insert("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), "d3Jvbmc=".to_owned());
    let error = import(&format!("az://{BUCKET}/lake/flights"), wrong).await.0.expect_err("a wrong key").to_string();
    assert!(error.contains("hint:") && error.contains("credentials"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_from_google() {
    check(&Cloud::google()).await;
}
