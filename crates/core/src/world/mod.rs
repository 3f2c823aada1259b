//! The control plane's mind: what is live, what has happened, what shall be done.
//!
//! A [`World`] holds the sites and whatever is not over. The edge feeds it events one after the other
//! ([`World::submit`], [`World::report`], ...), lets it [`World::decide`], takes what changed
//! ([`World::take_changes`]) into its store in one transaction, and only then answers the callers and sends
//! the sites their [`World::desired`]. Loading a store's live part into an empty world is all there is to
//! recovery.

mod cache;
mod changes;
mod datasets;
mod decide;
mod draining;
mod history;
mod index;
mod moving;
mod problem;
mod report;
mod retain;
mod routes;
mod sketches;
mod snapshots;
mod submit;
mod succession;
mod together;
mod why;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::draining::{Drain, Homecoming};
use crate::facts::Facts;
use crate::ids::{Epoch, Name, RunId, SiteId, VersionId, WorkloadId};
use crate::moving::{Leaving, Moved, Moving, Taken};
use crate::placement::Placement;
use crate::residency::Residency;
use crate::resources::Resources;
use crate::site::{Links, SiteInfo};
use crate::spec::{ProjectSpec, WorkloadSpec};
use crate::sync::{Assignment, Desired, Intent, Made, Observed, Order, Outcome};
use crate::time::{Millis, Timestamp};
use crate::workload::State;

pub use changes::{Changes, Release};
pub use datasets::{By, Dataset, NamedVersion, Naming, Removed, TAGS_MAX, Tagged, Which};
pub use history::{Came, Stay};
pub use report::Known;
pub use retain::{PRUNED_MAX, Pruned, Retained, YOUNG};
pub use routes::{EndpointToken, Routes};
pub use sketches::SKETCHES_MAX;
pub use snapshots::{LEFT_FOR, Snapshot, Snapshots};
pub use submit::{Refusal, Submission};
pub use together::{critical_path, in_order};
pub use why::{Derived, LOOKED_AT_MAX, Lifted, Provenance, Rule, Why, read_by, why};

/// How long a site may be silent before it counts as unreachable for new placements. What it runs goes on.
pub const SILENCE_MAX: Millis = Millis::from_secs(15);
/// How far an agent's clock may be slow against ours, in thousandths: the lease at the site, which is
/// measured there, is over when we have waited that much longer.
pub const CLOCK_DRIFT_PER_MILLE: u64 = 20;
/// Attempts after a site lost a placement without its fault, beside the workload's own retries.
pub const LOST_RETRIES_MAX: u32 = 3;
/// Times that a service may end in a row without having been ready.
pub const SERVICE_STARTS_MAX: u32 = 5;
/// How often what can't be placed is planned again though nothing has changed but the time.
pub const REPLAN_EVERY: Millis = Millis::from_secs(10);
pub const BACKOFF_FIRST: Millis = Millis(1_000);
pub const BACKOFF_MAX: Millis = Millis::from_secs(60);

#[derive(Debug, Clone, Default)]
pub struct World {
    pub sites: BTreeMap<SiteId, SiteRecord>,
    pub links: Links,
    pub runs: BTreeMap<RunId, RunRecord>,
    pub workloads: BTreeMap<WorkloadId, WorkloadRecord>,
    pub versions: BTreeMap<VersionId, VersionRecord>,
    /// The rules of versions that are forgotten, and what made them: their bytes may still be at sites, and who makes
    /// them known again, under whatever name, gets them under these.
    pub forgotten: BTreeMap<VersionId, VersionRecord>,
    /// Which versions have which names. Of outputs only the store knows.
    pub datasets: BTreeMap<Name, Dataset>,
    /// What is known of past executions, by project and workload.
    pub history: BTreeMap<(Name, Name), PastRuns>,
    /// The highest run number given out, by project.
    pub counters: BTreeMap<Name, u64>,
    /// By their ids.
    pub endpoint_tokens: BTreeMap<String, EndpointToken>,
    /// When this world began to listen: before it, silence proves nothing.
    pub awake: Timestamp,
    /// What the clock on the wall is ahead of UTC, in milliseconds, where this world decides: maintenance goes by it.
    pub wall_ahead_ms: i64,
    sketches: sketches::Sketches,
    changes: Changes,
    planned: Planned,
    looked: draining::Looked,
    index: index::Index,
    routing: routes::Routing,
    /// State directories that sites have told of, which no placement there uses, and those that may go.
    left: BTreeMap<SiteId, snapshots::Left>,
}

