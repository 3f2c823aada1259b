//! From the world to the planner's problem: what a run still has to do, seen from now.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::placeable;
use super::{PastRuns, RunRecord, WorkloadRecord, World};
use crate::ids::{Name, RunId, SiteId, VersionId};
use crate::placement::{Busy, Estimate, Input, Problem, Progress, Queued, SiteState, Source, Task};
use crate::resources::Resources;
use crate::site::SiteInfo;
use crate::spec::{Objective, WorkloadSpec};
use crate::time::{Millis, Timestamp};
use crate::workload::State;

/// Stages that are followed upwards to guess the size of an output that was never made.
const FOLLOWED_MAX: usize = 64;
/// Waiting workloads of a site that a plan minds one by one. Each makes the planner's profile of the site longer, so
/// it pays for all of them with each stage that it tries there; what waits beyond is laid on the time of these.
const QUEUED_MAX: usize = 128;
/// How long a job is taken to run of which nobody knows anything.
pub const DURATION_ASSUMED: Millis = Millis::from_secs(60);

/// What holds resources at each site, gathered once for a whole pass.
#[derive(Debug, Default)]
pub struct Loads(BTreeMap<SiteId, Load>);

#[derive(Debug, Default)]
struct Load {
    /// Capacity less what is held.
    room: Resources,
    /// The same, less what is promised.
    free: Resources,
    held: Vec<Held>,
    /// What waits for room, in the order of the queue.
    waits: Vec<Waits>,
}

#[derive(Debug)]
struct Held {
    /// None of what arrives or leaves with a move, beside the placement that counts.
    run: Option<RunId>,
    busy: Busy,
}

#[derive(Debug)]
struct Waits {
    run: RunId,
    queued: Queued,
    /// Whether what is free is without it.
    promised: bool,
}

impl Loads {
    pub fn free(&self, site: &SiteId) -> Resources {
        self.0.get(site).map(|load| load.free.clone()).unwrap_or_default()
    }

    /// Room that a run's workload takes from now on.
    pub fn take(&mut self, site: &SiteId, run: RunId, busy: Busy) {
        let load = self.0.entry(site.clone()).or_default();
        load.free.take(&busy.resources);
        load.room.take(&busy.resources);
        load.held.push(Held { run: Some(run), busy });
    }

    /// Room of a placement that is not its workload's, or not any more.
    fn hold(&mut self, site: &SiteId, busy: Busy) {
        let load = self.0.entry(site.clone()).or_default();
        load.free.take(&busy.resources);
        load.room.take(&busy.resources);
        load.held.push(Held { run: None, busy });
    }

    /// Room for a workload that waits: those behind it in the queue don't take it.
    pub fn promise(&mut self, site: &SiteId, run: RunId, queued: Queued) {
        let load = self.0.entry(site.clone()).or_default();
        load.free.take(&queued.resources);
        load.waits.push(Waits { run, queued, promised: true });
    }

    /// A place in the queue of a workload that was not planned again. Those behind it may fill what room there is,
    /// and have to wait for it where they need more.
    pub fn stand(&mut self, site: &SiteId, run: RunId, queued: Queued) {
        self.0.entry(site.clone()).or_default().waits.push(Waits { run, queued, promised: false });
    }
}

impl Load {
    /// The first of what waits of other runs; these last longer by as much as is left out.
    fn queue(&self, run: &RunId) -> Vec<Queued> {
        let others = || self.waits.iter().filter(|waits| waits.run != *run).map(|waits| &waits.queued);
        let spans = || others().map(|queued| queued.duration.map_or(0, |span| span.0));
        let whole = spans().fold(0, u64::saturating_add);
        let kept = spans().take(QUEUED_MAX).fold(0, u64::saturating_add);
        let mut queue: Vec<Queued> = others().take(QUEUED_MAX).cloned().collect();
        if whole > kept && kept > 0 {
            for span in queue.iter_mut().filter_map(|queued| queued.duration.as_mut()) {
                let longer = u128::from(span.0) * u128::from(whole) / u128::from(kept);
                *span = Millis(u64::try_from(longer).unwrap_or(u64::MAX));
            }
        }
        queue
    }
}

