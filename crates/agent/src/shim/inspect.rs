//! What an output's files say of themselves, and whether they are what they are expected to be.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tombolo_core::expect::Expect;
use tombolo_core::facts::Facts;
use tombolo_core::ids::Name;
use tombolo_core::sync::Outcome;
use tombolo_core::time::Millis;
use tombolo_sql::{Inspection, inspect};

use super::Shim;
use crate::clock::now;

/// What looking for doubles may hold before it spills to the disk, in bytes.
const MEMORY_BYTES: usize = 256 << 20;

/// How often it is looked whether the inspection shall go on.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What ends the inspection early.
pub struct Until {
    /// With the timeout that it comes from.
    pub deadline: Option<(Instant, Millis)>,
    /// A command that was stopped, and left good outputs all the same, has heard its stop already.
    pub stop: bool,
}

/// Looks at an output that the command has left. Rows that break a rule are shown in the log, which stays at the site;
/// what is returned holds no value of the data. Given up, with the outcome, where `until` says so;
/// what was under way then ends with this process.
pub fn output(shim: &Shim, name: &Name, dir: &Path, expect: Option<&Expect>, until: &Until) -> Result<Facts, Outcome> {
    let rules = expect.map(Expect::rules).unwrap_or_default();
    let expected = !rules.is_empty();
    let inspection = Inspection { path: dir.to_owned(), rules, now: now(), memory_bytes: MEMORY_BYTES };
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || drop(done.send(inspect(&inspection))));
    let found = loop {
        match ended.recv_timeout(LOOK_EVERY) {
            Ok(found) => break found,
            Err(RecvTimeoutError::Disconnected) => {
                let why = format!("looking at the output {name} failed");
                return Err(Outcome::BadOutputs { why });
            }
            Err(RecvTimeoutError::Timeout) if until.stop && shim.placement.stop_was_asked() => {
                return Err(Outcome::Stopped);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some((_, after)) = until.deadline.filter(|(deadline, _)| Instant::now() > *deadline) {
            return Err(Outcome::TimedOut { after });
        }
    };
    for example in found.examples {
        match expected {
            true => shim.log.say(&format!("the output {name}: {}", example.of)),
            false => shim.log.say(&format!("note: no schema is known of the output {name}")),
        }
        for row in &example.rows {
            shim.log.say(&format!("    {row}"));
        }
    }
    Ok(found.facts.without_guessed_names(expect).bounded())
}