/// What the last placing pass saw.
#[derive(Debug, Clone, Default)]
struct Planned {
    at: Timestamp,
    reachable: Vec<SiteId>,
    /// Something that matters to placing has changed since.
    stale: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRecord {
    pub info: SiteInfo,
    /// The agent's public key, which is also its address on the transport.
    pub key: String,
    pub joined: Timestamp,
    #[serde(default)]
    pub draining: bool,
    #[serde(default)]
    pub revoked: bool,
    #[serde(default)]
    pub heard: Option<Timestamp>,
    /// Set while all that is there shall go elsewhere, and until the site is opened again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Set from when it is opened again until what belongs there is back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub homecoming: Option<Homecoming>,
    /// A person opened it in the middle of its maintenance: until that is over its label is not minded.
    #[serde(default)]
    pub unmaintained: bool,
}

impl SiteRecord {
    pub fn new(info: SiteInfo, key: String, joined: Timestamp) -> SiteRecord {
        SiteRecord {
            info,
            key,
            joined,
            draining: false,
            revoked: false,
            heard: None,
            drain: None,
            homecoming: None,
            unmaintained: false,
        }
    }

    pub fn reachable(&self, now: Timestamp) -> bool {
        // A time to come is of a clock that was set back since, and proves nothing.
        !self.revoked && self.heard.is_some_and(|heard| heard <= now && now.since(heard) <= SILENCE_MAX)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub id: RunId,
    pub spec: ProjectSpec,
    pub code: VersionId,
    /// The versions of the project's datasets.
    pub data: BTreeMap<Name, VersionId>,
    pub by: String,
    pub at: Timestamp,
    pub force: bool,
    pub state: RunState,
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// The rules that were known when it was submitted, which are those that its releases lift: nobody has let go of
    /// what came to be forbidden later. None of a run from before this was kept: then whatever is inherited.
    #[serde(default)]
    pub may_lift: Option<Residency>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Active,
    /// Every job succeeded and every service answers; services stay.
    Serving,
    Succeeded,
    Failed,
    Stopped,
}

impl RunState {
    pub fn word(self) -> &'static str {
        match self {
            RunState::Active => "active",
            RunState::Serving => "serving",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadRecord {
    pub id: WorkloadId,
    pub spec: WorkloadSpec,
    pub state: State,
    pub epoch: Epoch,
    /// Stop was asked for, and its site has to end it.
    #[serde(default)]
    pub stopping: bool,
    /// The epoch that has to end because its site will end it anyway; another follows at once, and requests wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewing: Option<Epoch>,
    /// Failures that count against its retries, and losses that don't.
    #[serde(default)]
    pub failures: u32,
    #[serde(default)]
    pub losses: u32,
    /// Why it is where it is, or why it is nowhere.
    #[serde(default, deserialize_with = "readable")]
    pub placement: Option<Placement>,
    /// What it waits for, in words.
    #[serde(default)]
    pub why: Option<String>,
    #[serde(default)]
    pub cache: Cache,
    #[serde(default)]
    pub outputs: BTreeMap<Name, Made>,
    /// What the last attempt left in its state directory.
    #[serde(default)]
    pub state_dir: Option<VersionId>,
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// The highest epoch that was given to a placement which never became the workload's.
    #[serde(default)]
    pub spent: Epoch,
    /// The move that is under way, and those that are over, the newest last.
    #[serde(default)]
    pub moving: Option<Moving>,
    #[serde(default)]
    pub moves: Vec<Moved>,
    /// Placements that have to end, beside the one that counts.
    #[serde(default)]
    pub leaving: Vec<Leaving>,
    /// The site from which drains took it, unless somebody has moved it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_from: Option<SiteId>,
    /// What copies of its state directory have told of it.
    #[serde(default)]
    pub copied: Option<Measured>,
    /// Copies of it that are kept, and where.
    #[serde(default)]
    pub snapshots: Snapshots,
}

/// How large a state directory is, and how much of it changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub bytes: u64,
    /// None before two copies were taken.
    #[serde(default)]
    pub change_bytes_per_s: Option<f64>,
    /// What all of it comes to in a store, and on the wire.
    #[serde(default)]
    pub packed_bytes: Option<u64>,
    /// What each copy takes on the wire beside its bytes.
    #[serde(default)]
    pub beside_bytes: u64,
    /// When the last copy was asked for, and what was watched before: seconds in which it ran, and the bytes that changed in
    /// them. What is long ago counts less.
    #[serde(default)]
    at: Timestamp,
    #[serde(default)]
    watched_s: f64,
    #[serde(default)]
    changed_bytes: f64,
}

/// After so many seconds what was watched counts a half.
const WATCHED_HALF_S: f64 = 600.0;

impl Measured {
    /// After another copy, which was asked for at a time, of a workload that has run where it is since another.
    fn again(before: Option<Measured>, taken: &Taken, asked: Timestamp, since: Timestamp) -> Measured {
        let Some(before) = before else {
            // Of a first copy all is new, and nobody knows since when; all is stored, unless the store had it from elsewhere.
            return Measured {
                bytes: taken.bytes,
                change_bytes_per_s: None,
                packed_bytes: Some(taken.fresh_bytes).filter(|bytes| *bytes > 0),
                beside_bytes: taken.beside_bytes,
                at: asked,
                watched_s: 0.0,
                changed_bytes: 0.0,
            };
        };
        let packed = before.packed_bytes.map(|packed| {
            let share = packed as f64 / before.bytes.max(1) as f64;
            (share * taken.bytes as f64) as u64
        });
        // While it was on its way nothing changed.
        let span_s = asked.since(before.at.max(since)).as_secs_f64();
        let counts = 0.5_f64.powf(span_s / WATCHED_HALF_S);
        let watched_s = before.watched_s * counts + span_s;
        let changed_bytes = before.changed_bytes * counts + taken.fresh_bytes as f64;
        Measured {
            bytes: taken.bytes,
            change_bytes_per_s: (watched_s > 0.0).then(|| changed_bytes / watched_s).or(before.change_bytes_per_s),
            packed_bytes: packed,
            beside_bytes: taken.beside_bytes,
            at: asked,
            watched_s,
            changed_bytes,
        }
    }

