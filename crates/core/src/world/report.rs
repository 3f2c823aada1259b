//! What sites report: facts are taken in by epoch, once, and stale ones are refused.

use std::collections::BTreeMap;

use super::{
    BACKOFF_FIRST, BACKOFF_MAX, LOST_RETRIES_MAX, Refusal, Release, SERVICE_STARTS_MAX, VersionRecord, WorkloadRecord,
    World,
};
use crate::facts::Facts;
use crate::ids::{Epoch, Name, SiteId, VersionId, WorkloadId};
use crate::residency::{Residency, Selector};
use crate::spec::Command;
use crate::sync::{
    Assignment, Desired, Finish, Intent, Made, Observed, Outcome, Phase, Replicas, Report, TransferSeen,
};
use crate::time::{Millis, Timestamp};
use crate::workload::{State, Step};

/// The longest run time that is remembered, whatever a site says: a year.
const RAN_MAX: Millis = Millis::from_secs(366 * 24 * 3600);
/// What an agent may need, beyond the grace, to hear that it is revoked and to see that all is dead.
const REVOKED_MARGIN: Millis = Millis(500);
/// How long a service has to have answered for its next end to count as the first.
const SERVED_WELL: Millis = Millis::from_secs(60);

/// What the control plane knows of a placement that a site reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The newest epoch, at this site, not over; or the one that arrives there.
    Live,
    /// Recorded as over, or an older epoch.
    Past,
    /// Never heard of.
    Unknown,
}

impl World {
    /// Takes in a site's report. It may be taken in any number of times.
    pub fn report(&mut self, site: &SiteId, report: &Report, now: Timestamp) {
        let Some(record) = self.sites.get_mut(site).filter(|record| !record.revoked) else { return };
        // The moment is kept in memory at each report, and made durable when something else of the site is.
        record.heard = Some(now);
        self.take_replicas(site, &report.replicas);
        for seen in &report.transfers {
            self.note_transfer(site, seen);
        }
        for observed in &report.observed {
            self.take_leaving(site, observed, now);
            if self.arrives(site, &observed.workload, observed.epoch) {
                self.take_arrival(observed, now);
            } else if self.known(site, &observed.workload, observed.epoch) == Known::Live {
                self.take_phase(site, observed, now);
            }
        }
        for copied in &report.copied {
            self.take_copy(site, copied, now);
        }
        self.take_left(site, &report.left);
    }

    fn note_transfer(&mut self, site: &SiteId, seen: &TransferSeen) {
        // A site may say what it likes; only what is between sites that there are is remembered.
        if !self.sites.contains_key(&seen.from) || seen.from == *site {
            return;
        }
        let link = self.links.get(&seen.from, site);
        let measured = link.measured(seen.wire_bytes, seen.took);
        if measured != link {
            self.links.0.insert((seen.from.clone(), site.clone()), measured);
            self.changes.links.insert((seen.from.clone(), site.clone()));
        }
        let egress = self.sites.get(&seen.from).map_or(0.0, |from| from.info.prices.egress(seen.wire_bytes));
        let Some(id) = &seen.workload else { return };
        let Some(record) = self.workloads.get_mut(id) else { return };
        if let Some(moving) = record.moving.as_mut().filter(|moving| moving.to == *site) {
            moving.bytes = moving.bytes.saturating_add(seen.wire_bytes);
            moving.egress += egress;
            self.changes.workloads.insert(id.clone());
        }
        if let Some(attempt) = record.attempts.last_mut().filter(|attempt| attempt.site == *site) {
            attempt.bytes_in = attempt.bytes_in.saturating_add(seen.wire_bytes);
            attempt.cost += egress;
            self.changes.workloads.insert(id.clone());
        }
    }

    pub fn known(&self, site: &SiteId, id: &WorkloadId, epoch: Epoch) -> Known {
        match self.workloads.get(id) {
            Some(record) if record.epoch == epoch && record.state.site() == Some(site) => Known::Live,
            Some(record) if record.arrival() == Some((site, epoch)) => Known::Live,
            Some(record) if record.newest_epoch() >= epoch => Known::Past,
            // Of runs that are over only the store knows; the edge has looked there before it asks here.
            _ => Known::Unknown,
        }
    }

