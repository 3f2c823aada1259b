//! What a body must hold beyond its shape. The project file's reader checks the same with lines and columns; the
//! API trusts no client to have used it.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::draining::{self, MAINTENANCE};
use tombolo_core::expect::{Expect, SET_VALUES_MAX, Value};
use tombolo_core::facts::{COLUMN_NAME_BYTES_MAX, COLUMNS_MAX};
use tombolo_core::site::{Labels, Prices};
use tombolo_core::spec::{
    Bound, Command, FAILOVER_AFTER_MIN, Objective, PRIORITIES_MAX, ProjectSpec, REASON_CHARS_MAX, SNAPSHOT_EVERY_MIN,
    SNAPSHOT_SITES_MAX, STAGES_MAX, WorkloadSpec,
};
use tombolo_core::{Millis, Name, Resources};

use super::fault::Fault;

/// Amounts up to here can be added up over all that a control plane knows without overflow.
const BYTES_MAX: u64 = 1 << 50;
const CPUS_MILLI_MAX: u64 = 100_000_000;
const GPUS_MAX: u32 = 10_000;
/// Longest time that anything may be given.
const SPAN_MAX: Millis = Millis::from_secs(10 * 366 * 24 * 3600);
const PRIORITY_MAX: i32 = 1_000;
const DATASETS_MAX: usize = 2_000;
/// Longest text that a value is compared with.
const VALUE_BYTES_MAX: usize = 10_000;
const LABELS_MAX: usize = 100;
const LABEL_BYTES_MAX: usize = 200;

pub fn project(spec: &ProjectSpec) -> Result<(), Fault> {
    if spec.workloads.is_empty() {
        return Err(bad("the project has no stages and no services"));
    }
    if spec.workloads.len() > STAGES_MAX || spec.data.len() > DATASETS_MAX {
        let title = format!("a project has at most {STAGES_MAX} stages and services and {DATASETS_MAX} datasets");
        return Err(bad(title));
    }
    objective(Some(spec.objective))?;
    if spec.workloads.values().map(|spec| spec.priority).collect::<BTreeSet<_>>().len() > PRIORITIES_MAX {
        return Err(bad(format!("a project has at most {PRIORITIES_MAX} different priorities")));
    }
    for (name, expect) in spec.data.iter().filter_map(|(name, data)| Some((name, data.expect.as_ref()?))) {
        expectations(name, expect)?;
    }
    let mut makers: BTreeMap<&Name, Option<&Name>> = spec.data.keys().map(|name| (name, None)).collect();
    for (name, workload) in &spec.workloads {
        for output in workload.outputs() {
            if makers.insert(output, Some(name)).is_some() {
                return Err(bad(format!("the output {output} of {name} has a name that is taken")));
            }
        }
    }
    for (name, spec) in &spec.workloads {
        workload(name, spec, &makers)?;
    }
    cycles(spec, &makers)
}

