//! Tables are looked at where they were made: schema, rows, and every kind of rule, over CSV and Parquet.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tombolo_core::Timestamp;
use tombolo_core::expect::{ColumnExpect, ColumnKind, Expect, Value};
use tombolo_sql::{EXAMPLE_ROWS_MAX, Findings, Inspection, Query, execute, inspect};

/// 2024-01-10T00:00:00Z.
const NOW: Timestamp = Timestamp(1_704_844_800_000);
const MEMORY: usize = 64 << 20;

const FLIGHTS: &str = "\
id,carrier,delay,day,gone
1,AA,5,2024-01-01,2024-01-01 10:00:00
2,UA,-7,2024-01-02,2024-01-02 10:00:00
3,,12.5,2024-01-03,2024-01-03 10:00:00
4,ZZ,,2024-01-04,2024-01-04 10:00:00
4,AA,900,2024-01-05,2024-01-05 10:00:00
";

fn look(path: &Path, expect: &Expect) -> Findings {
    inspect(&Inspection { path: path.to_owned(), rules: expect.rules(), now: NOW, memory_bytes: MEMORY })
}

fn column(name: &str, column: ColumnExpect) -> Expect {
    Expect { columns: BTreeMap::from([(name.to_owned(), column)]), ..Expect::default() }
}

/// The same table as a CSV file and as a Parquet directory that the engine made of it.
fn tables(csv: &str) -> (TempDir, PathBuf, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let (csv_path, parquet) = (home.path().join("t.csv"), home.path().join("parquet"));
    fs::write(&csv_path, csv).unwrap();
    make(home.path(), &csv_path, &parquet, "SELECT * FROM t");
    (home, csv_path, parquet)
}

fn make(_home: &Path, from: &Path, output: &Path, sql: &str) {
    fs::create_dir(output).unwrap();
    let tables = BTreeMap::from([("t".to_owned(), from.to_owned())]);
    let query = Query { sql: sql.to_owned(), tables, output: output.to_owned(), memory_bytes: None, threads: 1 };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(execute(&query)).unwrap();
}

fn said(findings: &Findings) -> Vec<String> {
    findings.facts.checked.iter().flat_map(|checked| &checked.breaches).map(ToString::to_string).collect()
}

fn schema(findings: &Findings) -> String {
    let table = findings.facts.table.as_ref().unwrap();
    let column = |c: &tombolo_core::facts::Column| {
        format!("{} {} {}", c.name, c.kind, c.nulls.map_or("?".into(), |nulls| nulls.to_string()))
    };
    let rows = table.rows.map_or("?".into(), |rows| rows.to_string());
    format!("{} {rows}: {}", table.format.word(), table.columns.iter().map(column).collect::<Vec<_>>().join(", "))
}

#[test]
fn schema_rows_and_nulls_are_told_of_both_formats() {
    let (_home, csv, parquet) = tables(FLIGHTS);
    let found = look(&csv, &Expect::default());
    let columns = "id Int64 0, carrier Utf8 1, delay Float64 1, day Date32 0, gone Timestamp(s) 0";
    assert_eq!(schema(&found), format!("CSV 5: {columns}"));
    assert_eq!((found.facts.checked, found.examples.len()), (None, 0));
    let found = look(&parquet, &Expect::default());
    assert_eq!(schema(&found), format!("Parquet 5: {columns}"));
}

#[test]
fn what_is_no_table_has_no_schema_and_breaks_rules_if_there_are_any() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("model.bin"), "x").unwrap();
    assert_eq!(look(home.path(), &Expect::default()), Findings::default());
    let found = look(home.path(), &Expect { rows_min: Some(1), ..Expect::default() });
    assert_eq!(said(&found), ["it must be a table of Parquet or CSV files that can be read whole"]);
    assert!(found.examples[0].rows[0].contains("neither Parquet nor CSV"), "{found:?}");
    fs::write(home.path().join("model.bin"), "PAR1 and no footer").unwrap();
    fs::rename(home.path().join("model.bin"), home.path().join("t.parquet")).unwrap();
    let found = look(home.path(), &Expect::default());
    assert_eq!((found.facts.table, found.facts.checked, found.examples.len()), (None, None, 1));
}

#[test]
fn files_of_one_table_are_one_table() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a.csv"), "id,v\n1,\n").unwrap();
    fs::write(home.path().join("b.csv"), "id,v\n2.5,\"two\nlines\"\n").unwrap();
    fs::create_dir(home.path().join("parts")).unwrap();
    assert_eq!(schema(&look(home.path(), &Expect::default())), "CSV 2: id Float64 0, v Utf8 1");
    make(home.path(), &home.path().join("a.csv"), &home.path().join("parts/a"), "SELECT id, 1 AS v FROM t");
    make(home.path(), &home.path().join("a.csv"), &home.path().join("parts/b"), "SELECT id, 'x' AS w, 2.5 AS v FROM t");
    let parts = schema(&look(&home.path().join("parts"), &Expect::default()));
    assert_eq!(parts, "Parquet 2: id Int64 0, v Int64 or Float64 0, w Utf8 1");
    fs::write(home.path().join("b.csv"), "id,w\n2,3\n").unwrap();
    fs::remove_dir_all(home.path().join("parts")).unwrap();
    let found = look(home.path(), &Expect::default());
    assert!(
        found.examples[0].rows[0].ends_with("b.csv: its columns are not those of the files before it"),
        "{found:?}"
    );
}

