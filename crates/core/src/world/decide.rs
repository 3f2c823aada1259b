//! What follows from how things are: who is ready, what is placed where, whose lease is over, which runs ended.

use std::collections::BTreeSet;

use super::problem::Loads;
use super::{CLOCK_DRIFT_PER_MILLE, Cache, REPLAN_EVERY, RunRecord, RunState, WorkloadRecord, World};
use crate::ids::{Name, RunId, SiteId, WorkloadId};
use crate::placement::{self, Placement, Reason, Verdict};
use crate::sync::Outcome;
use crate::time::{Millis, Timestamp};
use crate::workload::{State, Step};

/// Runs in a row that got nothing placed, after which those behind them are planned only where there is room for
/// them at all: planning each again and again would tell nothing new.
const FULL_RUNS_MAX: usize = 64;

impl World {
    /// Draws every conclusion that can be drawn now. Drawing them again changes nothing.
    pub fn decide(&mut self, now: Timestamp) {
        self.take_in();
        self.forget_the_future(now);
        self.end_backoffs(now);
        self.fail_over(now);
        self.end_late_moves(now);
        self.decide_moves(now);
        self.take_snapshots(now);
        self.sort_left(now);
        self.release_waiting(now);
        self.ask_cache();
        self.place(now);
        // A run that serves ends what earlier ones still serve, and with it they may end.
        while self.end_runs(now) {}
    }

    /// A moment to come was read off a clock that was set back since: no lease may run from it.
    fn forget_the_future(&mut self, now: Timestamp) {
        for site in self.sites.values_mut().filter(|site| site.heard.is_some_and(|heard| heard > now)) {
            site.heard = None;
        }
    }

    pub(super) fn timed(&self) -> impl Iterator<Item = &WorkloadRecord> {
        self.index.timed.iter().filter_map(|id| self.workloads.get(id))
    }

