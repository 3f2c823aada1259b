//! From the world to the planner's problem: what a run still has to do, seen from now.

use std::collections::BTreeMap;

use super::{PastRuns, RunRecord, WorkloadRecord, World};
use crate::ids::{Name, RunId, SiteId};
use crate::placement::{Busy, Estimate, Input, Problem, Progress, SiteState, Source, Task};
use crate::residency::Residency;
use crate::resources::Resources;
use crate::spec::{Objective, WorkloadSpec};
use crate::time::{Millis, Timestamp};
use crate::workload::State;

/// How long a job is taken to run of which nobody knows anything.
/// Stages that are followed upwards to guess the size of an output that was never made.
const FOLLOWED_MAX: usize = 64;
pub const DURATION_ASSUMED: Millis = Millis::from_secs(60);

/// What holds resources at each site, gathered once for a whole pass.
#[derive(Debug, Default)]
pub struct Loads(BTreeMap<SiteId, Load>);

#[derive(Debug, Default)]
struct Load {
    free: Resources,
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    /// None for what was promised to a workload that waits for room.
    run: Option<RunId>,
    busy: Busy,
}

impl Loads {
    pub fn free(&self, site: &SiteId) -> Resources {
        self.0.get(site).map(|load| load.free.clone()).unwrap_or_default()
    }

    /// Room that is taken from now on, by a run's workload or for one that waits.
    pub fn take(&mut self, site: &SiteId, run: Option<RunId>, busy: Busy) {
        let load = self.0.entry(site.clone()).or_default();
        load.free.take(&busy.resources);
        load.held.push(Held { run, busy });
    }
}

impl World {
    pub fn loads(&self, now: Timestamp) -> Loads {
        let mut loads = Loads::default();
        for site in self.sites.values() {
            let load = Load { free: site.info.capacity.clone(), held: Vec::new() };
            loads.0.insert(site.info.id.clone(), load);
        }
        for record in self.workloads.values() {
            if let Some(site) = record.state.site() {
                let busy = self.busy(record, site, now);
                loads.take(site, Some(record.id.run.clone()), busy);
            }
        }
        loads
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
        // Sizes that were guessed once are guessed for all: long graphs would be walked again for each stage.
        let mut sizes = BTreeMap::new();
        let mut tasks = Vec::with_capacity(names.len());
        for record in &names {
            tasks.push(self.task(run, record, &index, &mut sizes, now));
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
        let mut busy = Vec::new();
        if let Some(load) = loads.0.get(id) {
            let own = |held: &&Held| held.run.as_ref() == Some(&run.id);
            load.held.iter().filter(own).for_each(|held| free.add(&held.busy.resources));
            // Where the whole run fits into what is free now, it makes no difference when the rest ends.
            if !free.holds(need) {
                busy = load.held.iter().filter(|held| !own(held)).map(|held| held.busy.clone()).collect();
            }
        }
        SiteState {
            info: site.info.clone(),
            free,
            reachable: site.reachable(now),
            draining: site.draining,
            busy,
            queued: Vec::new(),
        }
    }

    fn task(
        &self,
        run: &RunRecord,
        record: &WorkloadRecord,
        index: &BTreeMap<&Name, usize>,
        sizes: &mut BTreeMap<Name, u64>,
        now: Timestamp,
    ) -> Task {
        let spec = &record.spec;
        let mut inputs: Vec<_> =
            spec.inputs.values().filter_map(|source| self.input(run, source, index, sizes)).collect();
        inputs.push(self.version_input(Name::new("code").expect("a fixed name"), &run.code));
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
            residency: Residency::anywhere(),
            duration: past.and_then(usual).unwrap_or_else(|| estimate(spec)),
            durations: durations.unwrap_or_default(),
            inputs,
            service: spec.service().is_some(),
            progress,
        }
    }

    fn input(
        &self,
        run: &RunRecord,
        source: &Name,
        index: &BTreeMap<&Name, usize>,
        sizes: &mut BTreeMap<Name, u64>,
    ) -> Option<Input> {
        if let Some(version) = self.resolve(run, source) {
            return Some(self.version_input(source.clone(), &version));
        }
        let producer = run.spec.producer(source)?;
        let job = run.spec.workloads[producer].job()?;
        let bytes = self.expected_bytes(run, source, sizes, 0);
        let released = job.release.contains(source);
        Some(Input::Output { name: source.clone(), task: *index.get(producer)?, bytes, released })
    }

    /// The size of an input that is not there yet: as the last time, else as large as all that its stage reads,
    /// as far as that can be followed. `known` keeps a diamond from being walked twice.
    fn expected_bytes(&self, run: &RunRecord, source: &Name, known: &mut BTreeMap<Name, u64>, depth: usize) -> u64 {
        if let Some(bytes) = known.get(source) {
            return *bytes;
        }
        let producer = run.spec.producer(source);
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

    fn version_input(&self, name: Name, version: &crate::ids::VersionId) -> Input {
        let record = self.versions.get(version);
        Input::Version {
            name,
            bytes: record.map_or(0, |record| record.bytes),
            missing: BTreeMap::new(),
            replicas: record.map(|record| record.replicas.clone()).unwrap_or_default(),
            residency: record.map(|record| record.residency.clone()).unwrap_or_default(),
        }
    }

    fn remaining(&self, record: &WorkloadRecord, site: &SiteId, now: Timestamp) -> Millis {
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
        let run = self.runs.remove(&id).expect("just submitted");
        let loads = self.loads(now);
        let mut problem = self.problem(&run, &loads, now);
        problem.objective = objective.unwrap_or(problem.objective);
        Ok(problem)
    }
}
