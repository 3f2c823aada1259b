//! From an assignment to a plan that says why.

use super::outcome::{Cause, Decided, Margin, Outcome, Placement, Plan, Reason, Terms, Transfer, Unplaceable, Verdict};
use super::schedule::{Assignment, Probe, Schedule, Sums};
use super::world::{World, money};
use super::{Estimate, Found};
use crate::spec::Objective;
use crate::time::Millis;

/// Up to this many schedulings, each alternative is played through to the end of the plan.
const WHOLE_STEPS_MAX: usize = 40_000;

pub fn plan(world: &World, found: &Found) -> Plan {
    let assignment = &found.assignment;
    let whole = Schedule::of(world, assignment);
    let steps: usize = world.tasks.iter().map(|node| node.candidates.len()).sum::<usize>() * world.order.len() / 2;
    let whole_sums = (steps <= WHOLE_STEPS_MAX).then_some(whole.sums);
    let mut schedule = Schedule::new(world);
    let mut placements: Vec<(u64, Placement)> = Vec::new();
    for (k, &t) in world.order.iter().enumerate() {
        let step = Step { world, assignment, before: &schedule, k, t, whole: whole_sums };
        placements.push(step.placement());
        if !schedule.settled(t) {
            schedule.put(t, assignment[t]);
        }
    }
    // The order is topological and the sort stable, so what starts at once stays after what it reads.
    placements.sort_by_key(|(start, _)| *start);
    Plan {
        placements: placements.into_iter().map(|(_, placement)| placement).collect(),
        makespan: Millis(whole.sums.makespan),
        cost: money(whole.sums.nanos),
        exact: found.exact,
        steps: found.steps,
    }
}

/// One task's turn, with all before it scheduled.
struct Step<'a> {
    world: &'a World<'a>,
    assignment: &'a Assignment,
    before: &'a Schedule<'a>,
    k: usize,
    t: usize,
    /// What the plan comes to, where alternatives are compared with that.
    whole: Option<Sums>,
}

