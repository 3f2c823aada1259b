//! Looking at data that is being added: its schema and rows, and whether it is what it is expected to be.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::task::JoinHandle;
use tombolo_core::Residency;
use tombolo_core::expect::{Expect, OnFailure};
use tombolo_core::facts::{Checked, Facts};
use tombolo_sql::{Findings, Inspection};

use crate::failure::{Exit, Failure};
use crate::{progress, render};

/// What looking for doubles may hold before it spills to the disk, in bytes.
const MEMORY_BYTES: usize = 512 << 20;

/// A look at a file or directory that has begun, on a thread of its own.
pub struct Look {
    what: String,
    path: PathBuf,
    before: Vec<(PathBuf, u64, Option<SystemTime>)>,
    found: JoinHandle<Findings>,
    expected: bool,
}

/// Begins to look, so that what else reads the data does so at the same time, from the same pages in memory.
pub fn begin(what: &str, path: &Path, expect: Option<&Expect>) -> Look {
    let rules = expect.map(Expect::rules).unwrap_or_default();
    let expected = !rules.is_empty();
    let inspection = Inspection { path: path.to_owned(), rules, now: render::now(), memory_bytes: MEMORY_BYTES };
    let before = tombolo_sql::stamps(path);
    let found = tokio::task::spawn_blocking(move || tombolo_sql::inspect(&inspection));
    Look { what: what.to_owned(), path: path.to_owned(), before, found, expected }
}

/// What was found. Rows that break a rule are shown here, where the data is, and go nowhere else. Where the data may not
/// go everywhere, neither do names that may be values.
pub async fn finish(look: Look, expect: Option<&Expect>, residency: &Residency) -> Result<Facts, Failure> {
    let Look { what, path, before, found, expected } = look;
    let bar = progress::spinner();
    bar.set_message(format!("looking at {what}"));
    let found = found.await;
    bar.finish_and_clear();
    let found =
        found.map_err(|panic| Failure::system(format!("looking at {what} ended unexpectedly")).because(panic))?;
    if tombolo_sql::stamps(&path) != before {
        return Err(Failure::usage(format!("{what} changed while it was being added"))
            .because(format!(
                "{} is not as it was when it was begun, so what was found may not be of what was stored",
                path.display()
            ))
            .hint("wait until whatever writes there is done, and add it again"));
    }
    for example in found.examples {
        match expected {
            true => eprintln!("{what}: {}", example.of),
            false => eprintln!("note: no schema is known of {what}"),
        }
        for row in &example.rows {
            eprintln!("    {row}");
        }
    }
    if let Some(checked) = &found.facts.checked
        && !checked.failed()
    {
        eprintln!("{what}: {checked}");
    }
    Ok(match residency.is_anywhere() {
        true => found.facts,
        false => found.facts.without_guessed_names(expect),
    })
}

/// An error where stages don't get what was found so. It is known and marked by then.
pub fn refused(what: &str, facts: &Facts, expect: Option<&Expect>) -> Result<(), Failure> {
    let taken = expect.is_some_and(|expect| expect.on_failure == OnFailure::Use);
    match facts.checked.as_ref().filter(|checked| checked.failed()) {
        Some(checked) if taken => {
            eprintln!("warning: {what} failed its expectations, and is used all the same: {checked}");
            Ok(())
        }
        Some(checked) => Err(failure(what, checked)),
        None => Ok(()),
    }
}

fn failure(what: &str, checked: &Checked) -> Failure {
    let failure = Failure::usage(format!("{what} failed its expectations: {checked}"))
        .because("the version is kept and marked, and no stage gets it")
        .hint("mend the data, or take it as it is: tombolo run --allow-failed, or `on_failure: use` under `expect`");
    Failure { exit: Exit::Workload, ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_found_of_data_that_changed_meanwhile_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, "a\n1\n").unwrap();
        let table = |facts: Facts| facts.table.map(|table| (table.rows, table.columns[0].nulls));
        let found = finish(begin("raw", &path, None), None, &Residency::anywhere()).await.unwrap();
        assert_eq!(table(found), Some((Some(1), Some(0))));

        let look = begin("raw", &path, None);
        std::fs::write(&path, "a\n1\n2\n").unwrap();
        let failure = finish(look, None, &Residency::anywhere()).await.unwrap_err();
        assert!(failure.what.contains("raw changed while it was being added"), "{failure}");
        let look = begin("raw", &path, None);
        std::fs::remove_file(&path).unwrap();
        assert!(finish(look, None, &Residency::anywhere()).await.is_err());
    }
}
