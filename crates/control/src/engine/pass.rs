//! The engine's task: one pass after the other, each at most one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tombolo_api::wire::AuditEntry;
use tombolo_core::draining::BY_MAINTENANCE;
use tombolo_core::sync::{Intent, Made};
use tombolo_core::world::{Changes, Pruned, Release, World};
use tombolo_core::{Millis, Name, RunId, SiteId, Timestamp, VersionId};

use super::{Applied, Clock, Command, Wakes};
use crate::store::{Committed, Live, Store, Write};

/// Commands taken into one transaction.
const BATCH_MAX: usize = 512;
/// How long a pass waits while runs are live: silence of a site is noticed no later.
const LIVE_TICK: Millis = Millis(1_000);
/// How long it waits while nothing lives.
const IDLE_TICK: Millis = Millis::from_secs(3_600);
/// How old the moment may be, in the store, at which a site was last heard of.
const HEARD_LAG: Millis = Millis::from_secs(30);
/// How long answers to creates are kept for those who ask again.
const IDEMPOTENT_LIFE: Millis = Millis::from_secs(24 * 3_600);
const PRUNE_EVERY: Millis = Millis::from_secs(3_600);

pub(super) struct Task {
    world: World,
    store: Arc<dyn Store>,
    clock: Clock,
    events: watch::Sender<i64>,
    wakes: Wakes,
    /// When each site was last heard of, as far as the store knows.
    heard: BTreeMap<SiteId, Timestamp>,
    pruned: Option<Timestamp>,
    /// Sites that were reachable in the last pass.
    reachable: BTreeSet<SiteId>,
    decided: Timestamp,
    /// Versions that lost a name while something live needed them.
    unnamed: BTreeSet<VersionId>,
    /// Something live was let go of since they were looked at.
    retired: bool,
}