impl Step<'_> {
    /// With the start that it is sorted by.
    fn placement(&self) -> (u64, Placement) {
        let (node, task) = (&self.world.tasks[self.t], self.world.tasks[self.t].task.name.clone());
        let at = node.fixed.or(self.assignment[self.t]);
        let probe = match at {
            Some(_) if self.before.settled(self.t) => Some(Probe { end: self.before.end[self.t], ..Probe::default() }),
            Some(s) => self.before.probe(self.t, s),
            None => None,
        };
        let chosen = at.zip(probe);
        let outcome = match &chosen {
            Some((s, probe)) => Ok(self.outcome(*s, probe)),
            None => Err(self.unplaceable()),
        };
        let start = chosen.as_ref().map_or(u64::MAX, |(_, probe)| probe.start);
        let others = (0..self.world.sites.len()).filter(|&s| chosen.as_ref().is_none_or(|(at, _)| *at != s));
        let others = others.map(|s| (self.world.sites[s].id().clone(), self.verdict(s, chosen.as_ref()))).collect();
        (start, Placement { task, outcome, others })
    }

    fn outcome(&self, s: usize, probe: &Probe) -> Outcome {
        let id = |s: usize| self.world.sites[s].id().clone();
        let transfers = probe.moves.iter().map(|&(item, fetch, _)| Transfer {
            input: self.world.items[item].name.clone(),
            from: id(fetch.from),
            to: id(s),
            bytes: fetch.bytes,
            whole_bytes: if fetch.bytes < self.world.items[item].bytes { self.world.items[item].bytes } else { 0 },
            time: Millis(fetch.millis),
            egress_price: money(fetch.nanos),
        });
        let transfers = transfers.collect();
        Outcome { site: id(s), start: Millis(probe.start), terms: self.terms(s, probe), transfers }
    }

    fn terms(&self, s: usize, probe: &Probe) -> Terms {
        let node = &self.world.tasks[self.t];
        let Estimate { source, .. } = node.estimate(self.world.sites[s].id());
        Terms {
            wait: Millis(probe.start - probe.ready),
            transfer: Millis(probe.ready - probe.exist),
            transfer_bytes: probe.moves.iter().map(|(_, fetch, _)| fetch.bytes).fold(0, u64::saturating_add),
            egress_price: money(probe.egress_nanos),
            run: Millis(probe.end - probe.start),
            run_source: source,
            compute_price: money(probe.compute_nanos),
            score: self.world.score(probe.end, probe.nanos()),
        }
    }

    fn unplaceable(&self) -> Unplaceable {
        let node = &self.world.tasks[self.t];
        match (&node.broken, self.before.stranded_by(self.t)) {
            (Some(broken), _) => broken.clone(),
            (None, Some(maker)) => Unplaceable::Upstream { task: self.world.tasks[maker].task.name.clone() },
            (None, None) => Unplaceable::NoSite,
        }
    }

    fn verdict(&self, s: usize, chosen: Option<&(usize, Probe)>) -> Verdict {
        let node = &self.world.tasks[self.t];
        if let Some(at) = node.fixed.filter(|&at| at != s) {
            return Verdict::Refused(Reason::Decided { site: self.world.sites[at].id().clone() });
        }
        if let Some(Unplaceable::Broken { input }) = &node.broken {
            return Verdict::Refused(Reason::Broken { input: input.clone() });
        }
        if let Some(reason) = self.world.refusal(self.t, s) {
            return Verdict::Refused(reason);
        }
        if let Some(maker) = self.before.stranded_by(self.t) {
            return Verdict::Refused(Reason::Upstream { task: self.world.tasks[maker].task.name.clone() });
        }
        match (self.before.probe(self.t, s), chosen) {
            (Some(probe), Some((at, best))) => {
                Verdict::Lost { terms: self.terms(s, &probe), by: self.margin((s, &probe), (*at, best)) }
            }
            _ => Verdict::Refused(Reason::Full),
        }
    }

    /// How another site compares with the chosen one.
    fn margin(&self, (s, probe): (usize, &Probe), (at, best): (usize, &Probe)) -> Margin {
        let (mine, other) = match self.whole {
            Some(sums) => (sums, self.whole_with(s)),
            None => (alone(best), alone(probe)),
        };
        let slower_ms = difference(other.makespan, mine.makespan);
        let dearer = money(other.nanos) - money(mine.nanos);
        let later_ms = difference(probe.end, best.end);
        let margin = Margin { decided: Decided::Whole, slower_ms, dearer, cause: self.cause((s, probe), (at, best)) };
        let (than, value) = (mine.value(self.world), other.value(self.world));
        if other.unplaced > mine.unplaced {
            return Margin { decided: Decided::Strands, cause: None, ..margin };
        }
        if value.order(&than).is_lt() {
            return Margin { decided: Decided::Whole, cause: None, ..margin };
        }
        let decided = match self.world.objective {
            Objective::Weighted(_) if value.primary > than.primary => Decided::Both,
            Objective::Cost if dearer > 0.0 => Decided::Cost,
            _ if slower_ms > 0 => Decided::Time,
            _ if dearer > 0.0 => Decided::Cost,
            _ if later_ms > 0 => Decided::Later,
            _ if value.order(&than).is_eq() => Decided::Name,
            _ => Decided::Whole,
        };
        let slower_ms = if decided == Decided::Later { later_ms } else { slower_ms };
        let slows = slower_ms > 0 && later_ms > 0 && decided != Decided::Cost;
        Margin { decided, slower_ms, cause: margin.cause.filter(|_| slows), ..margin }
    }

    /// The sums of the plan in which only this task's site is another.
    fn whole_with(&self, s: usize) -> Sums {
        let mut assignment = self.assignment.clone();
        assignment[self.t] = Some(s);
        let mut schedule = self.before.clone();
        schedule.extend(self.k, &assignment);
        schedule.sums
    }

    /// What makes most of the difference in a task's end.
    fn cause(&self, (s, probe): (usize, &Probe), (at, best): (usize, &Probe)) -> Option<Cause> {
        let (other, mine) = (self.terms(s, probe), self.terms(at, best));
        let more = |a: Millis, b: Millis| a.0.saturating_sub(b.0);
        let bytes = other.transfer_bytes;
        let causes = [
            (more(other.transfer, mine.transfer), Cause::Transfer { bytes }),
            (more(other.wait, mine.wait), Cause::Wait { millis: other.wait }),
            (more(other.run, mine.run), Cause::Run { millis: Millis(more(other.run, mine.run)) }),
        ];
        let most = causes.into_iter().filter(|(millis, _)| *millis > 0).max_by_key(|(millis, _)| *millis);
        most.map(|(_, cause)| cause).filter(|cause| *cause != Cause::Transfer { bytes: 0 })
    }
}

fn alone(probe: &Probe) -> Sums {
    let mut sums = Sums::default();
    sums.add(probe.end, probe.nanos());
    sums
}

fn difference(a: u64, b: u64) -> i64 {
    i64::try_from(a).unwrap_or(i64::MAX) - i64::try_from(b).unwrap_or(i64::MAX)
}
