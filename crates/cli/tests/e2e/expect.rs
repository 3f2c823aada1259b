//! Data that is not what it is expected to be, from the project file to the stage that does not get it; and how two
//! versions of a table differ.

use std::fs;

use serde_json::Value;

use super::world::{World, states, workload};

const YAML: &str = "
project: flights
data:
  raw:
    path: raw.csv
    expect:
      columns: { delay: { type: integer, min: 0 } }
stages:
  late:
    run: 'sed s/delay/late/ inputs/raw/raw.csv > outputs/late/raw.csv'
    in: [raw]
    out: [late]
    expect: { late: { rows: { max: 2 }, unique: id } }
  report: { run: 'cp inputs/late/raw.csv outputs/report/', in: [late], out: [report] }
";

#[test]
fn what_is_not_as_expected_is_kept_marked_and_given_to_nobody() {
    let world = World::with_sites(&[("here", &[])]);
    let dir = world.project("flights", YAML, &[("raw.csv", "id,delay\n1,5\n2,-731\n")]);
    let csv = format!("{dir}/raw.csv");

    // The dataset fails: the rows are shown where the data is, and no run begins.
    let ran = world.cli(&["run", &dir]);
    assert_eq!(ran.code, 1, "{ran}");
    assert!(
        ran.err.contains("error: raw failed its expectations: column delay must be at least 0: 1 of 2 rows"),
        "{ran}"
    );
    assert!(ran.err.contains("id=2, delay=-731"), "{ran}");
    assert_eq!(world.json(&["ps"]), serde_json::json!([]));
    let versions = world.json(&["data", "show", "raw"]);
    assert_eq!(versions[0]["facts"]["checked"]["breaches"][0]["count"], 1, "{versions:#}");
    assert_eq!(versions[0]["facts"]["table"]["rows"], 2, "{versions:#}");
    assert!(!versions.to_string().contains("-731"), "{versions:#}");
    let failed = versions[0]["version"].as_str().unwrap().to_owned();

    // Asked for, it is used.
    let ran = world.cli(&["run", &dir, "--allow-failed", "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}");

    // The dataset is mended, and an output fails.
    fs::write(&csv, "id,delay\n1,5\n2,31\n2,0\n").unwrap();
    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 1, "{ran}");
    let view: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(states(&view), "late failed, report skipped");
    let late = workload(&view, "late");
    let told = "expectations failed: late: the table must have at most 2 rows, and has 3; \
                column id must be unique: 2 of 3 rows";
    assert_eq!(late["why"], told);
    let logs = world.ok(&["logs", &format!("{}/late", view["id"].as_str().unwrap())]);
    assert!(logs.contains("id=2, rows=2"), "{logs}");

    // It is kept, and says what it is and where it is from.
    let run = view["id"].as_str().unwrap().rsplit('-').next().unwrap().to_owned();
    let shown = world.json(&["data", "show", &format!("flights/late@{run}")]);
    assert_eq!(shown["version"]["facts"]["checked"]["breaches"].as_array().unwrap().len(), 2, "{shown:#}");
    assert_eq!(shown["lineage"]["made"][0]["workload"], format!("flights-{run}/late"), "{shown:#}");
    let raw = world.json(&["data", "show", "raw"])[0]["version"].as_str().unwrap().to_owned();
    assert_eq!(shown["lineage"]["made"][0]["inputs"]["raw"], raw, "{shown:#}");
    let text = world.ok(&["data", "show", &format!("raw@{}", &raw[..12])]);
    for part in ["CSV table, 3 rows", "as expected: 3 rules hold", "READ BY", "flights-"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // And how it differs from the version before.
    let (before, now) = (format!("raw@{}", &failed[..12]), format!("raw@{}", &raw[..12]));
    let diff = world.json(&["data", "diff", &before, &now, "--key", "id"]);
    assert_eq!(diff["table"]["rows_a"], 2, "{diff:#}");
    let rows = ["rows_only_a", "rows_only_b", "rows_changed"].map(|key| diff["table"][key].as_u64().unwrap());
    assert_eq!(rows, [0, 1, 1], "{diff:#}");
    assert_eq!(diff["files"]["changed"]["raw.csv"], serde_json::json!([20, 22]), "{diff:#}");
    let text = world.ok(&["data", "diff", &before, &now]);
    assert!(text.contains("rows: 2 in A, 3 in B; 1 only in A, 2 only in B\ncolumns: the same\n"), "{text}");
}