impl Task {
    pub(super) fn new(
        live: Live,
        store: Arc<dyn Store>,
        clock: Clock,
        events: watch::Sender<i64>,
        wakes: Wakes,
    ) -> Task {
        let mut world = World::default();
        world.awake = clock.now();
        for site in live.sites {
            world.sites.insert(site.info.id.clone(), site);
        }
        for (from, to, link) in live.links {
            world.links.0.insert((from, to), link);
        }
        for run in live.runs {
            world.runs.insert(run.id.clone(), run);
        }
        for workload in live.workloads {
            world.workloads.insert(workload.id.clone(), workload);
        }
        world.versions.extend(live.versions);
        world.forgotten.extend(live.forgotten);
        world.datasets.extend(live.datasets);
        world.endpoint_tokens.extend(live.endpoint_tokens.into_iter().map(|token| (token.id.clone(), token)));
        world.load_sketches(live.sketches);
        for (project, workload, past) in live.history {
            world.history.insert((project, workload), past);
        }
        world.counters.extend(live.counters);
        world.forget_questions();
        let heard = world.sites.values().filter_map(|site| Some((site.info.id.clone(), site.heard?))).collect();
        let decided = Timestamp(i64::MIN);
        let (reachable, unnamed) = (BTreeSet::new(), BTreeSet::new());
        Task { world, store, clock, events, wakes, heard, pruned: None, reachable, decided, unnamed, retired: false }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.pass(Vec::new()).await;
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let wait = self.pause();
            match tokio::time::timeout(wait, inbox.recv_many(&mut batch, BATCH_MAX)).await {
                Ok(0) => return,
                Ok(_) | Err(_) => self.pass(std::mem::take(&mut batch)).await,
            }
        }
    }

    /// How long nothing happens by itself.
    fn pause(&self) -> Duration {
        let tick = if self.world.runs.is_empty() { IDLE_TICK } else { LIVE_TICK };
        let now = self.clock.now();
        let deadline = self.world.next_deadline().map_or(tick, |deadline| deadline.since(now));
        Duration::from_millis(deadline.min(tick).0)
    }

    async fn pass(&mut self, batch: Vec<Command>) {
        let now = self.clock.now();
        self.world.wall_ahead_ms = wall_ahead_ms(now);
        let (mut writes, mut answers, mut looks) = (Vec::new(), Vec::new(), Vec::new());
        let mut revived = false;
        for command in batch {
            match command {
                Command::Look(look) => looks.push(look),
                Command::Change { revive, apply } => {
                    if let Some(run) = revive {
                        match self.revive(&run).await {
                            Ok(()) => revived = true,
                            // The caller is told that the engine is gone, and the log says why.
                            Err(()) => continue,
                        }
                    }
                    let Applied { writes: own, answer } = apply(&mut self.world, now);
                    writes.extend(own);
                    answers.push(answer);
                }
            }
        }
        let changes = self.conclude(now).await;
        let runs_touched = revived || !changes.runs.is_empty() || !changes.workloads.is_empty();
        let (wake, unnamed) = (changes.wake.clone(), changes.unnamed.clone());
        let mut all = self.writes_of(changes);
        all.append(&mut writes);
        self.write_heard(now, &mut all);
        self.prune(now, &mut all);
        self.drop_unnamed(unnamed, &mut all);
        self.commit(all).await;
        if runs_touched {
            self.retired |= !self.world.retire().is_empty();
        }
        wake.iter().for_each(|site| self.wakes.ring(site));
        answers.into_iter().for_each(|answer| answer());
        looks.into_iter().for_each(|look| look(&self.world, now));
    }

    /// Brings back a run that is over. Reading here, between two transactions, means that no newer state of
    /// it can be anywhere.
    async fn revive(&mut self, run: &RunId) -> Result<(), ()> {
        if self.world.runs.contains_key(run) {
            return Ok(());
        }
        match self.store.run(run).await {
            Ok(None) => Ok(()),
            Ok(Some((run, workloads))) => {
                self.world.revive(run, workloads);
                Ok(())
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, %run, "a run could not be read back");
                Err(())
            }
        }
    }

    /// Lets the world decide until it has no more questions.
    async fn conclude(&mut self, now: Timestamp) -> Changes {
        let mut all = self.world.take_changes();
        if !self.worth_deciding(&all, now) {
            return all;
        }
        self.decided = now;
        loop {
            self.world.decide(now);
            all.merge(self.world.take_changes());
            // Each question is asked once in a workload's life, so this ends.
            let lookups = std::mem::take(&mut all.lookups);
            if lookups.is_empty() {
                return all;
            }
            let keys: Vec<String> = lookups.iter().map(|(_, key)| hash(key)).collect();
            let mut found = match self.store.cached(keys.clone()).await {
                Ok(found) => found,
                // Running a stage again is always right, only slower.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the cache could not be asked");
                    BTreeMap::new()
                }
            };
            for (key, outputs) in self.cached_by(&all) {
                found.insert(key, outputs);
            }
            for ((id, _), key) in lookups.iter().zip(keys) {
                self.world.cache_answer(id, found.get(&key).cloned(), now);
            }
        }
    }

    /// Heartbeats alone give nothing to decide.
    fn worth_deciding(&mut self, changes: &Changes, now: Timestamp) -> bool {
        let reachable = self.world.sites.values().filter(|site| site.reachable(now));
        let reachable = reachable.map(|site| site.info.id.clone()).collect();
        let moved = std::mem::replace(&mut self.reachable, reachable) != self.reachable;
        let due = self.world.next_deadline().is_some_and(|deadline| deadline <= now);
        let ticked = !self.world.runs.is_empty() && now >= self.decided + LIVE_TICK;
        moved || due || ticked || !changes.is_empty() || self.decided == Timestamp(i64::MIN)
    }

    /// What this pass itself adds to the cache.
    fn cached_by(&self, changes: &Changes) -> Vec<(String, BTreeMap<Name, Made>)> {
        let outputs = |(key, id): &(String, _)| Some((hash(key), self.world.workloads.get(id)?.outputs.clone()));
        changes.cached.iter().filter_map(outputs).collect()
    }

    fn writes_of(&mut self, changes: Changes) -> Vec<Write> {
        let world = &self.world;
        let mut writes = Vec::new();
        for id in &changes.sites {
            if let Some(site) = world.sites.get(id) {
                self.heard.extend(site.heard.map(|heard| (id.clone(), heard)));
                writes.push(Write::Site(Box::new(site.clone())));
            }
        }
        for (from, to) in changes.links {
            let link = world.links.get(&from, &to);
            writes.push(Write::Link { from, to, link });
        }
        let runs = changes.runs.iter().filter_map(|id| world.runs.get(id));
        writes.extend(runs.map(|run| Write::Run(Box::new(run.clone()))));
        let workloads = changes.workloads.iter().filter_map(|id| world.workloads.get(id));
        writes.extend(workloads.map(|workload| Write::Workload(Box::new(workload.clone()))));
        let versions = changes.versions.iter().filter_map(|id| Some((id, world.versions.get(id)?)));
        writes.extend(versions.map(|(id, record)| Write::Version { id: *id, record: Box::new(record.clone()) }));
        let sketches = changes.sketches.iter().filter_map(|id| Some((*id, Box::new(world.sketch(id)?.clone()))));
        writes.extend(sketches.map(|(version, sketch)| Write::Sketch { version, sketch }));
        for key in changes.history {
            if let Some(past) = world.history.get(&key).cloned() {
                writes.push(Write::History { project: key.0, workload: key.1, past });
            }
        }
        for (key, made_by) in changes.cached {
            if let Some(record) = world.workloads.get(&made_by) {
                let outputs = record.outputs.clone();
                writes.push(Write::Cached { key: hash(&key), made_by, outputs });
            }
        }
        for name in changes.datasets {
            if let Some(dataset) = world.datasets.get(&name) {
                let (last, rules) = (dataset.last, dataset.rules.clone());
                writes.push(Write::Dataset { name, last, rules });
            }
        }
        writes.extend(changes.namings.into_iter().map(|naming| Write::Naming(Box::new(naming))));
        let now = self.clock.now();
        writes.extend(changes.released.into_iter().map(|release| Write::Audit(Box::new(audit(release, now)))));
        writes.extend(changes.pruned.into_iter().map(|pruned| Write::Audit(Box::new(audit_pruned(pruned, now)))));
        let maintained = changes.maintained.into_iter().map(|(site, closed)| audit_maintained(&site, closed, now));
        writes.extend(maintained.map(|entry| Write::Audit(Box::new(entry))));
        writes.extend(changes.events.into_iter().map(|event| Write::Event(Box::new(event))));
        writes
    }

    /// Sites report often; when they did need not be known to the second after a restart.
    fn write_heard(&mut self, now: Timestamp, writes: &mut Vec<Write>) {
        for site in self.world.sites.values() {
            let Some(heard) = site.heard else { continue };
            let known = self.heard.get(&site.info.id);
            if known.is_none_or(|known| heard >= *known + HEARD_LAG) {
                writes.push(Write::Site(Box::new(site.clone())));
                self.heard.insert(site.info.id.clone(), heard.min(now));
            }
        }
    }

    /// What lost its last name may go, unless something live needs it: then when that is over.
    fn drop_unnamed(&mut self, unnamed: BTreeSet<VersionId>, writes: &mut Vec<Write>) {
        if unnamed.is_empty() && !std::mem::take(&mut self.retired) {
            return;
        }
        self.unnamed.extend(unnamed);
        // What got a name anew in this very pass has it here; of outputs' names the store knows.
        let named = self.world.named_among(&self.unnamed);
        self.unnamed.retain(|version| !named.contains(version));
        let due: Vec<_> = self.unnamed.extract_if(.., |version| !self.world.needs(version)).collect();
        writes.extend(due.into_iter().map(|version| Write::DropVersion { version }));
    }

    fn prune(&mut self, now: Timestamp, writes: &mut Vec<Write>) {
        if self.pruned.is_none_or(|last| now >= last + PRUNE_EVERY) {
            self.pruned = Some(now);
            writes.push(Write::Prune { before: now - IDEMPOTENT_LIFE });
        }
    }

    async fn commit(&mut self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        match self.store.commit(writes).await {
            Ok(Committed { last_event, dropped }) => {
                for version in dropped {
                    let forgotten = self.world.forget_version(&version);
                    debug_assert!(forgotten, "the world has what the store dropped: {version}");
                }
                self.events.send_if_modified(|highest| std::mem::replace(highest, last_event) != last_event);
            }
            Err(error) => {
                // The world is ahead of its store now, and nobody may see it so.
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a transaction failed; the process ends, so that a new one can go on from the store"
                );
                std::process::abort();
            }
        }
    }
}