/// Checks the rules for one column over the same rows as CSV and as Parquet.
fn check(name: &str, expect: ColumnExpect, broken: &[&str], examples: &[&str]) {
    let (_home, csv, parquet) = tables(FLIGHTS);
    for path in [csv, parquet] {
        let found = look(&path, &column(name, expect.clone()));
        assert_eq!(said(&found), broken, "{name} of {}: {expect:?}", path.display());
        let rows: Vec<&str> = found.examples.iter().flat_map(|e| &e.rows).map(String::as_str).collect();
        assert_eq!(rows, examples, "{name} of {}: {expect:?}", path.display());
    }
}

fn number(value: f64) -> Option<Value> {
    Some(Value::Number(value))
}

fn text(value: &str) -> Option<Value> {
    Some(Value::Text(value.to_owned()))
}

#[test]
fn rules_count_the_rows_that_break_them_and_show_some() {
    let any = ColumnExpect::default;
    let row = |id: u32, rest: &str| format!("id={id}, {rest}");
    let second = row(2, "carrier=UA, delay=-7.0, day=2024-01-02, gone=2024-01-02T10:00:00");
    let third = row(3, "carrier=null, delay=12.5, day=2024-01-03, gone=2024-01-03T10:00:00");
    let fourth = row(4, "carrier=ZZ, delay=null, day=2024-01-04, gone=2024-01-04T10:00:00");
    let last = row(4, "carrier=AA, delay=900.0, day=2024-01-05, gone=2024-01-05T10:00:00");

    check("delay", any(), &[], &[]);
    check("delays", any(), &["column delays must be there"], &[]);
    check(
        "delay",
        ColumnExpect { min: number(0.0), ..any() },
        &["column delay must be at least 0: 1 of 5 rows"],
        &[&second],
    );
    check(
        "delay",
        ColumnExpect { max: Some(Value::Integer(899)), ..any() },
        &["column delay must be at most 899: 1 of 5 rows"],
        &[&last],
    );
    check("delay", ColumnExpect { min: number(-7.0), max: number(900.0), ..any() }, &[], &[]);
    check(
        "delay",
        ColumnExpect { min: text("a"), ..any() },
        &["column delay must be at least \"a\", and is number"],
        &[],
    );
    check(
        "delay",
        ColumnExpect { nulls_max: Some(0.0), ..any() },
        &["column delay must be not null: 1 of 5 rows"],
        &[&fourth],
    );
    check("delay", ColumnExpect { nulls_max: Some(0.2), ..any() }, &[], &[]);

    let set = |values: &[&str]| values.iter().filter_map(|value| text(value)).collect::<Vec<_>>();
    check("carrier", ColumnExpect { one_of: set(&["AA", "UA", "ZZ"]), ..any() }, &[], &[]);
    let broken = ["column carrier must be one of \"AA\", \"UA\": 1 of 5 rows"];
    check("carrier", ColumnExpect { one_of: set(&["AA", "UA"]), ..any() }, &broken, &[&fourth]);
    let broken = ["column id must be unique: 2 of 5 rows"];
    check("id", ColumnExpect { unique: true, ..any() }, &broken, &["id=4, rows=2"]);
    check("day", ColumnExpect { unique: true, ..any() }, &[], &[]);

    check("day", ColumnExpect { min: text("2024-01-01"), max: text("2024-01-05"), ..any() }, &[], &[]);
    let broken = ["column day must be at least \"2024-01-02\": 1 of 5 rows"];
    let first = row(1, "carrier=AA, delay=5.0, day=2024-01-01, gone=2024-01-01T10:00:00");
    check("day", ColumnExpect { min: text("2024-01-02"), ..any() }, &broken, &[&first]);
    let broken = ["column gone must be at most \"2024-01-03T09:00:00\": 3 of 5 rows"];
    let late: Vec<&str> = vec![&third, &fourth, &last];
    check("gone", ColumnExpect { max: text("2024-01-03T09:00:00"), ..any() }, &broken, &late);
}

#[test]
fn the_newest_value_has_an_age() {
    let days =
        |days: u64| ColumnExpect { fresh: Some(tombolo_core::Millis::from_secs(days * 86_400)), ..Default::default() };
    check("day", days(5), &[], &[]);
    let broken = "column day must be new: its newest value at most 96 h 0 min old";
    check("day", days(4), &[broken], &["the newest is 2024-01-05T00:00:00"]);
    check("gone", days(5), &[], &[]);
    check(
        "carrier",
        days(5),
        &["column carrier must be new: its newest value at most 120 h 0 min old, and is text"],
        &[],
    );
}

