//! After the command: what its end means, its gate, its outputs and its state.
//!
//! | end | outcome |
//! |---|---|
//! | exit 0 of a job | succeeded, where the gate and the outputs are good |
//! | exit 0 of a job after SIGTERM | the same, where it has outputs and all are good; else stopped: many programs answer SIGTERM with exit 0 half-way |
//! | exit 75 after SIGTERM | checkpointed |
//! | any other end after SIGTERM | stopped, evicted, timed out or never ready, whatever it was told for |
//! | exit n, or a signal | failed, signalled; out of memory where the kernel says so |
//! | exit 0 of a service after SIGTERM | stopped, or evicted |
//! | any exit of a service by itself, also 0 | failed with that code: a service stays |

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use tombolo_core::ids::{Name, VersionId};
use tombolo_core::spec::{Command, Gate, Job};
use tombolo_core::sync::{Finish, Made, Outcome};
use tombolo_data::{AddOptions, DataError};

use super::prepare::{self, Prepared};
use super::run::{Cause, EVICTED, End, Ran};
use super::{Shim, files, inspect};
use crate::clock::now;
use crate::state;

/// EX_TEMPFAIL of sysexits(3): 'checkpointed, resume me'.
pub const CHECKPOINTED: i32 = 75;
/// What is told of a stage's outputs, in bytes: far below what an agent reads and reports at once.
const TOLD_BYTES_MAX: usize = 1 << 20;
/// Longest file that a gate reads, in bytes.
const GATE_BYTES_MAX: u64 = 16 << 20;

/// Makes the end durable in the store and says what it is.
pub fn commit(shim: &Shim, prepared: &Prepared, ran: Ran) -> Finish {
    let mut finish = Finish::without_running(Outcome::Stopped, now());
    finish.ran = Some(ran.took);
    finish.memory_peak_bytes = ran.memory_peak_bytes;
    finish.cpu = ran.cpu;
    finish.outcome = match outcome(&ran) {
        Some(outcome) => outcome,
        None => match shim.order.order.spec.job() {
            Some(job) => commit_job(shim, prepared, job, &ran, &mut finish),
            None => service_end(&ran),
        },
    };
    // The next import of such a source goes on from what this one leaves.
    let incremental = matches!(&shim.order.order.spec.command, Command::Import(source) if source.is_incremental());
    if incremental || !finish.outcome.is_success() {
        let saved = save_state(shim, prepared, &mut finish.outcome);
        (finish.state, finish.state_bytes) = saved.map_or((None, 0), |(state, bytes)| (Some(state), bytes));
    }
    if !finish.outcome.is_success() {
        shim.log.say(&finish.outcome.to_string());
    }
    finish.at = now();
    finish
}

/// None for a job's or service's exit 0.
fn outcome(ran: &Ran) -> Option<Outcome> {
    match (ran.stopped, &ran.end) {
        (Some(cause @ (Cause::TimedOut { .. } | Cause::NeverReady { .. })), _) => Some(told(cause)),
        (Some(Cause::Asked | Cause::Evicted), End::Code(CHECKPOINTED)) => Some(Outcome::Checkpointed),
        (_, End::Code(0)) => None,
        (Some(cause), _) => Some(told(cause)),
        (None, End::NoSpace(why)) => Some(Outcome::NoSpace { why: why.clone() }),
        (None, End::Refused(why)) => Some(Outcome::Unprepared { why: why.clone() }),
        // A shell whose child was killed for memory exits with a code of its own.
        (None, _) if ran.oom_kills > 0 => Some(Outcome::OutOfMemory { limit_bytes: ran.memory_limit_bytes }),
        (None, End::Code(code)) => Some(Outcome::Failed { code: *code }),
        (None, End::Signal(signal)) => Some(Outcome::Signalled { signal: *signal }),
        (None, End::Unknown) => Some(Outcome::Lost { why: "the system did not tell how it ended".into() }),
    }
}

/// What became of a command that was told to stop and has nothing to show for it.
fn told(cause: Cause) -> Outcome {
    match cause {
        Cause::Asked => Outcome::Stopped,
        Cause::Evicted => Outcome::Evicted { why: EVICTED.to_owned() },
        Cause::TimedOut { after } => Outcome::TimedOut { after },
        Cause::NeverReady { after } => Outcome::NeverReady { after },
    }
}

