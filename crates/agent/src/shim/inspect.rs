//! What an output's files say of themselves, and whether they are what they are expected to be.

use std::path::Path;

use tombolo_core::expect::{Expect, Facts};
use tombolo_core::ids::Name;
use tombolo_sql::{Inspection, inspect};

use crate::clock::now;
use crate::logs::LogWriter;

/// What looking for doubles may hold before it spills to the disk, in bytes.
const MEMORY_BYTES: usize = 256 << 20;

/// Looks at an output that the command has left. Rows that break a rule are shown in the log, which stays at the site;
/// what is returned holds no value of the data.
pub fn output(log: &LogWriter, name: &Name, dir: &Path, expect: Option<&Expect>) -> Facts {
    let rules = expect.map(Expect::rules).unwrap_or_default();
    let expected = !rules.is_empty();
    let found = inspect(&Inspection { path: dir.to_owned(), rules, now: now(), memory_bytes: MEMORY_BYTES });
    for example in found.examples {
        match expected {
            true => log.say(&format!("the output {name}: {}", example.of)),
            false => log.say(&format!("note: no schema is known of the output {name}")),
        }
        for row in &example.rows {
            log.say(&format!("    {row}"));
        }
    }
    found.facts
}
