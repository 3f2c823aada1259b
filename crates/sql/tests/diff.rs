//! What two versions of a table differ in.

use std::fs;

use tombolo_sql::{SqlError, TableDelta, TablesDiff, diff};

fn compare(a: &str, b: &str, key: &[&str]) -> Result<TableDelta, SqlError> {
    let home = tempfile::tempdir().unwrap();
    let (path_a, path_b) = (home.path().join("a.csv"), home.path().join("b.csv"));
    fs::write(&path_a, a).unwrap();
    fs::write(&path_b, b).unwrap();
    let key = key.iter().map(|name| (*name).to_owned()).collect();
    diff(&TablesDiff { a: path_a, b: path_b, key, memory_bytes: 64 << 20 })
}

/// Rows only in A, only in B, and changed.
fn check(a: &str, b: &str, key: &[&str], expected: (u64, u64, u64)) {
    let delta = compare(a, b, key).unwrap();
    assert_eq!((delta.rows_only_a, delta.rows_only_b, delta.rows_changed), expected, "{a} {b} {key:?}");
}

const A: &str = "id,v\n1,a\n2,b\n3,\n3,\n";

#[test]
fn rows_are_compared_as_a_bag() {
    check(A, A, &[], (0, 0, 0));
    check(A, "id,v\n3,\n2,b\n3,\n1,a\n", &[], (0, 0, 0));
    check(A, "id,v\n1,a\n2,b\n3,\n", &[], (1, 0, 0));
    check(A, "id,v\n1,a\n2,c\n3,\n3,\n4,d\n", &[], (1, 2, 0));
    check(A, "id,v\n", &[], (4, 0, 0));
}

#[test]
fn with_a_key_rows_change() {
    check(A, "id,v\n1,a\n2,c\n3,\n3,\n4,d\n", &["id"], (0, 1, 1));
    check(A, "id,v\n1,z\n3,\n3,y\n", &["id"], (1, 0, 2));
    let error = compare(A, A, &["key"]).unwrap_err().to_string();
    assert_eq!(error, "no column \"key\" in both; known: id, v");
}

#[test]
fn schemas_differ_and_the_rest_is_compared_all_the_same() {
    let delta = compare("id,gone,v\n1,x,5\n2,x,6\n", "id,v,\"a \"\"new\"\" one\"\n1,5.0,x\n3,2.5,x\n", &[]).unwrap();
    let text = |texts: [&str; 2]| vec![(texts[0].to_owned(), texts[1].to_owned())];
    assert_eq!(delta.columns_removed, text(["gone", "Utf8"]));
    assert_eq!(delta.columns_added, text(["a \"new\" one", "Utf8"]));
    assert_eq!(delta.columns_changed, [("v".to_owned(), "Int64".to_owned(), "Float64".to_owned())]);
    assert_eq!((delta.rows_a, delta.rows_b), (2, 2));
    // As text, 5 is not 5.0.
    assert_eq!((delta.rows_only_a, delta.rows_only_b), (2, 2));
    check("a\n1\n2\n", "b\n1\n", &[], (1, 0, 0));
}