    /// What it comes to on the wire.
    pub fn packed(&self) -> u64 {
        self.packed_bytes.unwrap_or(self.bytes)
    }
}

/// An explanation that an earlier version wrote in another form is left out: nothing is decided by it, and what still
/// waits gets a new one.
fn readable<'de, D: serde::Deserializer<'de>>(placement: D) -> Result<Option<Placement>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Now(Box<Placement>),
        Before(serde::de::IgnoredAny),
    }
    Ok(match Option::<Written>::deserialize(placement)? {
        Some(Written::Now(placement)) => Some(*placement),
        Some(Written::Before(_)) | None => None,
    })
}

/// One placement that is over, or the one that lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub epoch: Epoch,
    pub site: SiteId,
    pub placed: Timestamp,
    #[serde(default)]
    pub ended: Option<Timestamp>,
    #[serde(default)]
    pub ran: Option<Millis>,
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// Brought over the network for it.
    #[serde(default)]
    pub bytes_in: u64,
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    #[serde(default)]
    pub cpu: Option<Millis>,
    #[serde(default)]
    pub metric: Option<f64>,
    #[serde(default)]
    pub cost: f64,
}

/// Attempts kept for a workload; the oldest go first.
pub const ATTEMPTS_MAX: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// The inputs are not all known yet.
    #[default]
    Unasked,
    Asked,
    Missed,
    Hit,
}

/// A version that somebody may use: its size, where it may be and where it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionRecord {
    pub bytes: u64,
    pub files: u64,
    pub residency: Residency,
    /// Those of the rules that it has from elsewhere than the inputs of the stage that made it.
    #[serde(default)]
    pub given: Residency,
    /// The stage that made it.
    #[serde(default)]
    pub made_by: Option<WorkloadId>,
    pub at: Timestamp,
    #[serde(default)]
    pub replicas: BTreeSet<SiteId>,
    #[serde(default)]
    pub facts: Facts,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PastRuns {
    /// How long it ran, by site: a weighted mean in which the last run counts a half.
    pub ran: BTreeMap<SiteId, Millis>,
    /// The size of each output, the last time.
    pub outputs: BTreeMap<Name, u64>,
    /// What the last import of an incremental source left for the next.
    #[serde(default)]
    pub state: Option<VersionId>,
    /// How long moves have taken it to end and leave its state, and to start where all was there: weighted means in which
    /// the last counts a half.
    #[serde(default)]
    pub save: Option<Millis>,
    #[serde(default)]
    pub start: Option<Millis>,
}

/// Something that happened, for histories and for those who follow a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub at: Timestamp,
    pub run: RunId,
    #[serde(default)]
    pub workload: Option<Name>,
    #[serde(default)]
    pub epoch: Epoch,
    /// The new state's word.
    pub state: String,
    #[serde(default)]
    pub site: Option<SiteId>,
    #[serde(default)]
    pub text: Option<String>,
}

impl World {
    pub fn take_changes(&mut self) -> Changes {
        self.settle_routes();
        std::mem::take(&mut self.changes)
    }