/// A service that has exited with 0: many servers do when they are asked to stop.
fn service_end(ran: &Ran) -> Outcome {
    ran.stopped.map_or(Outcome::Failed { code: 0 }, told)
}

/// A job that has exited with 0.
fn commit_job(shim: &Shim, prepared: &Prepared, job: &Job, ran: &Ran, finish: &mut Finish) -> Outcome {
    let stopped = ran.stopped.map(told);
    if let Some(stopped) = stopped.clone().filter(|_| job.outputs.is_empty()) {
        return stopped;
    }
    let outputs = shim.placement.outputs_dir();
    let good = check_outputs(&outputs, job).and_then(|()| match &job.gate {
        None => Ok(()),
        Some(gate) => {
            let value = metric(&outputs, gate).map_err(|why| Outcome::BadOutputs { why })?;
            finish.metric = Some(value);
            if gate.bound.holds(value) {
                return Ok(());
            }
            Err(Outcome::GateFailed { metric: gate.metric.clone(), value, bound: gate.bound })
        }
    });
    match good.and_then(|()| add_outputs(shim, prepared, job, ran)) {
        Ok(made) => {
            let unexpected = Outcome::unexpected(job, &made);
            if let (Some(_), Some(stopped)) = (&unexpected, stopped) {
                return stopped;
            }
            finish.outputs = made;
            unexpected.unwrap_or(Outcome::Succeeded)
        }
        Err(outcome @ Outcome::BadOutputs { .. }) => stopped.unwrap_or(outcome),
        Err(outcome) => outcome,
    }
}

fn check_outputs(outputs: &Path, job: &Job) -> Result<(), Outcome> {
    for name in &job.outputs {
        let dir = outputs.join(name.as_str());
        let why = match fs::symlink_metadata(&dir) {
            Ok(meta) if !meta.is_dir() => format!("outputs/{name} is no directory"),
            Ok(_) => match files::is_empty(&dir) {
                Ok(false) => continue,
                Ok(true) => format!(
                    "the output {name} is empty\nhint: write its files to outputs/{name} or $TOMBOLO_OUTPUT_{}",
                    name.as_env()
                ),
                Err(error) => format!("the output {name} can't be read: {error}"),
            },
            Err(error) => format!("the output {name} is missing: {error}"),
        };
        return Err(Outcome::BadOutputs { why });
    }
    Ok(())
}

fn add_outputs(shim: &Shim, prepared: &Prepared, job: &Job, ran: &Ran) -> Result<BTreeMap<Name, Made>, Outcome> {
    let mut made = BTreeMap::new();
    // The command's time counts, and what is done for it afterwards.
    let deadline = job.timeout.map(|timeout| {
        let left = timeout.0.saturating_sub(ran.took.0);
        (Instant::now() + Duration::from_millis(left), timeout)
    });
    let until = inspect::Until { deadline, stop: ran.stopped.is_none() };
    for name in &job.outputs {
        let dir = shim.placement.outputs_dir().join(name.as_str());
        let added = prepared.store.add_tree(&dir, &AddOptions::default());
        let added = added.map_err(|error| not_added(&format!("the output {name}"), error))?;
        let facts = inspect::output(shim, name, &dir, job.expect.get(name), &until)?;
        let sketch = prepared.store.sketch(added.version);
        if let Err(error) = &sketch {
            shim.log.say(&format!("warning: the output {name} can't be compared with other versions: {error}"));
        }
        made.insert(name.clone(), Made { facts, sketch: sketch.ok(), ..files::made(added) });
    }
    if told_within(&mut made, TOLD_BYTES_MAX) {
        shim.log.say("note: there are so many outputs and columns that not all of what was found of them is told");
    }
    Ok(made)
}