/// What was found out for one task of a problem and holds for the others.
#[derive(Default)]
pub(super) struct Seen {
    /// Sizes that were guessed once are guessed for all: long graphs would be walked again for each stage.
    sizes: BTreeMap<Name, u64>,
    missing: BTreeMap<VersionId, BTreeMap<SiteId, u64>>,
}

impl World {
    pub fn loads(&self, now: Timestamp) -> Loads {
        let mut loads = Loads::default();
        for site in self.sites.values() {
            let (room, free) = (site.info.capacity.clone(), site.info.capacity.clone());
            loads.0.insert(site.info.id.clone(), Load { room, free, ..Load::default() });
        }
        for site in self.sites.keys() {
            for record in self.present_at(site) {
                let busy = self.busy(record, site, now);
                match record.state.site() == Some(site) {
                    true => loads.take(site, record.id.run.clone(), busy),
                    false => loads.hold(site, busy),
                }
            }
        }
        loads
    }

    /// Runs with something to place, by priority and age; each once for each priority that it has something of.
    pub(super) fn queue(&self) -> BTreeSet<(i32, Timestamp, RunId)> {
        let waiting = self.index.queued.iter().filter_map(|id| self.workloads.get(id));
        let waiting = waiting.filter(|record| placeable(record));
        let place = |record: &WorkloadRecord| {
            let run = self.runs.get(&record.id.run)?;
            Some((-record.spec.priority, run.at, run.id.clone()))
        };
        waiting.filter_map(place).collect()
    }

    /// The places in the queues of sites that a run's last plan gave to what of it waits with a priority. What was
    /// never planned, as too many were full before it, waits at the one site that can have it; where there are several,
    /// nobody knows.
    pub(super) fn places_of(&self, run: &RunId, priority: i32, now: Timestamp) -> Vec<(SiteId, Queued)> {
        let waiting = self.workloads_of(run).filter(|record| placeable(record) && record.spec.priority == priority);
        let place = |record: &WorkloadRecord| {
            let planned = record.placement.as_ref().map(|placement| placement.site());
            let site = planned.unwrap_or_else(|| self.only_site(&record.spec))?;
            Some((site.clone(), self.queued(record, site, now)))
        };
        waiting.filter_map(place).collect()
    }

    fn only_site(&self, spec: &WorkloadSpec) -> Option<&SiteId> {
        let may = |info: &SiteInfo| {
            let picked = spec.site.as_ref().is_none_or(|selector| selector.picks(&info.id, &info.labels));
            picked && info.capacity.holds(&spec.resources)
        };
        let mut sites = self.sites.values().filter(|site| !site.revoked && !site.draining && may(&site.info));
        sites.next().filter(|_| sites.next().is_none()).map(|site| &site.info.id)
    }

    pub(super) fn queued(&self, record: &WorkloadRecord, site: &SiteId, now: Timestamp) -> Queued {
        let Busy { resources, ends_in } = self.busy(record, site, now);
        Queued { resources, duration: ends_in }
    }

    pub(super) fn busy(&self, record: &WorkloadRecord, site: &SiteId, now: Timestamp) -> Busy {
        let ends_in = record.spec.job().map(|_| self.remaining(record, site, now));
        Busy { resources: record.spec.resources.clone(), ends_in }
    }

    /// The problem of placing what a run has left to do, beside what holds resources already.
    pub fn problem(&self, run: &RunRecord, loads: &Loads, now: Timestamp) -> Problem {
        let ended = |record: &&WorkloadRecord| {
            !matches!(record.state, State::Failed { .. } | State::Stopped { .. } | State::Skipped { .. })
        };
        let names: Vec<&WorkloadRecord> = self.workloads_of(&run.id).filter(ended).collect();
        let index: BTreeMap<&Name, usize> = names.iter().enumerate().map(|(i, record)| (&record.id.name, i)).collect();
        let mut seen = Seen::default();
        let mut tasks = Vec::with_capacity(names.len());
        for record in &names {
            tasks.push(self.task(run, record, &index, &mut seen, now));
        }
        let mut need = Resources::default();
        tasks.iter().for_each(|task| need.add(&task.resources));
        let sites = self.sites.keys().map(|site| self.site_state(site, run, loads, &need, now)).collect();
        Problem { sites, links: self.links.clone(), tasks, objective: run.spec.objective }
    }

