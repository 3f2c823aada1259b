//! Records as the API shows them.

use std::collections::BTreeMap;

use tombolo_api::wire::{AttemptView, EndpointUrl, OutputView, PlanView, RunView, SiteView, VersionInfo, WorkloadView};
use tombolo_core::placement::Placement;
use tombolo_core::workload::State;
use tombolo_core::world::{
    Attempt, RunRecord, SiteRecord, VersionRecord, WorkloadRecord, World, critical_path, in_order,
};
use tombolo_core::{EndpointId, Epoch, Name, RunId, SiteId, Tag, Timestamp, VersionId, WorkloadId};

/// What is to be told of a run's workloads because of what is around them.
pub struct Around {
    /// Sites that were not heard of for too long: since when.
    silent: BTreeMap<SiteId, Option<Timestamp>>,
    /// Why what is at a site that is left stays there.
    stays: BTreeMap<WorkloadId, String>,
    /// Of services that are not over.
    endpoints: BTreeMap<WorkloadId, EndpointId>,
}

pub fn around(world: &World, run: &RunId, now: Timestamp) -> Around {
    let silent = world.sites.values().filter(|site| !site.reachable(now));
    let silent = silent.map(|site| (site.info.id.clone(), site.heard)).collect();
    let live = world.workloads_of(run).filter(|record| !record.is_over());
    let endpoints = live.filter_map(|record| Some((record.id.clone(), world.endpoint_of(record)?))).collect();
    Around { silent, stays: super::drains::stays(world), endpoints }
}

/// Where an endpoint is, at the gateways that there are.
pub fn urls(endpoint: &EndpointId, gateways: &BTreeMap<SiteId, String>) -> Vec<EndpointUrl> {
    let url = |(site, at): (&SiteId, &String)| EndpointUrl { site: site.to_string(), url: format!("{at}/{endpoint}/") };
    gateways.iter().map(url).collect()
}

/// A run without its workloads, as in listings.
pub fn run(record: &RunRecord) -> RunView {
    RunView {
        id: record.id.to_string(),
        project: record.id.project().to_string(),
        state: record.state.word().to_owned(),
        by: record.by.clone(),
        at: record.at.0,
        ended: record.ended.map(|at| at.0),
        code: record.code.to_string(),
        workloads: Vec::new(),
    }
}

pub fn workload(
    record: &WorkloadRecord,
    around: &Around,
    gateways: &BTreeMap<SiteId, String>,
    now: Timestamp,
) -> WorkloadView {
    let address = match &record.state {
        State::Ready { address, .. } => Some(address.clone()),
        _ => None,
    };
    let output = |made: &tombolo_core::sync::Made| OutputView {
        version: made.version.to_string(),
        bytes: made.bytes,
        files: made.files,
    };
    WorkloadView {
        id: record.id.to_string(),
        name: record.id.name.to_string(),
        kind: if record.spec.job().is_some() { "job" } else { "service" }.to_owned(),
        state: record.state.word().to_owned(),
        site: record.state.site().or(record.attempts.last().map(|attempt| &attempt.site)).map(SiteId::to_string),
        epoch: record.epoch.0,
        since: since(&record.state).map(|at| at.0),
        why: why(record, around, now),
        address,
        urls: around.endpoints.get(&record.id).map(|endpoint| urls(endpoint, gateways)).unwrap_or_default(),
        inputs: record.spec.inputs.iter().map(|(alias, source)| (alias.to_string(), source.to_string())).collect(),
        outputs: record.outputs.iter().map(|(name, made)| (name.to_string(), output(made))).collect(),
        attempts: record.attempts.iter().map(attempt).collect(),
        moving: None,
    }
}

fn since(state: &State) -> Option<Timestamp> {
    match state {
        State::Queued { since }
        | State::Placed { since, .. }
        | State::Preparing { since, .. }
        | State::Running { since, .. }
        | State::Ready { since, .. } => Some(*since),
        State::Succeeded { at, .. } | State::Failed { at, .. } | State::Stopped { at } => Some(*at),
        State::Waiting | State::Backoff { .. } | State::Skipped { .. } => None,
    }
}

/// Why it is in its state, and what it waits for, where that isn't plain.
fn why(record: &WorkloadRecord, around: &Around, now: Timestamp) -> Option<String> {
    let unheard = record.state.site().and_then(|site| Some((site, around.silent.get(site)?)));
    match &record.state {
        State::Failed { outcome, .. } => Some(outcome.to_string()),
        State::Backoff { until, outcome } => Some(format!("{outcome}; it is tried again in {}", until.since(now))),
        State::Skipped { because } => Some(format!("{because} did not succeed")),
        State::Waiting => Some(record.why.clone().unwrap_or_else(|| match record.spec.service() {
            Some(_) => "waits for every job of its run".to_owned(),
            None => "waits for its inputs".to_owned(),
        })),
        State::Placed { .. } | State::Preparing { .. } | State::Running { .. } | State::Ready { .. } => {
            let stop = record.stopping.then_some("stop was asked for");
            match (stop, unheard) {
                (stop, Some((site, heard))) => {
                    let text = format!("{site} {}; what runs there goes on", not_heard(*heard, now));
                    Some(stop.map_or(text.clone(), |stop| format!("{stop}; {text}")))
                }
                (Some(stop), None) => Some(stop.to_owned()),
                (None, None) => {
                    moves(record).or_else(|| around.stays.get(&record.id).cloned()).or_else(|| record.why.clone())
                }
            }
        }
        State::Queued { .. } => Some(record.why.clone().unwrap_or_else(|| "waits to be placed".to_owned())),
        State::Succeeded { .. } | State::Stopped { .. } => record.why.clone(),
    }
}