#[test]
fn types_are_checked_by_value_in_csv_and_by_schema_in_parquet() {
    let of = |kind| ColumnExpect { kind: Some(kind), ..ColumnExpect::default() };
    for (name, kind) in [
        ("id", ColumnKind::Integer),
        ("id", ColumnKind::Number),
        ("delay", ColumnKind::Number),
        ("carrier", ColumnKind::Text),
        ("day", ColumnKind::Date),
        ("gone", ColumnKind::Timestamp),
    ] {
        check(name, of(kind), &[], &[]);
    }
    let (_home, csv, parquet) = tables(FLIGHTS);
    let found = look(&csv, &column("delay", ColumnExpect { min: Some(Value::Integer(0)), ..of(ColumnKind::Integer) }));
    let broken = ["column delay must be integer: 1 of 5 rows", "column delay must be at least 0: 1 of 5 rows"];
    assert_eq!(said(&found), broken);
    assert!(found.examples[0].rows[0].contains("delay=12.5"), "{found:?}");
    let found =
        look(&parquet, &column("delay", ColumnExpect { min: Some(Value::Integer(0)), ..of(ColumnKind::Integer) }));
    assert_eq!(said(&found), ["column delay must be integer, and is number"]);

    // What looks like a number is read as the text that it is.
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("t.csv"), "zip,n\n01234,\n00001,\n").unwrap();
    let zip = ColumnExpect { one_of: vec![Value::Text("01234".into())], ..of(ColumnKind::Text) };
    assert_eq!(said(&look(home.path(), &column("zip", zip))), ["column zip must be one of \"01234\": 1 of 2 rows"]);
    assert_eq!(said(&look(home.path(), &column("n", of(ColumnKind::Timestamp)))), [""; 0]);
}

#[test]
fn rows_and_columns_together_have_rules_too() {
    let (_home, csv, _) = tables(FLIGHTS);
    let unique = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let expect = Expect { rows_min: Some(6), unique: unique(&["id", "carrier"]), ..Expect::default() };
    assert_eq!(said(&look(&csv, &expect)), ["the table must have at least 6 rows, and has 5"]);
    fs::write(&csv, "a,b\n1,1\n1,1\n1,\n1,\n").unwrap();
    let found = look(&csv, &Expect { unique: unique(&["a", "b"]), ..Expect::default() });
    assert_eq!(said(&found), ["column a, b must be unique together: 2 of 4 rows"]);
    assert_eq!(found.examples[0].rows, ["a=1, b=1, rows=2"]);
    let found = look(&csv, &Expect { unique: unique(&["a", "c"]), ..Expect::default() });
    assert_eq!(said(&found), ["column c must be there"]);
}

#[test]
fn nan_is_within_no_bounds() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("t.csv"), "v\n1.5\nNaN\n").unwrap();
    let broken = said(&look(home.path(), &column("v", ColumnExpect { min: number(0.0), ..ColumnExpect::default() })));
    assert_eq!(broken, ["column v must be at least 0: 1 of 2 rows"]);
}

#[test]
fn breaches_hold_no_value_and_examples_are_few_and_short() {
    let home = tempfile::tempdir().unwrap();
    let long = "s3cret".repeat(400);
    let rows: String = (0..50).map(|i| format!("{i},{long}\n")).collect();
    fs::write(home.path().join("t.csv"), format!("id,v\n{rows}")).unwrap();
    let found = look(home.path(), &column("v", ColumnExpect { kind: Some(ColumnKind::Integer), ..Default::default() }));
    let facts = format!("{:?}", found.facts);
    assert!(!facts.contains("s3cret"), "{facts}");
    assert_eq!(found.examples[0].rows.len(), EXAMPLE_ROWS_MAX);
    assert!(found.examples[0].rows.iter().all(|row| row.contains("s3cret") && row.chars().count() <= 303), "{found:?}");
    // Also where the engine itself stumbles over a value.
    fs::write(home.path().join("t.csv"), "id,v\n1,2\n\"s3cret\n").unwrap();
    let found = look(home.path(), &Expect { rows_min: Some(1), ..Expect::default() });
    assert!(found.facts.failed() && !format!("{:?}", found.facts).contains("s3cret"), "{found:?}");
}

#[test]
fn many_values_are_unique_within_bounded_memory() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("one.csv"), "a\n1\n").unwrap();
    let sql = "SELECT (v * 7919) % 1000003 AS k, 'text-' || v AS s FROM unnest(range(0, 800000)) AS u(v)";
    make(home.path(), &home.path().join("one.csv"), &home.path().join("many"), sql);
    let both = ["k", "s"].map(|name| (name.to_owned(), ColumnExpect { unique: true, ..ColumnExpect::default() }));
    let rules = Expect { columns: BTreeMap::from(both), ..Expect::default() }.rules();
    let found = inspect(&Inspection { path: home.path().join("many"), rules, now: NOW, memory_bytes: 24 << 20 });
    assert_eq!(said(&found), [""; 0], "{found:?}");
    assert_eq!(found.facts.table.unwrap().rows, Some(800_000));
}
