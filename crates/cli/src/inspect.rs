//! Looking at data that is being added: its schema and rows, and whether it is what it is expected to be.

use std::path::Path;

use tombolo_core::Residency;
use tombolo_core::expect::{Expect, OnFailure};
use tombolo_core::facts::{Checked, Facts};
use tombolo_sql::Inspection;

use crate::failure::{Exit, Failure};
use crate::{progress, render};

/// What looking for doubles may hold before it spills to the disk, in bytes.
const MEMORY_BYTES: usize = 512 << 20;

/// Looks at a file or directory. Rows that break a rule are shown here, where the data is, and go nowhere else. Where the
/// data may not go everywhere, neither do names that may be values.
pub async fn inspect(
    what: &str,
    path: &Path,
    expect: Option<&Expect>,
    residency: &Residency,
) -> Result<Facts, Failure> {
    let rules = expect.map(Expect::rules).unwrap_or_default();
    let expected = !rules.is_empty();
    let bar = progress::spinner();
    bar.set_message(format!("looking at {what}"));
    let inspection = Inspection { path: path.to_owned(), rules, now: render::now(), memory_bytes: MEMORY_BYTES };
    let found = tokio::task::spawn_blocking(move || tombolo_sql::inspect(&inspection)).await;
    bar.finish_and_clear();
    let found =
        found.map_err(|panic| Failure::system(format!("looking at {what} ended unexpectedly")).because(panic))?;
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
