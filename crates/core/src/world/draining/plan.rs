//! Who of a site goes where: the planner's own answer for all of them together, in the order of their dependencies.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::super::problem::Seen;
use super::super::{RunRecord, WorkloadRecord, World};
use crate::draining::{Cause, Drain, Plan, Planned, Stay, TRIES_MAX};
use crate::ids::{Name, SiteId, WorkloadId};
use crate::moving::{Method, Moved};
use crate::placement::{self, Problem, Progress, Reason, SiteState, Task, Verdict};
use crate::spec::Objective;
use crate::time::Timestamp;

impl World {
    /// What a drain of a site would do now.
    pub fn drain_plan(&self, site: &SiteId, restart_jobs: bool, now: Timestamp) -> Option<Plan> {
        let going_on = self.sites.get(site)?.drain.clone().filter(Drain::lasts);
        let asked = Drain { restart_jobs, ..Drain::none(going_on.map_or(now, |drain| drain.at)) };
        Some(self.leaving_plan(site, &asked, now))
    }

    /// The moves with which what is at a site leaves it, in order, and what can't; those under way are in neither.
    pub(super) fn leaving_plan(&self, site: &SiteId, drain: &Drain, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let mut due: Vec<&WorkloadRecord> = Vec::new();
        let known = |record: &&WorkloadRecord| record.moving.is_none() && self.runs.contains_key(&record.id.run);
        for record in self.placed_at(site).filter(known) {
            match self.kept(record, site, drain, now) {
                Some(stay) => plan.stays.push((record.id.clone(), stay)),
                None => due.push(record),
            }
        }
        let mut depths: BTreeMap<&WorkloadId, usize> = BTreeMap::new();
        for record in &due {
            depths.insert(&record.id, self.runs.get(&record.id.run).map_or(0, |run| depth(run, &record.id.name)));
        }
        let rank = |record: &&WorkloadRecord| {
            let need = &record.spec.resources;
            let gpus: u32 = need.gpus.values().sum();
            (depths[&record.id], Reverse(record.spec.priority), Reverse((gpus, need.cpus_milli, need.memory_bytes)))
        };
        due.sort_by_key(|record| (rank(record), record.id.clone()));
        self.plan_together(site, drain, &due, &mut plan, now);
        plan
    }

    /// What keeps a workload at a site that is to be left, before any other site is looked at.
    fn kept(&self, record: &WorkloadRecord, site: &SiteId, drain: &Drain, now: Timestamp) -> Option<Stay> {
        if record.stopping {
            return Some(Stay::new("stopping", "it was asked to stop, and is about to end"));
        }
        if !self.sites.get(site).is_some_and(|site| site.reachable(now)) {
            return Some(Stay::new("source-unreachable", format!("{site} was not heard of lately")));
        }
        let held = record.held_back(Cause::Drain, drain.at, now)?;
        // Whoever lets jobs begin anew does not wait for their state.
        (held.rule != "no-state" || !drain.restart_jobs).then_some(held)
    }

    fn plan_together(&self, site: &SiteId, drain: &Drain, due: &[&WorkloadRecord], plan: &mut Plan, now: Timestamp) {
        let problem = self.leaving_problem(site, drain, due, now);
        let together = placement::plan(&problem);
        let found: BTreeMap<&Name, &placement::Placement> =
            together.placements.iter().map(|placement| (&placement.task, placement)).collect();
        for (task, record) in problem.tasks.iter().zip(due) {
            let Some(placement) = found.get(&task.name) else { continue };
            let outcome = match &placement.outcome {
                Ok(outcome) => outcome,
                Err(_) => {
                    plan.stays.push((record.id.clone(), nowhere(site, placement)));
                    continue;
                }
            };
            let method = method_of(record);
            let quote = self.quote(record, &outcome.site, method, None, outcome.terms, now);
            let unknown = record.spec.job().is_some() && !drain.restart_jobs && record.state_dir.is_none();
            plan.moves.push(Planned {
                workload: record.id.clone(),
                from: site.clone(),
                to: outcome.site.clone(),
                method,
                quote,
                why: unknown.then(|| "if it has left state by then; else it ends here".to_owned()),
            });
        }
    }

