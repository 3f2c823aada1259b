use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tombolo_sql::{Outcome, Position, Query, SqlError, execute};

const SALES: &str = "shop,amount\nb,2\na,1\nc,3\n";

fn query(home: &Path, sql: &str) -> Query {
    let output = home.join("output");
    fs::create_dir_all(&output).unwrap();
    fs::write(home.join("sales.csv"), SALES).unwrap();
    let tables = BTreeMap::from([("shop-sales".to_owned(), home.join("sales.csv"))]);
    Query { sql: sql.to_owned(), tables, output, memory_bytes: None, threads: 1 }
}

async fn run(sql: &str) -> (TempDir, Result<Outcome, SqlError>) {
    let home = tempfile::tempdir().unwrap();
    let outcome = execute(&query(home.path(), sql)).await;
    (home, outcome)
}

fn written(home: &Path) -> Vec<u8> {
    fs::read(home.join("output/part-0.parquet")).unwrap()
}

#[tokio::test]
async fn views_lead_to_a_result_that_is_a_table_again() {
    let (home, outcome) =
        run("CREATE VIEW big AS SELECT * FROM \"shop-sales\" WHERE amount > 1; SELECT * FROM big ORDER BY shop;").await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.rows, 2);
    assert_eq!(outcome.columns[1], ("amount".to_owned(), "Int64".to_owned()));
    assert_eq!(outcome.bytes, written(home.path()).len() as u64);

    let mut again =
        query(home.path(), "CREATE TABLE t AS SELECT sum(amount) AS s FROM made; SELECT 1 / (s - 5) FROM t");
    again.tables = BTreeMap::from([("made".to_owned(), home.path().join("output"))]);
    again.output = home.path().join("second");
    fs::create_dir(&again.output).unwrap();
    // The sum is 5, which only a division by zero at execution can tell; the half-written file must be gone.
    assert!(matches!(execute(&again).await, Err(SqlError::Engine(message)) if message.contains("zero")));
    assert_eq!(fs::read_dir(&again.output).unwrap().count(), 0);
}

/// pyarrow can't filter columns that are views: a script that reads what a stage has made would fail.
#[tokio::test]
async fn texts_are_written_as_any_reader_knows_them() {
    let (home, outcome) = run("SELECT arrow_cast(shop, 'Utf8View') AS shop, amount FROM shop_sales").await;
    assert_eq!(outcome.unwrap().columns[0], ("shop".to_owned(), "Utf8".to_owned()));
    let file = fs::File::open(home.path().join("output/part-0.parquet")).unwrap();
    let told = datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert_eq!(told.schema().field(0).data_type().to_string(), "Utf8");
}

#[tokio::test]
async fn the_same_input_gives_the_same_bytes() {
    let sql = "SELECT shop, sum(amount) / 3.0 AS s FROM shop_sales GROUP BY shop";
    let (first, outcome) = run(sql).await;
    assert_eq!(outcome.unwrap().rows, 3);
    let (second, _) = run(sql).await;
    assert_eq!(written(first.path()), written(second.path()));
}

#[tokio::test]
async fn what_reaches_beyond_the_tables_is_refused() {
    for sql in [
        "COPY shop_sales TO '/tmp/stolen.csv'",
        "COPY (SELECT 1) TO '/tmp/stolen.csv'; SELECT 1",
        "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '/etc/passwd'; SELECT * FROM p",
        "INSERT INTO shop_sales VALUES ('d', 4); SELECT 1",
        "SET datafusion.execution.batch_size = 1; SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT 1; SELECT 2",
        "DROP TABLE shop_sales; SELECT 1",
    ] {
        let (home, outcome) = run(sql).await;
        assert!(matches!(outcome, Err(SqlError::Refused { .. })), "{sql}: {outcome:?}");
        assert_eq!(fs::read_dir(home.path().join("output")).unwrap().count(), 0, "{sql}");
    }
    for sql in
        ["SELECT * FROM '/etc/passwd'", "SELECT * FROM read_csv('/etc/passwd')", "SELECT now()", "SELECT random()"]
    {
        let (_, outcome) = run(sql).await;
        assert!(outcome.is_err(), "{sql}: {outcome:?}");
    }
}

#[tokio::test]
async fn errors_say_where_and_what() {
    let at = |line, column| Position { line, column };
    let (_, outcome) = run("SELECT shop\nFROM shop_sales WHERE )").await;
    assert!(matches!(&outcome, Err(SqlError::At { position, .. }) if *position == at(2, 23)), "{outcome:?}");
    let (_, outcome) = run("SELECT shop,\n  amuont FROM shop_sales").await;
    assert!(matches!(&outcome, Err(SqlError::At { position, .. }) if *position == at(2, 3)), "{outcome:?}");
    let (_, outcome) = run("SELECT * FROM sails").await;
    assert_eq!(outcome.unwrap_err().to_string(), "no table \"sails\"; known: shop-sales");
    let (_, outcome) = run(" ; ").await;
    assert!(matches!(outcome, Err(SqlError::Empty)), "{outcome:?}");
}

#[tokio::test]
async fn a_file_that_is_no_table_is_named() {
    let home = tempfile::tempdir().unwrap();
    for (name, bytes) in [("fake.parquet", "hello"), ("notes.txt", "hello")] {
        fs::write(home.path().join(name), bytes).unwrap();
        let mut query = query(home.path(), "SELECT 1");
        query.tables = BTreeMap::from([("t".to_owned(), home.path().join(name))]);
        let error = execute(&query).await.unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_sort_larger_than_its_memory_spills() {
    let sql = "SELECT v, v * 7919 % 1000003 AS k FROM unnest(range(0, 600000)) AS t(v) ORDER BY k, v";
    let free = tempfile::tempdir().unwrap();
    assert_eq!(execute(&query(free.path(), sql)).await.unwrap().rows, 600_000);
    let tight = tempfile::tempdir().unwrap();
    let mut bounded = query(tight.path(), sql);
    bounded.memory_bytes = Some(24 << 20);
    assert_eq!(execute(&bounded).await.unwrap().rows, 600_000);
    assert_eq!(written(free.path()), written(tight.path()));
}
