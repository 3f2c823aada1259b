//! Outputs that are not what they are expected to be: the stage is red, the version is kept, the rows stay in the log.

use std::collections::BTreeMap;

use tombolo_core::expect::{ColumnExpect, Expect, OnFailure, Value};
use tombolo_core::sync::Outcome;

use crate::site::{Site, job_with, name};

const SCRIPT: &str = r"
    printf 'id,delay\n1,5\n2,-7\n3,12\n' > outputs/late/part.csv
    echo '{}' > outputs/report/r.json
";

fn expecting(on_failure: OnFailure, min: i64) -> BTreeMap<tombolo_core::Name, Expect> {
    let delay = ColumnExpect { min: Some(Value::Integer(min)), ..ColumnExpect::default() };
    let columns = BTreeMap::from([("delay".to_owned(), delay)]);
    BTreeMap::from([(name("late"), Expect { rows_min: Some(1), columns, on_failure, ..Expect::default() })])
}

async fn run(site: &mut Site, on_failure: OnFailure, min: i64) -> tombolo_core::sync::Finish {
    let spec = job_with(SCRIPT, |job| {
        job.outputs = [name("late"), name("report")].into();
        job.expect = expecting(on_failure, min);
    });
    site.run(spec).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_is_looked_at_and_passes() {
    let mut site = Site::new();
    let finish = run(&mut site, OnFailure::Refuse, -7).await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{}", site.all_logs().await);
    let facts = &finish.outputs[&name("late")].facts;
    let table = facts.table.as_ref().unwrap();
    assert_eq!((table.rows, table.columns[1].name.as_str(), table.columns[1].nulls), (Some(3), "delay", Some(0)));
    // Nobody has written this one down, and in a file without a header it would be a value.
    assert_eq!((table.columns[0].name.as_str(), table.columns[0].nulls), ("column 1", Some(0)));
    let checked = facts.checked.as_ref().unwrap();
    assert_eq!((checked.rules, checked.failed()), (3, false));
    assert_eq!(finish.outputs[&name("report")].facts, Default::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_fails_is_kept_and_its_rows_are_told_to_the_log_alone() {
    let mut site = Site::new();
    let finish = run(&mut site, OnFailure::Refuse, 0).await;
    let log = site.all_logs().await;
    let words = "expectations failed: late: column delay must be at least 0: 1 of 3 rows";
    assert_eq!(finish.outcome.to_string(), words, "{log}");
    assert!(finish.outputs[&name("late")].facts.failed());
    let kept = site.files(finish.outputs[&name("late")].version);
    assert_eq!(kept["part.csv"], "id,delay\n1,5\n2,-7\n3,12\n");
    assert!(log.contains("tombolo: the output late: column delay must be at least 0: 1 of 3 rows"), "{log}");
    assert!(log.contains("tombolo:     id=2, delay=-7"), "{log}");
    // All that goes to the control plane.
    assert!(!format!("{finish:?}").contains("-7"), "{finish:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_fails_is_used_where_that_is_asked_for() {
    let mut site = Site::new();
    let finish = run(&mut site, OnFailure::Use, 0).await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{}", site.all_logs().await);
    assert!(finish.outputs[&name("late")].facts.failed());
}