    /// A site without what the run that is being planned holds there.
    fn site_state(&self, id: &SiteId, run: &RunRecord, loads: &Loads, need: &Resources, now: Timestamp) -> SiteState {
        let site = &self.sites[id];
        let mut free = loads.free(id);
        let (mut busy, mut queued) = (Vec::new(), Vec::new());
        if let Some(load) = loads.0.get(id) {
            let own = |held: &&Held| held.run.as_ref() == Some(&run.id);
            load.held.iter().filter(own).for_each(|held| free.add(&held.busy.resources));
            let promised = load.waits.iter().filter(|waits| waits.promised && waits.run == run.id);
            promised.for_each(|waits| free.add(&waits.queued.resources));
            // Where the whole run fits into what nobody has or waits for, it makes no difference when the rest ends.
            if !free.holds(need) {
                free = load.room.clone();
                load.held.iter().filter(own).for_each(|held| free.add(&held.busy.resources));
                busy = load.held.iter().filter(|held| !own(held)).map(|held| held.busy.clone()).collect();
                queued = load.queue(&run.id);
            }
        }
        SiteState {
            info: site.info.clone(),
            free,
            reachable: site.reachable(now),
            draining: site.draining,
            busy,
            queued,
        }
    }

    pub(super) fn task(
        &self,
        run: &RunRecord,
        record: &WorkloadRecord,
        index: &BTreeMap<&Name, usize>,
        seen: &mut Seen,
        now: Timestamp,
    ) -> Task {
        let spec = &record.spec;
        let mut inputs: Vec<_> =
            spec.inputs.values().filter_map(|source| self.input(run, source, index, seen)).collect();
        inputs.push(self.version_input(Name::new("code").expect("a fixed name"), &run.code, seen));
        // It goes on from there, and brings it wherever it is placed.
        if let Some(state) = record.state_dir.filter(|state| self.versions.contains_key(state)) {
            inputs.push(self.version_input(Name::new("state").expect("a fixed name"), &state, seen));
        }
        let past = self.history.get(&(run.id.project().clone(), record.id.name.clone()));
        let durations = past.map(|past| {
            let estimate = |millis: &Millis| Estimate { millis: *millis, source: Source::History };
            past.ran.iter().map(|(site, millis)| (site.clone(), estimate(millis))).collect()
        });
        let progress = match &record.state {
            State::Placed { site, .. } | State::Preparing { site, .. } => Progress::Placed(site.clone()),
            State::Running { site, .. } | State::Ready { site, .. } => {
                Progress::Running { site: site.clone(), remaining: self.remaining(record, site, now) }
            }
            State::Succeeded { .. } => match self.output_site(record) {
                Some(site) => Progress::Done(site),
                None => Progress::Undecided,
            },
            State::Waiting
            | State::Queued { .. }
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Stopped { .. }
            | State::Skipped { .. } => Progress::Undecided,
        };
        Task {
            name: record.id.name.clone(),
            resources: spec.resources.clone(),
            priority: spec.priority,
            selector: spec.site.clone(),
            image: spec.image.is_some(),
            residency: spec.job().map(|job| job.keep_at.clone()).unwrap_or_default(),
            duration: past.and_then(usual).unwrap_or_else(|| estimate(spec)),
            durations: durations.unwrap_or_default(),
            inputs,
            service: spec.service().is_some(),
            progress,
            barred: self.barred(record, now),
        }
    }

    fn input(&self, run: &RunRecord, source: &Name, index: &BTreeMap<&Name, usize>, seen: &mut Seen) -> Option<Input> {
        if let Some(version) = self.resolve(run, source) {
            return Some(self.version_input(source.clone(), &version, seen));
        }
        let producer = self.producer(run, source)?;
        let job = run.spec.workloads[producer].job()?;
        let bytes = self.expected_bytes(run, source, &mut seen.sizes, 0);
        let released = job.release.contains(source);
        Some(Input::Output { name: source.clone(), task: *index.get(producer)?, bytes, released })
    }

