//! Stages that are a query: run in this process by the built-in engine.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tombolo_core::spec::WorkloadSpec;
use tombolo_core::time::Millis;
use tombolo_sql::{Query, SqlError};

use super::placement::{Durable, Event};
use super::run::{Cause, End, Ran};
use super::{Shim, Wake};
use crate::clock::now;

/// How often a running query looks whether it shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs the query to its end or until it shall stop. It has no state to save, so that it gets no grace.
pub fn run(shim: &Arc<Shim>, sql: &str, woken: &Receiver<Wake>, began: Instant) -> Ran {
    let pid = std::process::id().cast_signed();
    if let Err(error) = shim.append(&Event::Running { at: now(), pid }, Durable::No) {
        crate::logs::mutter(&format!("the start can't be written down: {error}"));
    }
    let spec = &shim.order.order.spec;
    let query = query(shim, spec, sql);
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(query.threads).enable_all().build();
        // Nobody listens any more where the query was stopped; the process is about to end then.
        let _ = done.send(match runtime {
            Ok(runtime) => runtime.block_on(tombolo_sql::execute(&query)),
            Err(error) => Err(SqlError::Engine(format!("no threads for the query: {error}"))),
        });
    });
    let timeout = spec.job().and_then(|job| job.timeout);
    loop {
        match ended.recv_timeout(LOOK_EVERY) {
            Ok(Ok(outcome)) => {
                let size = tombolo_core::resources::bytes(outcome.bytes);
                shim.log.say(&format!("{} rows, {} columns, {size}", outcome.rows, outcome.columns.len()));
                return Ran { end: End::Code(0), ..Ran::default() };
            }
            Ok(Err(error)) => return failed(shim, spec, &error),
            Err(RecvTimeoutError::Disconnected) => {
                shim.log.say("the query's thread ended without a result");
                return Ran { end: End::Code(1), ..Ran::default() };
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let late = timeout.filter(|timeout| began.elapsed() > Duration::from_millis(timeout.0));
        let cause = match (woken.try_recv(), late) {
            (Ok(Wake::Stop), _) => Some(Cause::Asked),
            (_, Some(after)) => Some(Cause::TimedOut { after }),
            _ => None,
        };
        if cause.is_some() {
            return Ran { stopped: cause, ..Ran::default() };
        }
    }
}

fn query(shim: &Shim, spec: &WorkloadSpec, sql: &str) -> Query {
    let inputs = shim.placement.inputs_dir();
    let output = spec.outputs().next().map(|name| shim.placement.outputs_dir().join(name.as_str()));
    Query {
        sql: sql.to_owned(),
        tables: shim.order.order.inputs.keys().map(|name| (name.to_string(), inputs.join(name.as_str()))).collect(),
        output: output.unwrap_or_else(|| shim.placement.outputs_dir()),
        memory_bytes: usize::try_from(spec.resources.memory_bytes).ok().filter(|&bytes| bytes > 0),
        // One thread, unless more cpus are asked for, makes the output the same byte for byte each time.
        threads: usize::try_from(spec.resources.cpus_milli / 1000).unwrap_or(1).max(1),
    }
}

fn failed(shim: &Shim, spec: &WorkloadSpec, error: &SqlError) -> Ran {
    let text = error.to_string();
    shim.log.say(&text);
    if text.contains("No space left on device") {
        return Ran { end: End::NoSpace(text), ..Ran::default() };
    }
    // The engine's words for a query that needs more memory than it may have.
    let exhausted = text.contains("Resources exhausted");
    Ran {
        end: End::Code(1),
        oom_kills: u64::from(exhausted),
        memory_limit_bytes: spec.resources.memory_bytes,
        memory_peak_bytes: None,
        cpu: None,
        took: Millis::default(),
        stopped: None,
    }
}