    /// Adds to what a site is told: which ends are recorded, and what runs there under an old epoch.
    /// What was never heard of is left alone: it may be newer than a restored backup.
    pub(super) fn answer(&self, site: &SiteId, observed: &[Observed], desired: &mut Desired) {
        for Observed { workload, epoch, phase } in observed {
            let over = matches!(phase, Phase::Finished(_));
            match self.known(site, workload, *epoch) {
                Known::Live | Known::Unknown => {}
                Known::Past if over => desired.settled.push((workload.clone(), *epoch)),
                Known::Past => desired.assignments.push(Assignment {
                    workload: workload.clone(),
                    epoch: *epoch,
                    intent: Intent::Stop,
                }),
            }
        }
    }

    fn take_replicas(&mut self, site: &SiteId, replicas: &Replicas) {
        let (held, all) = match replicas {
            Replicas::New(held) => (held, false),
            Replicas::All(held) => (held, true),
        };
        for version in held {
            if self.versions.get_mut(version).is_some_and(|record| record.replicas.insert(site.clone())) {
                self.changes.versions.insert(*version);
            }
        }
        if all {
            let held: std::collections::BTreeSet<_> = held.iter().collect();
            for (version, record) in &mut self.versions {
                if !held.contains(version) && record.replicas.remove(site) {
                    self.changes.versions.insert(*version);
                }
            }
        }
    }

    fn take_phase(&mut self, site: &SiteId, observed: &Observed, now: Timestamp) {
        let id = &observed.workload;
        if matches!(observed.phase, Phase::Prepared { .. }) {
            self.clear_port(&id.clone(), now);
        }
        let state = &self.workloads[id].state;
        let step = match &observed.phase {
            Phase::Preparing | Phase::Prepared { .. } | Phase::Queued { .. }
                if matches!(state, State::Placed { .. }) =>
            {
                Step::Accepted
            }
            Phase::Queued { why } => {
                let why = why.clone();
                return self.note_wait(&id.clone(), why, now);
            }
            Phase::Running { since } if !matches!(state, State::Running { .. }) => Step::Started { since: *since },
            Phase::Ready { since, address } if !matches!(state, State::Ready { address: a, .. } if a == address) => {
                Step::Ready { since: *since, address: address.clone() }
            }
            // It may be heard of for the first time now.
            Phase::Ending { since, address, .. } if !matches!(state, State::Ready { .. }) => {
                Step::Ready { since: *since, address: address.clone() }
            }
            Phase::Ending { why, .. } => return self.renew(&id.clone(), why.clone(), now),
            Phase::Finished(finish) => return self.take_finish(site, id, finish, now),
            Phase::Preparing | Phase::Prepared { .. } | Phase::Running { .. } | Phase::Ready { .. } => return,
        };
        let record = self.workloads.get_mut(id).expect("known to be live");
        // A step that does not fit is an old report that came late; the next one tells more.
        let Ok(next) = record.state.step(step, now) else { return };
        let ready = matches!(next, State::Ready { .. });
        record.state = next;
        if ready {
            record.renewing = None;
        }
        record.why = wait_of(&observed.phase);
        let text = record.why.clone();
        self.touch(id);
        self.tell(now, id, text);
        self.settle_move(id, now);
        if ready {
            self.supersede(&id.clone(), now);
        }
        if let Phase::Ending { why, .. } = &observed.phase {
            self.renew(&id.clone(), why.clone(), now);
        }
    }

    /// Has a service end in good order where its site will end it anyway, and another take its place at once.
    fn renew(&mut self, id: &WorkloadId, why: String, now: Timestamp) {
        let record = self.workloads.get_mut(id).expect("known to be live");
        let Some(site) = record.state.site().cloned() else { return };
        if record.stopping || record.renewing.is_some() || record.moving.is_some() {
            return;
        }
        record.renewing = Some(record.epoch);
        self.changes.wake.insert(site);
        self.touch(id);
        self.tell(now, id, Some(format!("another takes its place: {why}")));
    }

    /// The site's own scheduler lets it wait.
    fn note_wait(&mut self, id: &WorkloadId, why: String, now: Timestamp) {
        let record = self.workloads.get_mut(id).expect("known to be live");
        if matches!(record.state, State::Preparing { .. }) && record.why.as_ref() != Some(&why) {
            record.why = Some(why.clone());
            self.touch(id);
            self.tell(now, id, Some(why));
        }
    }