/// Leaves out what is only good to know until what is told of the outputs fits: sketches first, then columns, then breaches. Answers
/// whether anything was left out.
fn told_within(made: &mut BTreeMap<Name, Made>, bytes_max: usize) -> bool {
    let length = |made: &BTreeMap<Name, Made>| serde_json::to_vec(made).map_or(0, |text| text.len());
    let leave_out: [fn(&mut Made); 3] = [
        |made| made.sketch = None,
        |made| {
            if let Some(table) = &mut made.facts.table {
                table.more = table.more.saturating_add(std::mem::take(&mut table.columns).len() as u64);
            }
        },
        // One is kept: without any it would not have failed.
        |made| made.facts.checked.iter_mut().for_each(|checked| checked.keep(1)),
    ];
    let mut cut = false;
    for leave_out in leave_out {
        if length(made) > bytes_max {
            made.values_mut().for_each(leave_out);
            cut = true;
        }
    }
    cut
}

fn not_added(what: &str, error: DataError) -> Outcome {
    let why = format!("{what} can't be kept: {error}");
    if error.is_no_space() { Outcome::NoSpace { why } } else { Outcome::BadOutputs { why } }
}

/// What of the state directory the next placement can go on from, and its bytes. That it can't be kept is worth telling
/// where the end promised it.
fn save_state(shim: &Shim, prepared: &Prepared, outcome: &mut Outcome) -> Option<(VersionId, u64)> {
    let dir = &shim.order.state_dir;
    if files::is_empty(dir).unwrap_or(true) {
        return None;
    }
    // Somebody waits for it: what the last copy has seen is not read again.
    let mut how = state::how_added(dir);
    if shim.order.host.is_some() {
        // What the agent has seen of it may have been written to since through the memory of processes that it can't see.
        how.seen = None;
    }
    match prepared.store.add_tree(dir, &how) {
        Ok(added) => {
            if let Err(error) = prepare::note_state(dir, shim.order.epoch, added.version) {
                shim.log.say(&format!("warning: the state directory can't be noted: {error}"));
            }
            Some((added.version, added.bytes))
        }
        Err(error) => {
            shim.log.say(&format!("warning: the state directory can't be kept: {error}"));
            if matches!(outcome, Outcome::Checkpointed | Outcome::Succeeded) {
                *outcome = not_added("the state directory", error);
            }
            None
        }
    }
}

/// The number under the gate's key. No number at all, or one that compares to nothing, passes no gate.
fn metric(outputs: &Path, gate: &Gate) -> Result<f64, String> {
    let Gate { output, file, metric, .. } = gate;
    let place = format!("{output}/{file}");
    if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("the gate's file {place} is not within the output"));
    }
    let mut text = String::new();
    let opened = fs::File::open(outputs.join(output.as_str()).join(file));
    opened
        .and_then(|file| file.take(GATE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| format!("the gate's file {place} can't be read: {error}"))?;
    let object: serde_json::Value = serde_json::from_str(&without_nan(&text))
        .map_err(|error| format!("the gate's file {place} is no JSON: {error}"))?;
    match object.get(metric) {
        None => Err(format!("the gate's file {place} has no {metric}")),
        Some(serde_json::Value::Null) => Err(format!("{metric} in {place} is no number (null, NaN or infinite)")),
        Some(value) => value.as_f64().ok_or_else(|| format!("{metric} in {place} is no number: {value}")),
    }
}

/// Python's `json` writes `NaN` and `Infinity`, which JSON doesn't have; they become `null`.
fn without_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(quote) = rest.find('"') {
        let (before, string) = rest.split_at(quote);
        out.push_str(&nan_to_null(before));
        let mut escaped = false;
        let end = string[1..].find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let length = end.map_or(string.len(), |end| end + 2);
        out.push_str(&string[..length]);
        rest = &string[length..];
    }
    out + &nan_to_null(rest)
}

