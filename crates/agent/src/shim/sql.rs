//! Stages that are a query: run in this process by the built-in engine.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use tombolo_core::spec::WorkloadSpec;
use tombolo_core::time::Millis;
use tombolo_sql::{Query, SqlError};

use super::run::{End, Ran};
use super::{Shim, Wake, inner};

pub fn run(shim: &Shim, sql: &str, woken: &Receiver<Wake>, began: Instant) -> Ran {
    let spec = &shim.order.order.spec;
    let query = query(shim, spec, sql);
    let threads = query.threads;
    match inner::run(shim, woken, began, threads, async move { tombolo_sql::execute(&query).await }) {
        Ok(Ok(outcome)) => {
            let size = tombolo_core::resources::bytes(outcome.bytes);
            shim.log.say(&format!("{} rows, {} columns, {size}", outcome.rows, outcome.columns.len()));
            Ran { end: End::Code(0), ..Ran::default() }
        }
        Ok(Err(error)) => failed(shim, spec, &error),
        Err(ran) => ran,
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