    fn take_finish(&mut self, site: &SiteId, id: &WorkloadId, finish: &Finish, now: Timestamp) {
        let finish = &finish.clone().bounded();
        let mut outcome = finish.outcome.clone();
        if let Some(fault) = self.foreign_output(id, finish) {
            outcome = Outcome::BadOutputs { why: fault };
        } else if let Some(job) = self.workloads[id].spec.job().filter(|_| outcome.is_success()) {
            outcome = Outcome::unexpected(job, &finish.outputs).unwrap_or(outcome);
        }
        let succeeded = outcome.is_success() && self.workloads[id].spec.job().is_some();
        if succeeded {
            self.take_outputs(site, id, finish, now);
        } else if matches!(outcome, Outcome::ExpectationsFailed { .. }) {
            // Kept for whoever looks into it; as the stage has failed, no other stage gets it.
            let kept = self.enter_outputs(site, id, finish, false, now);
            self.workloads.get_mut(id).expect("known to be live").outputs = kept;
        }
        self.note_attempt(site, id, finish, &outcome, now);
        if let Some(version) = finish.state {
            // State derives from what the workload read, what it had gone on from included, and follows the same rule.
            let residency = self.inherited(id);
            // What isn't told is not guessed: a grant names the size, and is refused where that is wrong.
            self.enter_version(version, finish.state_bytes, 0, residency, site, Some(id.clone()), now);
            if self.goes_on_from(id, finish, &outcome) {
                self.keep_state(id, version, now);
            }
        }
        if self.end_of_moving(id, finish, &outcome, now) {
            return;
        }
        let record = self.workloads.get_mut(id).expect("known to be live");
        if matches!(record.state, State::Ready { since, .. } if now.since(since) >= SERVED_WELL) {
            // It did its work for a while: what ends it now is not what ended it before.
            (record.failures, record.losses) = (0, 0);
        }
        let retry_at = retry_at(record, &outcome, now);
        let text = (!succeeded).then(|| match retry_at {
            Some(at) => format!("{outcome}; tries again in {}", at.since(now)),
            None => outcome.to_string(),
        });
        if let Ok(next) = record.state.step(Step::Ended { outcome, retry_at }, now) {
            record.state = next;
            record.stopping = false;
        }
        self.forget_snapshots(id);
        self.touch(id);
        self.tell(now, id, text);
        self.changes.wake.insert(site.clone());
    }

    /// A site is out: its key is refused, its facts are no facts, and what it ran is tried elsewhere. The agent is
    /// told to stop everything; one that can't be told is not waited for, since a person has given it up.
    pub fn revoke(&mut self, site: &SiteId, now: Timestamp) -> Result<(), Refusal> {
        self.edit_site(site, |record| record.revoked = true)?;
        self.revoke_moves(site, now);
        let there: Vec<WorkloadId> = self.placed_at(site).map(|record| record.id.clone()).collect();
        for id in there {
            let stopping = self.workloads[&id].stopping;
            let outcome = match stopping {
                true => Outcome::Stopped,
                false => Outcome::Lost { why: format!("its site {site} was revoked") },
            };
            let finish = Finish::without_running(outcome.clone(), now);
            self.note_attempt(site, &id, &finish, &outcome, now);
            if self.end_of_moving(&id, &finish, &outcome, now) {
                continue;
            }
            let record = self.workloads.get_mut(&id).expect("listed above");
            // Its agent, told to stop everything, may use up the grace.
            let grace = record.spec.grace + REVOKED_MARGIN;
            let retry_at = retry_at(record, &outcome, now).map(|at| at + grace);
            if let Ok(next) = record.state.step(Step::Ended { outcome: outcome.clone(), retry_at }, now) {
                record.state = next;
                record.stopping = false;
            }
            self.touch(&id);
            self.tell(now, &id, Some(outcome.to_string()));
        }
        Ok(())
    }

    /// An output that the stage does not declare, or one that it declares and did not make.
    fn foreign_output(&self, id: &WorkloadId, finish: &Finish) -> Option<String> {
        let spec = &self.workloads[id].spec;
        if !finish.outcome.is_success() || spec.job().is_none() {
            return None;
        }
        let missing = spec.outputs().find(|name| !finish.outputs.contains_key(*name));
        missing.map(|name| format!("the site reports success without the output {name}"))
    }

    fn take_outputs(&mut self, site: &SiteId, id: &WorkloadId, finish: &Finish, now: Timestamp) {
        let outputs = self.enter_outputs(site, id, finish, true, now);
        if let Some(key) = self.cache_key(id) {
            self.changes.cached.push((key, id.clone()));
        }
        let ran = finish.ran.map(|ran| Millis(ran.0.min(RAN_MAX.0)));
        let key = (id.run.project().clone(), id.name.clone());
        let past = self.history.entry(key.clone()).or_default();
        if let Some(ran) = ran {
            let mean = past.ran.get(site).map_or(ran, |old| Millis(old.0 / 2 + ran.0 / 2));
            past.ran.insert(site.clone(), mean);
        }
        past.outputs = outputs.iter().map(|(name, made)| (name.clone(), made.bytes)).collect();
        if let Command::Import(source) = &self.workloads[id].spec.command {
            past.state = finish.state.filter(|_| source.is_incremental());
        }
        self.changes.history.insert(key);
        self.workloads.get_mut(id).expect("known to be live").outputs = outputs;
    }