    /// All that is due as tasks that need their room at once and for good, at sites as they are now.
    fn leaving_problem(&self, site: &SiteId, drain: &Drain, due: &[&WorkloadRecord], now: Timestamp) -> Problem {
        let mut seen = Seen::default();
        let none = BTreeMap::new();
        let task = |(at, record): (usize, &&WorkloadRecord)| {
            let run = self.runs.get(&record.id.run)?;
            let task = self.task(run, record, &none, &mut seen, now);
            let name = Name::new(format!("w{at}")).expect("a letter and a number are a name");
            let barred = self.failed_at(record, drain);
            Some(Task { name, progress: Progress::Undecided, service: true, barred, ..task })
        };
        let tasks = due.iter().enumerate().filter_map(task).collect();
        let state = |record: &super::super::SiteRecord| SiteState {
            info: record.info.clone(),
            free: self.free(record),
            reachable: record.reachable(now),
            draining: record.draining || record.info.id == *site,
            busy: Vec::new(),
            queued: Vec::new(),
        };
        let sites = self.sites.values().map(state).collect();
        Problem { sites, links: self.links.clone(), tasks, objective: Objective::default() }
    }

    /// Destinations at which a drain's moves of a workload were undone again and again.
    fn failed_at(&self, record: &WorkloadRecord, drain: &Drain) -> BTreeMap<SiteId, Reason> {
        let mut tries: BTreeMap<&SiteId, Vec<&Moved>> = BTreeMap::new();
        for moved in record.undone_since(Cause::Drain, drain.at).filter(|moved| !moved.stateless) {
            tries.entry(&moved.to).or_default().push(moved);
        }
        let given_up = tries.into_iter().filter(|(_, tries)| tries.len() >= TRIES_MAX);
        let reason = |tries: &[&Moved]| Reason::FailedThere {
            why: tries.last().and_then(|last| last.undone.clone()).unwrap_or_default(),
        };
        given_up.map(|(site, tries)| (site.clone(), reason(&tries))).collect()
    }
}

pub(super) fn method_of(record: &WorkloadRecord) -> Method {
    match record.spec.service() {
        Some(service) if !service.single => Method::Switch,
        Some(_) | None => Method::Checkpoint,
    }
}

/// Every other site's reason; the first rule stands for all.
fn nowhere(site: &SiteId, placement: &placement::Placement) -> Stay {
    let others = placement.others.iter().filter(|(other, _)| other != site);
    let refused: Vec<(&SiteId, Option<&Reason>)> = others
        .map(|(other, verdict)| match verdict {
            Verdict::Refused(reason) => (other, Some(reason)),
            Verdict::Lost { .. } => (other, None),
        })
        .collect();
    if refused.is_empty() {
        return Stay::new("no-site", "there is no other site");
    }
    // What lasts says more than what may be otherwise in a minute.
    let first = refused.iter().filter_map(|(_, reason)| *reason).max_by_key(|reason| !reason.lasts());
    let said: Vec<String> = refused
        .iter()
        .map(|(other, reason)| match reason {
            Some(reason) => format!("{other}: {reason}"),
            None => format!("{other}: others take the room"),
        })
        .collect();
    Stay::new(first.map_or("capacity", Reason::rule), said.join("; "))
}

/// How many stages of its run come before one.
fn depth(run: &RunRecord, name: &Name) -> usize {
    let mut depth = 0;
    let mut level: BTreeSet<&Name> = run.spec.upstream(name);
    // No path is longer than there are stages; a run's graph has no cycle.
    while !level.is_empty() && depth < run.spec.workloads.len() {
        depth += 1;
        level = level.into_iter().flat_map(|name| run.spec.upstream(name)).collect();
    }
    depth
}