/// Where it is on its way to.
fn moves(record: &WorkloadRecord) -> Option<String> {
    let moving = record.moving.as_ref()?;
    let why = moving.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    Some(format!("moves from {} to {}{why}: {}", moving.from, moving.to, moving.stage.word()))
}

/// `was last heard of 3 min 2 s ago`.
pub fn not_heard(heard: Option<Timestamp>, now: Timestamp) -> String {
    match heard {
        Some(heard) => format!("was last heard of {} ago", now.since(heard)),
        None => "was never heard of".to_owned(),
    }
}

fn attempt(attempt: &Attempt) -> AttemptView {
    AttemptView {
        epoch: attempt.epoch.0,
        site: attempt.site.to_string(),
        placed: attempt.placed.0,
        ended: attempt.ended.map(|at| at.0),
        ran_ms: attempt.ran.map(|ran| ran.0),
        outcome: attempt.outcome.as_ref().map(ToString::to_string),
        bytes_in: attempt.bytes_in,
        memory_peak_bytes: attempt.memory_peak_bytes,
        cpu_ms: attempt.cpu.map(|cpu| cpu.0),
        metric: attempt.metric,
        cost: attempt.cost,
    }
}

/// The site of a workload's attempt: of the epoch given, or of the newest.
pub fn attempt_at(record: &WorkloadRecord, epoch: Option<u64>) -> Option<(Epoch, SiteId)> {
    let found = match epoch {
        Some(epoch) => record.attempts.iter().find(|attempt| attempt.epoch.0 == epoch),
        None => record.attempts.last(),
    };
    found.map(|attempt| (attempt.epoch, attempt.site.clone()))
}

/// What was decided for each workload of a run, when it was decided. Each decision looked from its own moment, so
/// the whole is no proof of anything.
pub fn plan(workloads: Vec<WorkloadRecord>) -> PlanView {
    let makespan = critical_path(&workloads);
    let placements: Vec<Placement> = in_order(workloads).into_iter().filter_map(|record| record.placement).collect();
    let outcomes = placements.iter().filter_map(|placement| placement.outcome.as_ref().ok());
    let cost = outcomes.map(|outcome| outcome.terms.price()).sum();
    PlanView { makespan_ms: makespan.0, cost, exact: false, placements }
}

pub fn site(world: &World, record: &SiteRecord, now: Timestamp) -> SiteView {
    let id = &record.info.id;
    let status = match (record.revoked, record.heard, record.reachable(now)) {
        (true, _, _) => "revoked",
        (false, None, _) => "never seen",
        (false, Some(_), true) => "up",
        (false, Some(_), false) => "unreachable",
    };
    let workloads = world.workloads.values().filter(|record| record.state.site() == Some(id)).count();
    SiteView {
        name: id.to_string(),
        labels: record.info.labels.clone(),
        capacity: record.info.capacity.clone(),
        free: world.free(record),
        prices: record.info.prices.clone(),
        status: status.to_owned(),
        draining: record.draining,
        drain: super::drains::brief(world, record),
        heard: record.heard.map(|at| at.0),
        workloads: workloads as u64,
        key: record.key.clone(),
        gateway: None,
    }
}

/// A version under a dataset's name.
pub fn named(world: &World, dataset: &Name, number: u64) -> Option<VersionInfo> {
    let known = world.datasets.get(dataset)?;
    let named = known.versions.get(&number)?;
    let record = world.versions.get(&named.version)?;
    Some(VersionInfo {
        number: Some(number),
        tags: known.tags_of(named.version).map(Tag::to_string).collect(),
        by: Some(named.by.clone()).filter(|by| !by.is_empty()),
        why: named.why.clone(),
        // When it came under this name, which may be later than when its bytes were first known.
        at: named.at.0,
        ..version(named.version, record, Some(dataset.to_string()))
    })
}

pub fn version(id: VersionId, record: &VersionRecord, dataset: Option<String>) -> VersionInfo {
    VersionInfo {
        version: id,
        dataset,
        number: None,
        tags: Vec::new(),
        by: None,
        why: None,
        bytes: record.bytes,
        files: record.files,
        residency: record.residency.to_string(),
        replicas: record.replicas.iter().map(SiteId::to_string).collect(),
        made_by: record.made_by.as_ref().map(ToString::to_string),
        at: record.at.0,
        facts: record.facts.clone(),
    }
}
