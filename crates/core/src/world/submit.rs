//! What people ask for: submit, stop, retry; sites and versions that come and go.

use std::collections::{BTreeMap, BTreeSet};

use super::{By, Cache, Event, RunRecord, RunState, SiteRecord, TAGS_MAX, VersionRecord, Which, WorkloadRecord, World};
use crate::expect::OnFailure;
use crate::facts::Checked;
use crate::ids::{BadName, Epoch, Name, RunId, SiteId, VersionId, WorkloadId};
use crate::residency::Residency;
use crate::site::Link;
use crate::spec::{Command, ProjectSpec, STAGES_MAX, WorkloadSpec};
use crate::tag::Tag;
use crate::time::Timestamp;
use crate::workload::{State, Step};

/// Replicas that one service may have.
pub const REPLICAS_MAX: u32 = 20;

#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    pub id: RunId,
    pub spec: ProjectSpec,
    pub code: VersionId,
    pub data: BTreeMap<Name, VersionId>,
    pub by: String,
    pub force: bool,
}

/// Why an asked-for change is not made. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no run {0}")]
    NoRun(RunId),
    #[error("run {0} exists already")]
    RunExists(RunId),
    #[error("there is no workload {0}")]
    NoWorkload(WorkloadId),
    #[error("there is no site {0}")]
    NoSite(SiteId),
    #[error("there is a site {0} already; a name belongs to the agent that joined with it")]
    SiteExists(SiteId),
    #[error("run {run} needs the dataset {name}, which has no version yet")]
    NoData { run: RunId, name: Name },
    #[error("{name} failed its expectations: {checked} (version {})", version.short())]
    Unexpected { name: Name, version: VersionId, checked: Box<Checked> },
    #[error("version {0} is not known")]
    NoVersion(VersionId),
    #[error("a project has at most {STAGES_MAX} stages and services; this one has {0}")]
    TooManyStages(usize),
    #[error("the service {0} wants {1} replicas; at most {REPLICAS_MAX} are allowed")]
    TooManyReplicas(Name, u32),
    #[error("the replica's name {0}-{1} is taken or too long; rename the service")]
    ReplicaName(Name, u32),
    #[error("run {0} has nothing to retry: nothing in it failed, was stopped or skipped")]
    NothingToRetry(RunId),
    #[error("run {run} can't be retried: {name}, which it reads, is known no more (version {})", version.short())]
    Forgotten { run: RunId, name: Name, version: VersionId },
    #[error("run {0} is over already: it {1}")]
    Over(RunId, &'static str),
    #[error("{version} may not be at {site}: {rule}")]
    Residency { version: VersionId, site: SiteId, rule: String },
    #[error("there is no dataset {0}")]
    NoDataset(Name),
    #[error("{dataset} has no version {which}")]
    NotNamed { dataset: Name, which: Which },
    #[error("the run {run} needs version {} of {dataset}", version.short())]
    InUse { run: RunId, dataset: Name, version: VersionId },
    #[error("version {} of {dataset} has the tag {tag}", version.short())]
    Tagged { dataset: Name, version: VersionId, tag: Tag },
    #[error("{dataset} has no tag {tag}")]
    NoTag { dataset: Name, tag: Tag },
    #[error("the tag {tag} of {dataset} is on version {} already", version.short())]
    TagElsewhere { dataset: Name, tag: Tag, version: VersionId },
    #[error("{0} has {TAGS_MAX} tags, and more are not kept")]
    TooManyTags(Name),
    #[error("{id} can't be moved to {to}: {why}")]
    CantMove { id: WorkloadId, to: SiteId, rule: &'static str, why: String },
    #[error("{0} is not being moved")]
    NotMoving(WorkloadId),
    #[error("site {0} is revoked")]
    Revoked(SiteId),
    #[error("site {0} is open: it is not being drained")]
    NotDraining(SiteId),
}

impl World {
    /// A new run; its stages wait for their inputs.
    pub fn submit(&mut self, submission: Submission, now: Timestamp) -> Result<(), Refusal> {
        let Submission { id, spec, code, data, by, force } = submission;
        if self.runs.contains_key(&id) {
            return Err(Refusal::RunExists(id));
        }
        for version in data.values().chain([&code]) {
            if !self.versions.contains_key(version) {
                return Err(Refusal::NoVersion(*version));
            }
        }
        if let Some(name) = spec.data.keys().find(|name| !data.contains_key(*name)) {
            return Err(Refusal::NoData { run: id, name: name.clone() });
        }
        self.expected(&spec, &data)?;
        let workloads = expand(&spec)?;
        let said = spec.data.iter().filter_map(|(name, data)| Some((name.clone(), data.retain.clone()?))).collect();
        for (name, spec) in workloads {
            let workload = WorkloadId::new(id.clone(), name);
            let mut record = new_workload(workload.clone(), spec);
            record.state_dir = self.left_by_last_import(&workload, &record.spec).filter(|_| !force);
            self.workloads.insert(workload.clone(), record);
            self.touch(&workload);
        }
        self.changes.events.push(Event {
            at: now,
            run: id.clone(),
            workload: None,
            epoch: Epoch::NONE,
            state: RunState::Active.word().to_owned(),
            site: None,
            text: Some(format!("submitted by {by}")),
        });
        self.changes.runs.insert(id.clone());
        let state = RunState::Active;
        let may_lift = Some(self.rules_known(&id, &spec, data.values().chain([&code])));
        let record = RunRecord { id: id.clone(), spec, code, data, by, at: now, force, state, ended: None, may_lift };
        let by = record.by.clone();
        self.runs.insert(id.clone(), record);
        self.note_run(&id);
        // Now that what it reads is in use.
        self.say_rules(id.project(), said, By { who: &by, at: now });
        Ok(())
    }

    /// Every rule that whoever submits a run can know that its outputs may come under.
    fn rules_known<'a>(&self, id: &RunId, spec: &ProjectSpec, read: impl Iterator<Item = &'a VersionId>) -> Residency {
        let goes_on = self.workloads_of(id).filter_map(|record| record.state_dir);
        let versions = read.copied().chain(goes_on).filter_map(|version| self.versions.get(&version));
        let given = spec.data.values().map(|data| &data.residency);
        let own = spec.workloads.values().filter_map(|workload| Some(&workload.job()?.keep_at));
        let rules = versions.map(|version| &version.residency).chain(given).chain(own);
        rules.fold(Residency::anywhere(), |all, rule| all.and(rule))
    }

    /// Refuses data that failed its expectations when it was added, unless the project takes it all the same.
    fn expected(&self, spec: &ProjectSpec, data: &BTreeMap<Name, VersionId>) -> Result<(), Refusal> {
        for (name, version) in data {
            let expect = spec.data.get(name).and_then(|data| data.expect.as_ref());
            let taken = expect.is_some_and(|expect| expect.on_failure == OnFailure::Use);
            let checked = self.versions.get(version).and_then(|record| record.facts.checked.as_ref());
            if let Some(checked) = checked.filter(|checked| !taken && checked.failed()) {
                let checked = Box::new(checked.clone());
                return Err(Refusal::Unexpected { name: name.clone(), version: *version, checked });
            }
        }
        Ok(())
    }

    /// Where an incremental import goes on, if what the last one left is still known.
    fn left_by_last_import(&self, id: &WorkloadId, spec: &WorkloadSpec) -> Option<VersionId> {
        let Command::Import(source) = &spec.command else { return None };
        let past = self.history.get(&(id.run.project().clone(), id.name.clone()))?;
        past.state.filter(|state| source.is_incremental() && self.versions.contains_key(state))
    }

    /// Asks everything of a run to stop. Asking again changes nothing.
    pub fn stop(&mut self, run: &RunId, now: Timestamp) -> Result<(), Refusal> {
        let record = self.runs.get(run).ok_or_else(|| Refusal::NoRun(run.clone()))?;
        let (state, serving) = (record.state, self.workloads_of(run).any(|record| !record.state.is_final()));
        if let (RunState::Succeeded | RunState::Failed | RunState::Stopped, false) = (state, serving) {
            return Err(Refusal::Over(run.clone(), state.word()));
        }
        let ids: Vec<_> = self.workloads_of(run).map(|record| record.id.clone()).collect();
        for id in ids {
            self.stop_workload(&id, now)?;
        }
        Ok(())
    }

    pub fn stop_workload(&mut self, id: &WorkloadId, now: Timestamp) -> Result<(), Refusal> {
        self.stop_moving(id, now);
        let record = self.workloads.get_mut(id).ok_or_else(|| Refusal::NoWorkload(id.clone()))?;
        if let Some(site) = record.state.site().cloned() {
            if !record.stopping {
                record.stopping = true;
                self.changes.wake.insert(site);
                self.touch(id);
                self.tell(now, id, Some("stop asked for".to_owned()));
            }
        } else if let Ok(next) = record.state.step(Step::Stop, now) {
            record.state = next;
            self.touch(id);
            self.tell(now, id, None);
        }
        Ok(())
    }

    /// Runs again whatever failed, was stopped or skipped; what succeeded stays as it is.
    pub fn retry(&mut self, run: &RunId, now: Timestamp) -> Result<(), Refusal> {
        if !self.runs.contains_key(run) {
            return Err(Refusal::NoRun(run.clone()));
        }
        let again: Vec<_> = self
            .workloads_of(run)
            .filter_map(|record| Some((record.id.clone(), record.state.step(Step::Retry, now).ok()?)))
            .collect();
        if again.is_empty() {
            return Err(Refusal::NothingToRetry(run.clone()));
        }
        self.remembers(run, again.iter().map(|(id, _)| id))?;
        for (id, state) in again {
            let record = self.workloads.get_mut(&id).expect("listed above");
            record.state = state;
            record.stopping = false;
            (record.failures, record.losses) = (0, 0);
            // A person who retries wants it run, whatever an earlier run may have left.
            record.cache = Cache::Missed;
            record.outputs.clear();
            self.touch(&id);
            self.tell(now, &id, Some("retry asked for".to_owned()));
        }
        let record = self.runs.get_mut(run).expect("looked up above");
        (record.state, record.ended) = (RunState::Active, None);
        self.changes.runs.insert(run.clone());
        Ok(())
    }

    /// Refuses where what the workloads read has been forgotten since: nobody knows its rules or its bytes any more.
    fn remembers<'a>(&self, run: &RunId, ids: impl Iterator<Item = &'a WorkloadId>) -> Result<(), Refusal> {
        let record = &self.runs[run];
        let forgotten =
            |name: &Name, version: VersionId| Refusal::Forgotten { run: run.clone(), name: name.clone(), version };
        for id in ids {
            for source in self.workloads[id].spec.inputs.values() {
                // What a stage that runs again as well makes is made anew.
                let version = self.resolve(record, source).filter(|_| !self.made_again(record, source));
                if let Some(version) = version.filter(|version| !self.versions.contains_key(version)) {
                    return Err(forgotten(source, version));
                }
            }
        }
        if !self.versions.contains_key(&record.code) {
            return Err(forgotten(&Name::new("code").expect("a fixed name"), record.code));
        }
        Ok(())
    }

    fn made_again(&self, run: &RunRecord, source: &Name) -> bool {
        let maker = self.producer(run, source).map(|name| WorkloadId::new(run.id.clone(), name.clone()));
        let maker = maker.and_then(|id| self.workloads.get(&id));
        maker.is_some_and(|record| !matches!(record.state, State::Succeeded { .. }))
    }

    /// A run that was over comes back into the live part, as the store has it.
    pub fn revive(&mut self, run: RunRecord, workloads: Vec<WorkloadRecord>) {
        if !self.runs.contains_key(&run.id) {
            let id = run.id.clone();
            self.runs.insert(id.clone(), run);
            self.note_run(&id);
            // What comes back for nothing is let go again.
            self.index.over.insert(id);
            for record in workloads {
                let id = record.id.clone();
                self.workloads.insert(id.clone(), record);
                self.note(&id);
            }
        }
    }

    pub fn join(&mut self, site: SiteRecord) -> Result<(), Refusal> {
        let id = site.info.id.clone();
        if self.sites.contains_key(&id) {
            return Err(Refusal::SiteExists(id));
        }
        self.sites.insert(id.clone(), site);
        self.changes.sites.insert(id);
        (self.planned.stale, self.looked.stale) = (true, true);
        Ok(())
    }

    pub fn edit_site(&mut self, id: &SiteId, edit: impl FnOnce(&mut SiteRecord)) -> Result<(), Refusal> {
        edit(self.sites.get_mut(id).ok_or_else(|| Refusal::NoSite(id.clone()))?);
        self.changes.sites.insert(id.clone());
        (self.planned.stale, self.looked.stale) = (true, true);
        Ok(())
    }

    pub fn set_link(&mut self, from: &SiteId, to: &SiteId, link: Link) -> Result<(), Refusal> {
        if let Some(missing) = [from, to].into_iter().find(|site| !self.sites.contains_key(*site)) {
            return Err(Refusal::NoSite(missing.clone()));
        }
        self.links.0.insert((from.clone(), to.clone()), link);
        self.changes.links.insert((from.clone(), to.clone()));
        Ok(())
    }

    /// A version that is at a site. Bytes that are known already keep every rule that they are under: the
    /// same bytes under a second name don't get out by it.
    pub fn add_version(&mut self, id: VersionId, record: VersionRecord, site: &SiteId) -> Result<(), Refusal> {
        let residency = self.residency_added(id, &record.residency, site)?;
        let (given, facts) = (record.residency.clone(), record.facts.clone());
        let forgotten = self.forgotten.get(&id).map(|old| old.residency.clone()).unwrap_or_default();
        let entry = self.versions.entry(id).or_insert_with(|| VersionRecord { given: forgotten, ..record });
        entry.given = entry.given.and(&given);
        entry.residency = residency;
        entry.facts.renew(facts);
        entry.replicas.insert(site.clone());
        self.changes.versions.insert(id);
        self.planned.stale = true;
        Ok(())
    }

    /// What a version comes to, by a site that has it: who made it known may have been wrong.
    pub fn learn_amount(&mut self, id: VersionId, bytes: u64, files: u64) {
        let Some(record) = self.versions.get_mut(&id) else { return };
        if (record.bytes, record.files) != (bytes, files) {
            (record.bytes, record.files) = (bytes, files);
            self.changes.versions.insert(id);
            self.planned.stale = true;
        }
    }

    /// The rules that a version would have if it were added at a site under these; refused where they forbid that.
    pub fn residency_added(&self, id: VersionId, given: &Residency, site: &SiteId) -> Result<Residency, Refusal> {
        let place = self.sites.get(site).ok_or_else(|| Refusal::NoSite(site.clone()))?;
        let old = self.versions.get(&id).or_else(|| self.forgotten.get(&id));
        let residency = match old {
            Some(old) => old.residency.and(given),
            None => given.clone(),
        };
        match residency.forbids(site, &place.info.labels) {
            Some(rule) => Err(Refusal::Residency { version: id, site: site.clone(), rule: format!("keep at {rule}") }),
            None => Ok(residency),
        }
    }

    /// A version that nobody names any more. It stays, where a live run reads, made or may resume from it.
    /// Answers whether it is gone, so that the store may forget it and sites collect its bytes.
    pub fn forget_version(&mut self, id: &VersionId) -> bool {
        if self.needs(id) {
            return false;
        }
        self.changes.versions.remove(id);
        self.forget_sketch(id);
        let Some(record) = self.versions.remove(id) else { return false };
        self.forgotten.remove(id);
        if !record.residency.is_anywhere() {
            let (replicas, facts) = Default::default();
            self.forgotten.insert(*id, VersionRecord { replicas, facts, ..record });
        }
        true
    }

    /// Whether a live run reads a version, made it or may resume from it.
    pub fn needs(&self, id: &VersionId) -> bool {
        let run = |run: &RunRecord| run.code == *id || run.data.values().any(|version| version == id);
        let workload = |record: &WorkloadRecord| {
            let ahead = || record.moving.as_ref().is_some_and(|moving| moving.ahead() == Some(*id));
            let kept = || record.snapshots.kept.iter().any(|kept| kept.version == *id);
            record.state_dir == Some(*id)
                || ahead()
                || kept()
                || record.outputs.values().any(|made| made.version == *id)
        };
        self.runs.values().any(run) || self.workloads.values().any(workload)
    }

    /// Lifts every rule from a version by hand, on the record; which they were.
    pub fn release_version(&mut self, id: &VersionId) -> Result<Residency, Refusal> {
        let record = self.versions.get_mut(id).ok_or(Refusal::NoVersion(*id))?;
        record.given = Residency::anywhere();
        let lifted = std::mem::take(&mut record.residency);
        self.changes.versions.insert(*id);
        self.planned.stale = true;
        Ok(lifted)
    }

    /// A source did not have what it was said to have.
    pub fn drop_replica(&mut self, id: &VersionId, site: &SiteId) {
        if self.versions.get_mut(id).is_some_and(|record| record.replicas.remove(site)) {
            self.changes.versions.insert(*id);
        }
    }
}