fn workload(name: &Name, spec: &WorkloadSpec, makers: &BTreeMap<&Name, Option<&Name>>) -> Result<(), Fault> {
    if let Some(source) = spec.inputs.values().find(|source| !makers.contains_key(source)) {
        return Err(bad(format!("{name} reads {source}, which nothing makes")));
    }
    resources(&spec.resources)?;
    let spans = [Some(spec.grace), spec.failover_after, spec.duration, spec.state.map(|state| state.every)];
    let job = spec.job();
    let ready = spec.service().and_then(|service| service.ready.as_ref());
    let spans = spans.into_iter().chain([job.and_then(|job| job.timeout), ready.map(|ready| ready.timeout)]);
    if spans.flatten().any(|span| span > SPAN_MAX) {
        return Err(bad(format!("{name} names a time longer than {SPAN_MAX}")));
    }
    if spec.failover_after.is_some_and(|lease| lease < FAILOVER_AFTER_MIN) {
        return Err(bad(format!("failover_after of {name} is below {FAILOVER_AFTER_MIN}")));
    }
    if spec
        .state
        .is_some_and(|state| state.every < SNAPSHOT_EVERY_MIN || !(1..=SNAPSHOT_SITES_MAX).contains(&state.sites))
    {
        return Err(bad(format!(
            "the state of {name} is copied every {SNAPSHOT_EVERY_MIN} at most, to 1 to {SNAPSHOT_SITES_MAX} sites"
        )));
    }
    if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&spec.priority) {
        return Err(bad(format!("the priority of {name} is not between -{PRIORITY_MAX} and {PRIORITY_MAX}")));
    }
    let bad_variable = |(key, value): &(&String, &String)| {
        key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') || key.starts_with("TOMBOLO_")
    };
    if let Some((key, _)) = spec.env.iter().find(bad_variable) {
        return Err(bad(format!("{name} can't set the variable {key:?}")));
    }
    if spec.service().is_some_and(|service| service.replicas == 0) {
        return Err(bad(format!("the service {name} has no replicas")));
    }
    if let Command::Import(source) = &spec.command {
        if !spec.inputs.is_empty() || job.is_none_or(|job| job.outputs.len() != 1) {
            return Err(bad(format!("the import {name} has to be a job with one output and without inputs")));
        }
        source.check().map_err(|why| bad(format!("{name} can't be imported: {why}")))?;
    }
    if let Some(job) = job {
        for (output, expect) in &job.expect {
            expectations(output, expect)?;
        }
        if let Some(output) = job.release.iter().find(|output| !job.outputs.contains(*output)) {
            return Err(bad(format!("{name} releases {output}, which it does not make")));
        }
        let fits = |reason: &String| (1..=REASON_CHARS_MAX).contains(&reason.trim().chars().count());
        if let Some((output, _)) = job.reasons.iter().find(|(name, why)| !job.release.contains(*name) || !fits(why)) {
            let title = format!(
                "{name} has a reason for {output} that is for no release, or not of 1 to {REASON_CHARS_MAX} characters"
            );
            return Err(bad(title));
        }
        if let Some(gate) = &job.gate {
            let (Bound::AtLeast(bound) | Bound::AtMost(bound)) = gate.bound;
            if !job.outputs.contains(&gate.output) || !bound.is_finite() {
                return Err(bad(format!("the gate of {name} needs one of its outputs and a bound that is a number")));
            }
        }
    }
    Ok(())
}

fn expectations(name: &Name, expect: &Expect) -> Result<(), Fault> {
    let long = |value: &&Value| matches!(value, Value::Text(text) if text.len() > VALUE_BYTES_MAX);
    let mut named = expect.columns.keys().chain(&expect.unique);
    let fits = expect.columns.len().max(expect.unique.len()) <= COLUMNS_MAX
        && named.all(|column| column.len() <= COLUMN_NAME_BYTES_MAX)
        && expect.columns.values().all(|column| {
            let mut values = column.one_of.iter().chain(&column.min).chain(&column.max);
            column.one_of.len() <= SET_VALUES_MAX && !values.any(|value| long(&value))
        });
    fits.then_some(()).ok_or_else(|| {
        let title = format!(
            "what is expected of {name} is too much: at most {COLUMNS_MAX} columns with names of \
             {COLUMN_NAME_BYTES_MAX} bytes, sets of {SET_VALUES_MAX} values, and values of {VALUE_BYTES_MAX} bytes"
        );
        bad(title)
    })
}