    /// What a site should have, with all that it needs to know. Entries without an order tell it to stop.
    pub fn desired(&self, site: &SiteId, observed: &[Observed]) -> Desired {
        let mut desired = Desired::default();
        if self.sites.get(site).is_none_or(|site| site.revoked) {
            return desired;
        }
        for record in self.placed_at(site) {
            let intent = match record.has_to_end() {
                true => Intent::Stop,
                false => match self.order(record) {
                    Some(order) => Intent::Run(Box::new(order)),
                    None => continue,
                },
            };
            desired.assignments.push(Assignment { workload: record.id.clone(), epoch: record.epoch, intent });
        }
        self.desire_moves(site, &mut desired);
        self.desire_snapshots(site, &mut desired);
        self.answer(site, observed, &mut desired);
        desired
    }

    fn order(&self, record: &WorkloadRecord) -> Option<Order> {
        let run = self.runs.get(&record.id.run)?;
        let mut inputs = BTreeMap::new();
        for (alias, source) in &record.spec.inputs {
            inputs.insert(alias.clone(), self.resolve(run, source)?);
        }
        let spec = WorkloadSpec { failover_after: record.lease(), ..record.spec.clone() };
        Some(Order { spec, code: run.code, inputs, state: record.state_dir })
    }

    /// The version that a name stands for in a run, once it is known.
    pub fn resolve(&self, run: &RunRecord, source: &Name) -> Option<VersionId> {
        if let Some(version) = run.data.get(source) {
            return Some(*version);
        }
        let producer = self.producer(run, source)?;
        let record = self.workloads.get(&WorkloadId::new(run.id.clone(), producer.clone()))?;
        record.outputs.get(source).map(|made| made.version)
    }

    /// What is not taken at a site by what is there, or about to be.
    pub fn free(&self, site: &SiteRecord) -> Resources {
        let mut free = site.info.capacity.clone();
        for record in self.present_at(&site.info.id) {
            free.take(&record.spec.resources);
        }
        free
    }

    pub fn workloads_of<'a>(&'a self, run: &RunId) -> impl Iterator<Item = &'a WorkloadRecord> + use<'a> {
        // Names are never empty, so the run's own id with the smallest name is a lower bound.
        let run = run.clone();
        let first = WorkloadId::new(run.clone(), Name::new("0").expect("a digit is a name"));
        self.workloads.range(first..).take_while(move |(id, _)| id.run == run).map(|(_, record)| record)
    }

    /// Whether a version may be at a site: the rule that forbids it, in words.
    pub fn may_be_at(&self, version: &VersionId, site: &SiteId) -> Result<(), String> {
        let record = self.versions.get(version).ok_or_else(|| format!("version {} is not known", version.short()))?;
        let to = self.sites.get(site).ok_or_else(|| format!("there is no site {site}"))?;
        if to.revoked {
            return Err(format!("site {site} is revoked"));
        }
        match record.residency.forbids(site, &to.info.labels) {
            None => Ok(()),
            Some(rule) => Err(format!("version {} may only be at {rule}, not at {site}", version.short())),
        }
    }

    /// The sites from which another may fetch a version, most recently heard first.
    pub fn sources(&self, version: &VersionId, to: &SiteId) -> Result<Vec<SiteId>, String> {
        self.may_be_at(version, to)?;
        let record = &self.versions[version];
        let mut from: Vec<_> = record
            .replicas
            .iter()
            .filter(|site| *site != to)
            .filter_map(|site| self.sites.get(site))
            .filter(|site| !site.revoked)
            .collect();
        from.sort_by_key(|site| std::cmp::Reverse(site.heard));
        Ok(from.into_iter().map(|site| site.info.id.clone()).collect())
    }

    /// The id of the project's next run; never given out twice.
    pub fn next_run(&mut self, project: &Name) -> RunId {
        let number = self.counters.entry(project.clone()).or_default();
        *number += 1;
        RunId::new(project.clone(), *number)
    }

    fn touch(&mut self, id: &WorkloadId) {
        self.note(id);
        self.changes.workloads.insert(id.clone());
        self.planned.stale = true;
        self.looked.stale = true;
    }

    fn tell(&mut self, now: Timestamp, id: &WorkloadId, text: Option<String>) {
        let record = &self.workloads[id];
        let event = Event {
            at: now,
            run: id.run.clone(),
            workload: Some(id.name.clone()),
            epoch: record.epoch,
            state: record.state.word().to_owned(),
            site: record.state.site().cloned(),
            text,
        };
        self.changes.events.push(event);
    }
}