fn new_workload(id: WorkloadId, spec: WorkloadSpec) -> WorkloadRecord {
    WorkloadRecord {
        id,
        spec,
        state: State::Waiting,
        epoch: Epoch::NONE,
        stopping: false,
        renewing: None,
        failures: 0,
        losses: 0,
        placement: None,
        why: None,
        cache: Cache::Unasked,
        outputs: BTreeMap::new(),
        state_dir: None,
        attempts: Vec::new(),
        spent: Epoch::NONE,
        moving: None,
        moves: Vec::new(),
        leaving: Vec::new(),
        away_from: None,
        copied: None,
        snapshots: Default::default(),
    }
}

/// Services with several replicas become several workloads: `predict`, `predict-2`, `predict-3`.
fn expand(spec: &ProjectSpec) -> Result<Vec<(Name, WorkloadSpec)>, Refusal> {
    let mut all = Vec::new();
    let mut names: BTreeSet<Name> = spec.workloads.keys().cloned().collect();
    for (name, workload) in &spec.workloads {
        all.push((name.clone(), workload.clone()));
        let replicas = workload.service().map_or(1, |service| service.replicas);
        if replicas > REPLICAS_MAX {
            return Err(Refusal::TooManyReplicas(name.clone(), replicas));
        }
        for number in 2..=replicas {
            let fault = || Refusal::ReplicaName(name.clone(), number);
            let twin = Name::new(format!("{name}-{number}")).map_err(|_: BadName| fault())?;
            if !names.insert(twin.clone()) {
                return Err(fault());
            }
            all.push((twin, workload.clone()));
        }
    }
    if all.len() > STAGES_MAX {
        return Err(Refusal::TooManyStages(all.len()));
    }
    Ok(all)
}
