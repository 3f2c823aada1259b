//! Imports from a real Kafka broker, started for these tests.

mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use servers::kafka::Kafka;
use tombolo_connect::{Brought, ConnectError, Import, bring};
use tombolo_core::source::Source;

async fn client(server: &Kafka) -> Client {
    ClientBuilder::new(vec![server.address()]).build().await.expect("a client")
}

async fn create(client: &Client, topic: &str, partitions: i32) {
    let controller = client.controller_client().expect("a controller");
    controller.create_topic(topic, partitions, 1, 10_000).await.expect("a topic");
}

async fn produce(client: &Client, topic: &str, partition: i32, values: std::ops::Range<u32>, compression: Compression) {
    let target = client.partition_client(topic, partition, UnknownTopicHandling::Retry).await.expect("a partition");
    let record = |value: u32| Record {
        key: value.is_multiple_of(2).then(|| format!("k{value}").into_bytes()),
        value: Some(format!("value {value}").into_bytes()),
        headers: BTreeMap::new(),
        timestamp: rskafka::chrono::DateTime::from_timestamp_millis(1_700_000_000_000).expect("a time"),
    };
    target.produce(values.map(record).collect(), compression).await.expect("produced");
}

async fn import(server: &Kafka, topic: &str, state: &Path) -> (Result<Brought, ConnectError>, tempfile::TempDir) {
    let output = tempfile::tempdir().expect("a directory");
    let source = Source::parse(&format!("kafka://{}/{topic}", server.address()), None).expect("a source");
    let import = Import { source, output: output.path().to_owned(), state: state.to_owned(), env: BTreeMap::default() };
    (bring(&import).await, output)
}

/// Partition, offset, key and value of every row, checked to be there once.
fn read(output: &Path) -> BTreeSet<(i32, i64, Option<String>, String)> {
    let mut rows = BTreeSet::new();
    for entry in std::fs::read_dir(output).expect("a directory") {
        let file = std::fs::File::open(entry.expect("an entry").path()).expect("a part");
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader") {
            let batch = batch.expect("rows");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (partitions, offsets) =
                (batch.column(0).as_primitive::<Int32Type>(), batch.column(1).as_primitive::<Int64Type>());
            let (keys, values) = (batch.column(3).as_binary::<i32>(), batch.column(4).as_binary::<i32>());
            for i in 0..batch.num_rows() {
                let key = (!keys.is_null(i)).then(|| text(keys.value(i)));
                let row = (partitions.value(i), offsets.value(i), key, text(values.value(i)));
                assert!(rows.insert(row.clone()), "{row:?} came twice");
            }
        }
    }
    rows
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

#[tokio::test]
async fn each_record_is_in_a_version_once_whatever_failed_before() {
    let server = Kafka::start();
    let client = client(&server).await;
    create(&client, "clicks", 2).await;
    produce(&client, "clicks", 0, 0..1000, Compression::Zstd).await;
    produce(&client, "clicks", 1, 1000..1010, Compression::NoCompression).await;

    // What one import leaves is what the next begins with.
    let first = tempfile::tempdir().expect("a directory");
    let (brought, output) = import(&server, "clicks", first.path()).await;
    assert_eq!(brought.expect("brought").rows, Some(1010));
    let rows = read(output.path());
    assert!(rows.contains(&(0, 2, Some("k2".into()), "value 2".into())));
    assert!(rows.contains(&(1, 1, None, "value 1001".into())));

    // One that died after it had read left its directory behind, and not as a version.
    produce(&client, "clicks", 0, 2000..2100, Compression::Lz4).await;
    let died = tempfile::tempdir().expect("a directory");
    copy(first.path(), died.path());
    import(&server, "clicks", died.path()).await.0.expect("read, and then lost");

    produce(&client, "clicks", 1, 3000..3003, Compression::Gzip).await;
    let second = tempfile::tempdir().expect("a directory");
    copy(first.path(), second.path());
    let (brought, output) = import(&server, "clicks", second.path()).await;
    assert_eq!(brought.expect("brought").rows, Some(1113));
    assert_eq!(read(output.path()).len(), 1113);
    for name in std::fs::read_dir(first.path()).expect("a directory") {
        let name = name.expect("an entry").file_name();
        if name != "offsets.json" {
            let same = std::fs::read(first.path().join(&name)).expect("before")
                == std::fs::read(second.path().join(&name)).expect("after");
            assert!(same, "{name:?} was written anew, though its records are as they were");
        }
    }

    // Nothing new: nothing more.
    let (brought, _output) = import(&server, "clicks", second.path()).await;
    assert_eq!(brought.expect("brought").rows, Some(1113));
}

#[tokio::test]
async fn what_the_broker_deleted_unread_is_said_and_a_strange_topic_refused() {
    let server = Kafka::start();
    let client = client(&server).await;
    create(&client, "logs", 1).await;
    produce(&client, "logs", 0, 0..10, Compression::NoCompression).await;
    let state = tempfile::tempdir().expect("a directory");
    import(&server, "logs", state.path()).await.0.expect("brought");

    produce(&client, "logs", 0, 10..30, Compression::NoCompression).await;
    let partition = client.partition_client("logs", 0, UnknownTopicHandling::Error).await.expect("a partition");
    partition.delete_records(20, 10_000).await.expect("deleted");
    let (brought, output) = import(&server, "logs", state.path()).await;
    let brought = brought.expect("brought");
    assert_eq!(brought.warnings, ["partition 0: records 10 to 19 were deleted by the broker before they were read"]);
    assert_eq!(read(output.path()).len(), 20);

    let error = import(&server, "nothing", state.path()).await.0.expect_err("no such topic").to_string();
    assert!(error.contains("the broker knows logs"), "{error}");
    create(&client, "other", 1).await;
    let error = import(&server, "other", state.path()).await.0.expect_err("another's state").to_string();
    assert!(error.contains("--force"), "{error}");
}

#[tokio::test]
async fn no_broker_is_a_clear_error() {
    let state = tempfile::tempdir().expect("a directory");
    let source = Source::parse(&format!("kafka://127.0.0.1:{}/clicks", servers::free_port()), None).expect("a source");
    let output = state.path().to_owned();
    let import = Import { source, output: output.clone(), state: output, env: BTreeMap::default() };
    let error = bring(&import).await.expect_err("nobody listens").to_string();
    assert!(error.contains("can't be read") && error.contains("hint: check the brokers"), "{error}");
}