    /// The next moment at which time alone changes something, if there is one.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let backoff = self.timed().filter_map(|record| match record.state {
            State::Backoff { until, .. } => Some(until),
            _ => None,
        });
        let lease = self.timed().filter_map(|record| self.lease_over(record));
        let moves = self.timed().filter_map(World::move_deadline);
        let snapshots = self.timed().filter_map(World::snapshot_due);
        let due = backoff.chain(lease).chain(moves).chain(snapshots);
        due.chain(self.next_of_drains()).chain(self.next_maintenance()).min()
    }

    fn end_backoffs(&mut self, now: Timestamp) {
        let due: Vec<_> = self
            .timed()
            .filter(|record| matches!(record.state, State::Backoff { until, .. } if until <= now))
            .map(|record| record.id.clone())
            .collect();
        for id in due {
            self.take_step(&id, Step::BackoffOver, now, None);
        }
    }

    /// When a placement at a silent site has surely been stopped there by its own agent: the lease, the
    /// grace in which it may still be ending, and what the agent's clock may be slow.
    fn lease_over(&self, record: &WorkloadRecord) -> Option<Timestamp> {
        let lease = record.lease()?;
        let site = self.sites.get(record.state.site()?)?;
        let heard = site.heard.unwrap_or(self.awake).max(self.awake);
        let held = lease.0 + record.spec.grace.0;
        Some(heard + Millis(held + held * CLOCK_DRIFT_PER_MILLE / 1000 + STOP_MARGIN.0))
    }

    fn fail_over(&mut self, now: Timestamp) {
        let over: Vec<_> = self
            .timed()
            .filter(|record| self.lease_over(record).is_some_and(|at| at <= now))
            .map(|record| record.id.clone())
            .collect();
        for id in over {
            let record = self.workloads.get_mut(&id).expect("listed above");
            let site = record.state.site().cloned();
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.ended = Some(now);
                attempt.outcome = Some(Outcome::Lost { why: "its site was silent for longer than its lease".into() });
            }
            if self.landing_lost(&id, now) {
                continue;
            }
            let record = self.workloads.get_mut(&id).expect("listed above");
            let stop = record.stopping;
            record.stopping = false;
            let why = site.map(|site| format!("{site} was silent for longer than failover_after"));
            self.take_step(&id, Step::Abandon, now, why);
            self.fall_back(&id, now);
            if stop {
                self.take_step(&id, Step::Stop, now, None);
            }
        }
    }

    /// Stages whose inputs are there are queued; those whose inputs will never be are skipped. A service
    /// waits for every job of its run: nothing is deployed that did not pass its tests.
    fn release_waiting(&mut self, now: Timestamp) {
        let active = |id: &&RunId| self.runs.get(*id).is_some_and(|run| run.state == RunState::Active);
        let runs: Vec<RunId> = self.index.changed.iter().filter(active).cloned().collect();
        for run in runs {
            while self.release_in(&run, now) {}
        }
    }

    fn release_in(&mut self, run: &RunId, now: Timestamp) -> bool {
        let Some(record) = self.runs.get(run) else { return false };
        let gate = self.workloads_of(run).find_map(|record| match &record.state {
            State::Failed { outcome: Outcome::GateFailed { .. }, .. } => Some(record.id.name.clone()),
            _ => None,
        });
        let mut steps = Vec::new();
        for workload in self.workloads_of(run) {
            let pending = matches!(workload.state, State::Waiting | State::Queued { .. });
            if let Some(because) = gate.clone().filter(|_| pending) {
                steps.push((workload.id.clone(), Step::UpstreamFailed { because }));
            } else if workload.state == State::Waiting {
                steps.extend(self.upstream_step(record, workload).map(|step| (workload.id.clone(), step)));
            }
        }
        for (id, step) in &steps {
            self.take_step(id, step.clone(), now, None);
        }
        !steps.is_empty()
    }

    fn upstream_step(&self, run: &RunRecord, workload: &WorkloadRecord) -> Option<Step> {
        let upstream: Vec<&WorkloadRecord> = if workload.spec.service().is_some() {
            self.workloads_of(&run.id).filter(|record| record.spec.job().is_some()).collect()
        } else {
            let makers: BTreeSet<&Name> =
                workload.spec.inputs.values().filter_map(|source| self.producer(run, source)).collect();
            let maker = |name: &Name| self.workloads.get(&WorkloadId::new(run.id.clone(), name.clone()));
            makers.into_iter().filter_map(maker).collect()
        };
        let dead = upstream.iter().find(|record| {
            matches!(record.state, State::Failed { .. } | State::Stopped { .. } | State::Skipped { .. })
        });
        if let Some(dead) = dead {
            return Some(Step::UpstreamFailed { because: dead.id.name.clone() });
        }
        let done = upstream.iter().all(|record| matches!(record.state, State::Succeeded { .. }));
        done.then_some(Step::UpstreamDone)
    }

    /// Runs in order of priority and age, each with what it has of that priority; what waits for room at a site keeps its place in the queue there.
    fn place(&mut self, now: Timestamp) {
        let runs = self.queue();
        if runs.is_empty() || !self.worth_placing(now) {
            return;
        }
        let mut loads = self.loads(now);
        let mut full = 0;
        for (lower, _, id) in runs {
            let priority = -lower;
            if full >= FULL_RUNS_MAX && !self.may_fit(&id, priority, &loads, now) {
                for (site, queued) in self.places_of(&id, priority, now) {
                    loads.stand(&site, id.clone(), queued);
                }
                continue;
            }
            let placed = self.place_run(&id, priority, &mut loads, now);
            full = if placed { 0 } else { full + 1 };
        }
        self.planned.stale = false;
    }

    /// Whether some stage of a run could begin somewhere now, as far as room, reach and its selector go.
    fn may_fit(&self, id: &RunId, priority: i32, loads: &Loads, now: Timestamp) -> bool {
        let open: Vec<_> = self.sites.values().filter(|site| site.reachable(now) && !site.draining).collect();
        let due = |record: &&WorkloadRecord| placeable(record) && record.spec.priority == priority;
        self.workloads_of(id).filter(due).any(|record| {
            let spec = &record.spec;
            open.iter().any(|site| {
                let picked = spec.site.as_ref().is_none_or(|s| s.picks(&site.info.id, &site.info.labels));
                picked && loads.free(&site.info.id).holds(&spec.resources)
            })
        })
    }

    /// Whether a pass may find something that the one before did not.
    fn worth_placing(&mut self, now: Timestamp) -> bool {
        let reachable: Vec<SiteId> =
            self.sites.values().filter(|site| site.reachable(now)).map(|site| site.info.id.clone()).collect();
        let worth = self.planned.stale || self.planned.reachable != reachable || now >= self.planned.at + REPLAN_EVERY;
        if worth {
            self.planned.reachable = reachable;
            self.planned.at = now;
        }
        worth
    }

    /// Plans a run and commits what of a priority can begin: the rest has its own turn, so that it does not go
    /// before another run's higher stages. Answers whether anything was placed.
    fn place_run(&mut self, id: &RunId, priority: i32, loads: &mut Loads, now: Timestamp) -> bool {
        self.compare_sketches(id);
        let Some(run) = self.runs.get(id) else { return false };
        let problem = self.problem(run, loads, now);
        let plan = placement::plan(&problem);
        let mut placed = false;
        for placement in plan.placements {
            let workload = WorkloadId::new(id.clone(), placement.task.clone());
            if !self.workloads.get(&workload).is_some_and(placeable) {
                self.foresee(&workload, placement);
                continue;
            }
            if self.workloads[&workload].spec.priority != priority {
                continue;
            }
            let why = match &placement.outcome {
                Err(unplaceable) => Some(self.unplaceable(unplaceable, &placement)),
                Ok(outcome) => {
                    let site = outcome.site.clone();
                    let record = &self.workloads[&workload];
                    if loads.free(&site).holds(&record.spec.resources) {
                        loads.take(&site, id.clone(), self.busy(record, &site, now));
                        self.commit(&workload, site, placement, now);
                        placed = true;
                        continue;
                    }
                    loads.promise(&site, id.clone(), self.queued(record, &site, now));
                    Some(format!("waits for room at {}", outcome.site))
                }
            };
            let record = self.workloads.get_mut(&workload).expect("looked up above");
            if record.why != why || record.placement.is_none() {
                (record.why, record.placement) = (why.clone(), Some(placement));
                self.touch(&workload);
                self.tell(now, &workload, why);
            }
        }
        placed
    }

    /// What is planned for a stage that waits for its inputs: not a promise, but worth showing.
    fn foresee(&mut self, id: &WorkloadId, placement: Placement) {
        let Some(record) = self.workloads.get_mut(id) else { return };
        let news = record.placement.as_ref().is_none_or(|before| before.site() != placement.site());
        if record.state == State::Waiting && news {
            record.placement = Some(placement);
            self.touch(id);
        }
    }

    fn unplaceable(&self, unplaceable: &placement::Unplaceable, placement: &Placement) -> String {
        let reason = |(site, verdict): &(SiteId, Verdict)| {
            let revoked = self.sites.get(site).is_some_and(|site| site.revoked);
            match verdict {
                Verdict::Refused(Reason::Unreachable) if revoked => format!("{site}: is revoked"),
                verdict => format!("{site}: {verdict}"),
            }
        };
        let reasons: Vec<_> = placement.others.iter().map(reason).collect();
        match reasons.is_empty() {
            true => "there is no site yet".to_owned(),
            false => format!("{unplaceable} ({})", reasons.join("; ")),
        }
    }

    fn commit(&mut self, id: &WorkloadId, site: SiteId, placement: Placement, now: Timestamp) {
        self.fall_back(id, now);
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        record.epoch = record.newest_epoch().next();
        record.note_attempt(&site, now);
        record.why = None;
        record.placement = Some(placement);
        self.take_step(id, Step::Place { site }, now, None);
    }

    /// Takes in how changed runs are now. Answers whether that changed others.
    fn end_runs(&mut self, now: Timestamp) -> bool {
        let changed = std::mem::take(&mut self.index.changed);
        let mut serving = Vec::new();
        for id in changed {
            let state = self.run_state(&id);
            let Some(run) = self.runs.get_mut(&id) else { continue };
            if is_over(state) {
                self.index.over.insert(id.clone());
            }
            if run.state == state {
                continue;
            }
            run.state = state;
            run.ended = (state != RunState::Active).then_some(run.ended.unwrap_or(now));
            self.changes.runs.insert(id.clone());
            if state == RunState::Serving {
                serving.push(id.clone());
            }
            self.changes.events.push(super::Event {
                at: now,
                run: id,
                workload: None,
                epoch: crate::ids::Epoch::NONE,
                state: state.word().to_owned(),
                site: None,
                text: None,
            });
        }
        serving.iter().for_each(|id| self.succeed_earlier(id, now));
        !self.index.changed.is_empty()
    }

    fn run_state(&self, id: &RunId) -> RunState {
        let (mut failed, mut stopped, mut serving) = (false, false, false);
        for record in self.workloads_of(id) {
            match &record.state {
                State::Succeeded { .. } => {}
                State::Ready { .. } => serving = true,
                State::Failed { .. } | State::Skipped { .. } => failed = true,
                State::Stopped { .. } => stopped = true,
                State::Waiting
                | State::Queued { .. }
                | State::Placed { .. }
                | State::Preparing { .. }
                | State::Running { .. }
                | State::Backoff { .. } => return RunState::Active,
            }
        }
        let really_failed = failed && self.workloads_of(id).any(|record| matches!(record.state, State::Failed { .. }));
        match (really_failed, stopped || failed, serving) {
            (true, _, _) => RunState::Failed,
            (false, true, _) => RunState::Stopped,
            (false, false, true) => RunState::Serving,
            (false, false, false) => RunState::Succeeded,
        }
    }

    /// Runs that are over and of which no site has anything to tell: the store alone may keep them.
    pub fn retire(&mut self) -> Vec<RunId> {
        let over = |run: &RunRecord| is_over(run.state) && self.workloads_of(&run.id).all(WorkloadRecord::is_over);
        let ids = self.index.over.iter().filter_map(|id| self.runs.get(id)).filter(|run| over(run));
        let ids: Vec<RunId> = ids.map(|run| run.id.clone()).collect();
        for id in &ids {
            self.runs.remove(id);
            self.forget_run(id);
            let workloads: Vec<_> = self.workloads_of(id).map(|record| record.id.clone()).collect();
            for workload in workloads {
                self.workloads.remove(&workload);
            }
        }
        // Those that still have something at a site are looked at again when it ends.
        self.index.over.clear();
        ids
    }

    pub(super) fn take_step(&mut self, id: &WorkloadId, step: Step, now: Timestamp, text: Option<String>) {
        let record = self.workloads.get_mut(id).expect("callers name workloads that they found");
        let Ok(next) = record.state.step(step, now) else { return };
        let sites = [record.state.site().cloned(), next.site().cloned()];
        record.state = next;
        self.changes.wake.extend(sites.into_iter().flatten());
        self.touch(id);
        self.tell(now, id, text);
    }
}

/// What an agent may need beyond the grace to see that all is dead.
const STOP_MARGIN: Millis = Millis::from_secs(10);

fn is_over(state: RunState) -> bool {
    matches!(state, RunState::Succeeded | RunState::Failed | RunState::Stopped)
}

pub(super) fn placeable(record: &WorkloadRecord) -> bool {
    matches!(record.state, State::Queued { .. }) && record.cache == Cache::Missed
}