/// The versions that the placements at all sites need.
pub(super) fn needed(world: &World) -> Vec<VersionId> {
    let orders = world.sites.keys().flat_map(|site| world.desired(site, &[]).assignments);
    let orders = orders.filter_map(|assignment| match assignment.intent {
        Intent::Run(order) | Intent::Prepare(order) => Some(order),
        Intent::Stop => None,
    });
    orders.flat_map(|order| order.versions().collect::<Vec<_>>()).collect()
}

fn hash(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex().to_string()
}

/// What the clock on the wall is ahead of UTC at a moment.
fn wall_ahead_ms(now: Timestamp) -> i64 {
    let at = jiff::Timestamp::from_millisecond(now.0).unwrap_or_default();
    i64::from(jiff::tz::TimeZone::system().to_offset(at).seconds()) * 1_000
}

fn audit_maintained(site: &SiteId, closed: bool, now: Timestamp) -> AuditEntry {
    AuditEntry {
        number: 0,
        at: now.0,
        who: BY_MAINTENANCE.to_owned(),
        what: if closed { "drain" } else { "undrain" }.to_owned(),
        on: site.to_string(),
        outcome: "done".to_owned(),
        detail: Some("by the site's label `maintenance`".to_owned()),
    }
}

fn audit_pruned(pruned: Pruned, now: Timestamp) -> AuditEntry {
    AuditEntry {
        number: 0,
        at: now.0,
        who: pruned.by,
        what: "retention".to_owned(),
        on: format!("{} v{} {}", pruned.dataset, pruned.number, pruned.version),
        outcome: "done".to_owned(),
        detail: Some(format!("its name was removed, as none of the rules keeps it: {}", pruned.rules)),
    }
}

fn audit(release: Release, now: Timestamp) -> AuditEntry {
    AuditEntry {
        number: 0,
        at: now.0,
        who: release.by,
        what: "release".to_owned(),
        on: format!("{} {} {}", release.workload, release.output, release.version),
        outcome: "done".to_owned(),
        detail: Some(format!(
            "its inputs may only be at {}; reason: {}",
            release.from,
            release.reason.as_deref().unwrap_or("none was given")
        )),
    }
}