fn nan_to_null(text: &str) -> String {
    text.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::digest::Digest;
    use tombolo_core::facts::{Column, Facts, Format, Table};
    use tombolo_core::spec::Bound;
    use tombolo_core::time::Millis;

    #[test]
    fn ends_have_their_outcomes() {
        let after = Millis(5);
        let check = |stopped, end: End, oom_kills, expected: Option<Outcome>| {
            let ran = Ran { end: end.clone(), stopped, oom_kills, memory_limit_bytes: 7, ..Ran::default() };
            assert_eq!(outcome(&ran), expected, "{stopped:?} {end:?} {oom_kills}");
        };
        check(None, End::Code(0), 0, None);
        check(None, End::Code(0), 1, None);
        check(None, End::Code(75), 0, Some(Outcome::Failed { code: 75 }));
        check(None, End::Signal(9), 0, Some(Outcome::Signalled { signal: 9 }));
        check(None, End::Signal(9), 1, Some(Outcome::OutOfMemory { limit_bytes: 7 }));
        check(None, End::Code(137), 1, Some(Outcome::OutOfMemory { limit_bytes: 7 }));
        check(Some(Cause::Asked), End::Code(75), 0, Some(Outcome::Checkpointed));
        check(Some(Cause::Asked), End::Code(0), 0, None);
        check(Some(Cause::Asked), End::Code(1), 0, Some(Outcome::Stopped));
        check(Some(Cause::Asked), End::Signal(9), 0, Some(Outcome::Stopped));
        check(Some(Cause::TimedOut { after }), End::Code(0), 0, Some(Outcome::TimedOut { after }));
        check(Some(Cause::NeverReady { after }), End::Signal(15), 0, Some(Outcome::NeverReady { after }));
    }

    #[test]
    fn a_service_that_ends_well_when_it_is_asked_to_has_not_failed() {
        let ran = |stopped| Ran { end: End::Code(0), stopped, ..Ran::default() };
        assert_eq!(service_end(&ran(Some(Cause::Asked))), Outcome::Stopped);
        assert_eq!(service_end(&ran(None)), Outcome::Failed { code: 0 });
    }

    #[test]
    fn what_is_told_of_outputs_is_bounded() {
        let column = Column { name: "n".repeat(200), kind: "Int64".to_owned(), nulls: None };
        let table = Table { format: Format::Csv, rows: Some(7), columns: vec![column; 400], more: 1 };
        let facts = Facts { table: Some(table), checked: None };
        let one = Made { version: VersionId(Digest([1; 32])), bytes: 1, files: 1, facts, sketch: None };
        let made: BTreeMap<_, _> = (0..20).map(|n| (Name::new(format!("o{n}")).unwrap(), one.clone())).collect();
        let (mut all, mut few) = (made.clone(), made.into_iter().take(2).collect::<BTreeMap<_, _>>());
        assert!(told_within(&mut all, TOLD_BYTES_MAX) && !told_within(&mut few, TOLD_BYTES_MAX));
        assert!(serde_json::to_vec(&all).unwrap().len() < TOLD_BYTES_MAX);
        let kept = all.values().next().unwrap().facts.table.as_ref().unwrap();
        assert_eq!((kept.rows, kept.columns.len(), kept.more), (Some(7), 0, 401));
        assert_eq!(few.values().next().unwrap(), &one);
    }

    #[test]
    fn metrics_are_read_or_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("m")).unwrap();
        let check = |text: &str, file: &str, expected: Result<f64, &str>| {
            fs::write(dir.path().join("m/metrics.json"), text).unwrap();
            let gate = Gate {
                output: Name::new("m").unwrap(),
                file: file.into(),
                metric: "auc".into(),
                bound: Bound::AtLeast(0.0),
            };
            match (metric(dir.path(), &gate), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (seen, expected) => panic!("{seen:?}, expected {expected:?}"),
            }
        };
        check(r#"{"auc": 0.75, "other": NaN}"#, "metrics.json", Ok(0.75));
        check(r#"{"auc": 1}"#, "metrics.json", Ok(1.0));
        check(r#"{"auc": NaN, "note": "a \"NaN\""}"#, "metrics.json", Err("is no number (null, NaN or infinite)"));
        check(r#"{"auc": -Infinity}"#, "metrics.json", Err("is no number"));
        check(r#"{"auc": "0.9"}"#, "metrics.json", Err("is no number: \"0.9\""));
        check(r#"{"acc": 1}"#, "metrics.json", Err("has no auc"));
        check("auc=1", "metrics.json", Err("is no JSON"));
        check("{}", "none.json", Err("can't be read"));
        check("{}", "../m/metrics.json", Err("is not within the output"));
    }

    #[test]
    fn nan_within_a_string_stays() {
        assert_eq!(without_nan(r#"{"a\\": NaN, "NaN\"": [-Infinity]}"#), r#"{"a\\": null, "NaN\"": [null]}"#);
        assert_eq!(without_nan("\"open NaN"), "\"open NaN");
    }
}