    /// Makes the declared outputs known as versions. What was found in them stands with these alone.
    fn enter_outputs(
        &mut self,
        site: &SiteId,
        id: &WorkloadId,
        finish: &Finish,
        may_release: bool,
        now: Timestamp,
    ) -> BTreeMap<Name, Made> {
        let inherited = self.inherited(id);
        let record = &self.workloads[id];
        let released = record.spec.job().map(|job| job.release.clone()).unwrap_or_default();
        let outputs: BTreeMap<_, _> = finish
            .outputs
            .iter()
            .filter(|(name, _)| record.spec.outputs().any(|declared| declared == *name))
            .map(|(name, made)| (name.clone(), Made { facts: Facts::default(), sketch: None, ..made.clone() }))
            .collect();
        for (name, made) in &outputs {
            let mut residency = inherited.clone();
            if may_release && released.contains(name) {
                residency = self.release(id, name, made.version, &inherited);
            }
            self.enter_version(made.version, made.bytes, made.files, residency, site, Some(id.clone()), now);
            if let Some(sketch) = &finish.outputs[name].sketch {
                self.learn_sketch(made.version, sketch.clone());
            }
            if let Some(record) = self.versions.get_mut(&made.version) {
                let mut facts = finish.outputs[name].facts.clone();
                // Bytes that are something else's too are not marked for what is expected of this output: what was
                // expected of the other stands.
                facts.checked.take_if(|_| !record.made_by.as_ref().is_some_and(|made_by| same_stage(made_by, id)));
                record.facts.renew(facts);
            }
        }
        outputs
    }

    #[expect(clippy::too_many_arguments, reason = "each is one column of the version's record")]
    pub(super) fn enter_version(
        &mut self,
        id: VersionId,
        bytes: u64,
        files: u64,
        residency: Residency,
        site: &SiteId,
        made_by: Option<WorkloadId>,
        now: Timestamp,
    ) {
        let forgotten = self.forgotten.get(&id);
        let record = self.versions.entry(id).or_insert_with(|| match forgotten {
            // What it was under before it was forgotten, and by what.
            Some(old) => VersionRecord { bytes, files, at: now, ..old.clone() },
            None => VersionRecord {
                bytes,
                files,
                residency: Residency::anywhere(),
                given: Residency::anywhere(),
                made_by: made_by.clone(),
                at: now,
                replicas: Default::default(),
                facts: Facts::default(),
            },
        });
        record.replicas.insert(site.clone());
        self.govern(id, residency, made_by.as_ref());
    }

    /// The rules that a stage's making of a version puts it under. What the very same stage had inherited before is
    /// replaced, so that a release works although the bytes are the same; every other rule stays.
    fn govern(&mut self, id: VersionId, inherited: Residency, made_by: Option<&WorkloadId>) {
        let Some(record) = self.versions.get_mut(&id) else { return };
        let own = record.made_by.as_ref().zip(made_by).is_some_and(|(old, new)| same_stage(old, new));
        if own {
            record.residency = record.given.and(&inherited);
        } else {
            record.given = record.given.and(&inherited);
            record.residency = record.residency.and(&inherited);
        }
        self.changes.versions.insert(id);
    }

    /// Lets an output go from the rules that were known when its run was submitted, on the record; those that are left.
    fn release(&mut self, id: &WorkloadId, output: &Name, version: VersionId, inherited: &Residency) -> Residency {
        let run = self.runs.get(&id.run);
        let by = run.map(|run| run.by.clone()).unwrap_or_default();
        let may_lift = run.and_then(|run| run.may_lift.clone()).unwrap_or_else(|| inherited.clone());
        let (from, left) = inherited.0.iter().cloned().partition(|rule| may_lift.0.contains(rule));
        let (from, left) = (Residency(from), Residency(left));
        if !from.is_anywhere() {
            let reason = self.workloads[id].spec.job().and_then(|job| job.reasons.get(output).cloned());
            let (workload, output) = (id.clone(), output.clone());
            self.changes.released.push(Release { workload, output, version, by, from, reason });
        }
        left
    }