/// Takes stages away whose inputs are all there until none is left, or only cycles are.
fn cycles(spec: &ProjectSpec, makers: &BTreeMap<&Name, Option<&Name>>) -> Result<(), Fault> {
    let upstream = |workload: &WorkloadSpec| -> BTreeSet<Name> {
        workload.inputs.values().filter_map(|source| makers.get(source).copied().flatten().cloned()).collect()
    };
    let mut waits: BTreeMap<&Name, BTreeSet<Name>> =
        spec.workloads.iter().map(|(name, workload)| (name, upstream(workload))).collect();
    let mut readers: BTreeMap<Name, Vec<&Name>> = BTreeMap::new();
    for (name, upstream) in &waits {
        for maker in upstream {
            readers.entry(maker.clone()).or_default().push(name);
        }
    }
    let mut free: Vec<&Name> = waits.iter().filter(|(_, on)| on.is_empty()).map(|(name, _)| *name).collect();
    while let Some(name) = free.pop() {
        waits.remove(name);
        for reader in readers.remove(name).unwrap_or_default() {
            if let Some(on) = waits.get_mut(reader) {
                on.remove(name);
                free.extend(on.is_empty().then_some(reader));
            }
        }
    }
    match waits.keys().next() {
        None => Ok(()),
        Some(name) => Err(bad(format!("{name} needs, by way of others, what it makes itself"))),
    }
}

pub fn objective(objective: Option<Objective>) -> Result<(), Fault> {
    match objective {
        Some(Objective::Weighted(weight)) if !(0.0..=1.0).contains(&weight) => {
            Err(bad(format!("the objective's weight of time is {weight}; it goes from 0 to 1")))
        }
        Some(Objective::Time | Objective::Cost | Objective::Weighted(_)) | None => Ok(()),
    }
}

pub fn bytes(bytes: u64) -> Result<(), Fault> {
    match bytes {
        0..=BYTES_MAX => Ok(()),
        _ => Err(bad(format!("{bytes} bytes are more than {BYTES_MAX}"))),
    }
}

pub fn resources(resources: &Resources) -> Result<(), Fault> {
    bytes(resources.memory_bytes)?;
    bytes(resources.disk_bytes)?;
    if resources.cpus_milli > CPUS_MILLI_MAX {
        return Err(bad(format!("more than {} cpus can't be counted", CPUS_MILLI_MAX / 1000)));
    }
    match resources.gpus.iter().find(|(_, count)| **count > GPUS_MAX) {
        None => Ok(()),
        Some((kind, _)) => Err(bad(format!("more than {GPUS_MAX} x {kind} can't be counted"))),
    }
}

pub fn prices(prices: &Prices) -> Result<(), Fault> {
    let one = [prices.cpu_hour, prices.memory_gib_hour, prices.egress_gib];
    match one.iter().chain(prices.gpu_hour.values()).all(|price| price.is_finite() && *price >= 0.0) {
        true => Ok(()),
        false => Err(bad("a price is a number, and not below 0")),
    }
}

pub fn labels(labels: &Labels) -> Result<(), Fault> {
    let fits = |text: &String| text.len() <= LABEL_BYTES_MAX;
    if labels.len() > LABELS_MAX || !labels.iter().all(|(key, value)| fits(key) && fits(value)) {
        return Err(bad(format!("a site has at most {LABELS_MAX} labels of {LABEL_BYTES_MAX} bytes")));
    }
    let maintenance = labels.get(MAINTENANCE).map(|text| draining::maintenance(text));
    maintenance.transpose().map(drop).map_err(|why| bad(format!("the label {MAINTENANCE}: {why}")))
}

/// A name for people, as of a token.
pub fn title(text: &str) -> Result<(), Fault> {
    let fits = !text.trim().is_empty() && text.chars().count() <= 100 && !text.chars().any(char::is_control);
    fits.then_some(()).ok_or_else(|| bad("a name has 1 to 100 characters, none of them a control character"))
}

/// Seconds until something ends.
pub fn life(given: Option<u64>, default_s: u64, max_s: u64) -> Result<Millis, Fault> {
    match given.unwrap_or(default_s) {
        life if (1..=max_s).contains(&life) => Ok(Millis::from_secs(life)),
        _ => Err(bad(format!("expires_in_s goes from 1 to {max_s}"))),
    }
}

fn bad(title: impl Into<String>) -> Fault {
    Fault::invalid("invalid", title)
}