    /// The size of an input that is not there yet: as the last time, else as large as all that its stage reads,
    /// as far as that can be followed. `known` keeps a diamond from being walked twice.
    fn expected_bytes(&self, run: &RunRecord, source: &Name, known: &mut BTreeMap<Name, u64>, depth: usize) -> u64 {
        if let Some(bytes) = known.get(source) {
            return *bytes;
        }
        let producer = self.producer(run, source);
        let past = producer.and_then(|name| self.history.get(&(run.id.project().clone(), name.clone())));
        let bytes = match (self.resolve(run, source), past.and_then(|past| past.outputs.get(source)), producer) {
            (Some(version), _, _) => self.versions.get(&version).map_or(0, |record| record.bytes),
            (None, Some(bytes), _) => *bytes,
            (None, None, Some(producer)) if depth < FOLLOWED_MAX => {
                let mut all: u64 = 0;
                for input in run.spec.workloads[producer].inputs.values() {
                    all = all.saturating_add(self.expected_bytes(run, input, known, depth + 1));
                }
                all
            }
            (None, None, _) => 0,
        };
        known.insert(source.clone(), bytes);
        bytes
    }

    fn version_input(&self, name: Name, version: &VersionId, seen: &mut Seen) -> Input {
        let record = self.versions.get(version);
        Input::Version {
            name,
            bytes: record.map_or(0, |record| record.bytes),
            missing: seen.missing.entry(*version).or_insert_with(|| self.missing(version)).clone(),
            replicas: record.map(|record| record.replicas.clone()).unwrap_or_default(),
            residency: record.map(|record| record.residency.clone()).unwrap_or_default(),
        }
    }

    /// Whether more is known of how long a job runs than nothing.
    pub(super) fn runs_known(&self, record: &WorkloadRecord) -> bool {
        let key = (record.id.run.project().clone(), record.id.name.clone());
        record.spec.duration.is_some() || self.history.get(&key).is_some_and(|past| !past.ran.is_empty())
    }

    pub(super) fn remaining(&self, record: &WorkloadRecord, site: &SiteId, now: Timestamp) -> Millis {
        let key = (record.id.run.project().clone(), record.id.name.clone());
        let whole = self.history.get(&key).and_then(|past| past.ran.get(site)).copied();
        let whole = whole.unwrap_or_else(|| estimate(&record.spec).millis);
        let ran = match record.state {
            State::Running { since, .. } => now.since(since),
            _ => Millis(0),
        };
        // What has run longer than expected is expected to go on for a while, not to end at once.
        Millis(whole.0.saturating_sub(ran.0).max(whole.0 / 10))
    }

    fn output_site(&self, record: &WorkloadRecord) -> Option<SiteId> {
        let last = record.attempts.last().map(|attempt| attempt.site.clone());
        let held = |made: &crate::sync::Made| self.versions.get(&made.version)?.replicas.first().cloned();
        last.or_else(|| record.outputs.values().find_map(held)).or_else(|| self.sites.keys().next().cloned())
    }
}

/// What a stage took elsewhere says more of a site where it never ran than what its author thought; and a site
/// must not win only because it alone was tried.
fn usual(past: &PastRuns) -> Option<Estimate> {
    let count = u64::try_from(past.ran.len()).ok().filter(|count| *count > 0)?;
    let sum = past.ran.values().fold(0u64, |sum, millis| sum.saturating_add(millis.0));
    Some(Estimate { millis: Millis(sum / count), source: Source::History })
}

fn estimate(spec: &WorkloadSpec) -> Estimate {
    match spec.duration {
        Some(millis) => Estimate { millis, source: Source::Declared },
        None => Estimate { millis: DURATION_ASSUMED, source: Source::Assumed },
    }
}

/// The problem of a project that is not submitted: what would happen if it were, now.
impl World {
    pub fn what_if(
        &mut self,
        submission: super::Submission,
        objective: Option<Objective>,
        now: Timestamp,
    ) -> Result<Problem, super::Refusal> {
        let id = submission.id.clone();
        self.submit(submission, now)?;
        self.compare_sketches(&id);
        let run = self.runs.remove(&id).expect("just submitted");
        let mut loads = self.loads(now);
        let priority = self.workloads_of(&id).map(|record| record.spec.priority).max().unwrap_or(0);
        let ahead = self.queue().into_iter().take_while(|(lower, at, _)| (*lower, *at) <= (-priority, now));
        for (lower, _, ahead) in ahead {
            for (site, queued) in self.places_of(&ahead, -lower, now) {
                loads.promise(&site, ahead.clone(), queued);
            }
        }
        let mut problem = self.problem(&run, &loads, now);
        problem.objective = objective.unwrap_or(problem.objective);
        Ok(problem)
    }
}