    /// Outputs that an earlier run left are under the rules that this run's inputs are under now.
    pub(super) fn govern_outputs(&mut self, id: &WorkloadId) {
        let inherited = self.inherited(id);
        let record = &self.workloads[id];
        let released = record.spec.job().map(|job| job.release.clone()).unwrap_or_default();
        let outputs: Vec<_> = record.outputs.iter().map(|(name, made)| (name.clone(), made.version)).collect();
        for (name, version) in outputs {
            let mut residency = inherited.clone();
            if released.contains(&name) {
                residency = self.release(id, &name, version, &inherited);
            }
            self.govern(version, residency, Some(id));
        }
    }

    /// The residency of whatever derives from what a workload reads.
    pub fn inherited(&self, id: &WorkloadId) -> Residency {
        let Some(run) = self.runs.get(&id.run) else { return Residency::anywhere() };
        let record = &self.workloads[id];
        let read = record.spec.inputs.values().filter_map(|source| self.resolve(run, source));
        self.inherited_from(record, read.chain([run.code]))
    }

    /// The same of a workload whose run is over, by what it has read, its code included.
    pub fn inherited_from(&self, record: &WorkloadRecord, read: impl Iterator<Item = VersionId>) -> Residency {
        let own = record.spec.job().map(|job| job.keep_at.clone()).unwrap_or_default();
        // What an import goes on from is part of what it makes.
        let goes_on = record.state_dir.filter(|_| matches!(record.spec.command, Command::Import(_)));
        read.chain(goes_on).fold(own, |all, version| match self.versions.get(&version) {
            Some(version) => all.and(&version.residency),
            // Of what is forgotten nobody knows the rules any more: then nowhere is allowed.
            None => all.and(&Residency::keep_at(Selector::default())),
        })
    }

    fn note_attempt(&mut self, site: &SiteId, id: &WorkloadId, finish: &Finish, outcome: &Outcome, now: Timestamp) {
        let epoch = self.workloads[id].epoch;
        self.note_end_of(site, id, epoch, finish, outcome, now);
    }

    pub(super) fn note_end_of(
        &mut self,
        site: &SiteId,
        id: &WorkloadId,
        epoch: Epoch,
        finish: &Finish,
        outcome: &Outcome,
        now: Timestamp,
    ) {
        let prices = self.sites.get(site).map(|site| site.info.prices.clone()).unwrap_or_default();
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        let need = record.spec.resources.clone();
        if let Some(attempt) = record.attempts.iter_mut().rev().find(|attempt| attempt.epoch == epoch) {
            attempt.ended = Some(now);
            attempt.ran = finish.ran;
            attempt.outcome = Some(outcome.clone());
            attempt.memory_peak_bytes = finish.memory_peak_bytes;
            attempt.cpu = finish.cpu;
            attempt.metric = finish.metric;
            attempt.cost += prices.compute(&need, finish.ran.unwrap_or_default());
        }
    }
}

/// What a placement waits for, in the words of its site.
fn wait_of(phase: &Phase) -> Option<String> {
    match phase {
        Phase::Queued { why } => Some(why.clone()),
        _ => None,
    }
}

fn same_stage(a: &WorkloadId, b: &WorkloadId) -> bool {
    a.run.project() == b.run.project() && a.name == b.name
}

/// When a workload that ended is tried again, if it is; counts the failure.
fn retry_at(record: &mut WorkloadRecord, outcome: &Outcome, now: Timestamp) -> Option<Timestamp> {
    if record.stopping {
        return None;
    }
    let ended = matches!(outcome, Outcome::Stopped | Outcome::Checkpointed | Outcome::Evicted { .. });
    if record.renewing == Some(record.epoch) && ended {
        return Some(now);
    }
    // What comes after it has failed as well: nobody is told to wait for that.
    record.renewing = None;
    let tries = match outcome {
        Outcome::Lost { .. } | Outcome::Evicted { .. } => {
            record.losses += 1;
            (record.losses <= LOST_RETRIES_MAX).then_some(record.losses)
        }
        // The lease ended its stay; it was not asked for by a person.
        Outcome::Stopped | Outcome::Checkpointed => Some(1),
        outcome => {
            record.failures += 1;
            let allowed = match record.spec.job() {
                Some(job) => job.retries,
                None => SERVICE_STARTS_MAX - 1,
            };
            let service_ended_well = record.spec.service().is_some() && outcome.is_success();
            let again = (outcome.may_retry() || service_ended_well) && record.failures <= allowed;
            again.then_some(record.failures)
        }
    };
    let doublings = tries?.saturating_sub(1).min(10);
    let pause = Millis((BACKOFF_FIRST.0 << doublings).min(BACKOFF_MAX.0));
    Some(now + pause)
}
