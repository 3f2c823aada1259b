//! Imports from a real PostgreSQL, started for these tests.

mod servers;

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use servers::postgres::{PASSWORD, Postgres};
use tombolo_connect::{Brought, ConnectError, Import, bring};
use tombolo_core::source::Source;

struct Tried {
    result: Result<Brought, ConnectError>,
    output: tempfile::TempDir,
}

async fn import(server: &Postgres, query: &str, password: &str) -> Tried {
    let output = tempfile::tempdir().expect("a directory");
    let source = Source::parse(&server.url(), Some(query)).expect("a source");
    let env = BTreeMap::from([("PGPASSWORD".to_owned(), password.to_owned())]);
    let import = Import { source, output: output.path().to_owned(), state: output.path().to_owned(), env };
    Tried { result: bring(&import).await, output }
}

fn read(file: &Path) -> Vec<RecordBatch> {
    let file = std::fs::File::open(file).expect("the part is there");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
    reader.collect::<Result<_, _>>().expect("rows")
}

#[tokio::test]
async fn rows_come_as_they_are_with_their_types() {
    let server = Postgres::start();
    server.run(
        "CREATE TABLE orders (id int8 PRIMARY KEY, price numeric(10,2), paid bool, at timestamptz, day date, note text, \
         raw bytea, who uuid, tags text[], doc jsonb, ratio float8, small int2);
         INSERT INTO orders VALUES
         (1, 12.30, true, '2026-11-23 05:00:00+02', '2026-11-23', 'håp ''x''', '\\x00ff', \
          '00000000-0000-0000-0000-000000000001', '{a,b}', '{\"a\": 1}', 0.1, -3),
         (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);",
    );
    // A comment at the end and a semicolon are ordinary in a file of queries.
    let tried = import(&server, "SELECT *, price * 2 AS twice FROM orders ORDER BY id -- all\n;", PASSWORD).await;
    let brought = tried.result.expect("brought");
    assert_eq!((brought.files, brought.rows), (1, Some(2)));
    let text = pretty_format_batches(&read(&tried.output.path().join("part-0.parquet"))).expect("prints").to_string();
    for expected in [
        "| 12.30 |",
        "2026-11-23T03:00:00Z",
        "| 2026-11-23 |",
        "håp 'x'",
        "00ff",
        "00000000-0000-0000-0000-000000000001",
        "{a,b}",
        r#"{"a": 1}"#,
        "| 24.60 |",
        "| -3 ",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[tokio::test]
async fn many_rows_are_one_snapshot_and_bounded_batches() {
    let server = Postgres::start();
    server.run("CREATE TABLE t AS SELECT i, md5(i::text) AS h FROM generate_series(1, 300000) AS i;");
    let tried = import(&server, "SELECT * FROM t", PASSWORD).await;
    assert_eq!(tried.result.expect("brought").rows, Some(300_000));
    let rows: usize = read(&tried.output.path().join("part-0.parquet")).iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 300_000);
}

#[tokio::test]
async fn faults_say_what_to_do() {
    let server = Postgres::start();
    server.run("CREATE TABLE t AS SELECT 1 AS a; CREATE TABLE n (v numeric(4,1)); INSERT INTO n VALUES ('NaN');");
    for (query, password, expected) in [
        ("SELECT nothing FROM t", PASSWORD, "nothing"),
        ("SELECT a, a FROM t", PASSWORD, "two columns are called \"a\""),
        ("DELETE FROM t", PASSWORD, "no columns"),
        ("WITH gone AS (DELETE FROM t RETURNING a) SELECT * FROM gone", PASSWORD, "the query failed"),
        ("SELECT 'infinity'::date AS day", PASSWORD, "infinity is no date"),
        ("SELECT v FROM n", PASSWORD, "NaN is no number"),
        ("SELECT a FROM t", "wrong", "pgpassword"),
    ] {
        let error = import(&server, query, password).await.result.expect_err(query).to_string();
        assert!(error.contains(expected) && error.contains("hint:"), "{query}: {error}");
        assert!(!error.contains(PASSWORD), "{error}");
    }
    assert_eq!(server.ask("SELECT count(*) FROM t"), "1", "an import changes nothing");
}
