//! Branch and bound over the sites of tasks.
//!
//! Tasks are decided in the order of scheduling, so that a node of the tree is a schedule of the first tasks, which
//! later ones don't change. What a node's best completion is worth at least is found by giving each remaining task
//! the earliest end and, apart from that, the lowest price that any site could still give it: inputs come from where
//! their maker could be soonest, and room is what the tasks decided so far leave. No completion beats that, as more
//! tasks only take room, and as a task that finds none makes the completion worse in the first thing compared.

use std::cmp::Ordering;

use super::schedule::{Schedule, Sums, Value};
use super::world::World;
use super::{EXACT_NODES_MAX, EXACT_TASKS_MAX, Found};

/// The best assignment, and whether that is known. Among equals it is the one whose sites come first by name, task by
/// task in the order of scheduling.
pub fn search(world: &World, guess: Found) -> Found {
    let start = Schedule::new(world);
    let open: Vec<usize> = world.order.iter().copied().filter(|&t| !start.settled(t)).collect();
    if open.len() > EXACT_TASKS_MAX {
        return guess;
    }
    let mut place = vec![None; world.tasks.len()];
    for (k, &t) in open.iter().enumerate() {
        place[t] = Some(k);
    }
    let value = Schedule::of(world, &guess.assignment).sums.value(world);
    let trail = open.iter().map(|&t| guess.assignment[t]).collect();
    let cells = world.tasks.len() * world.sites.len();
    let mut search = Search {
        schedule: start,
        open: &open,
        place,
        best: (value, trail),
        trail: Vec::with_capacity(open.len()),
        nodes: 0,
        ends: vec![None; cells],
        paid: vec![false; world.items.len()],
    };
    search.branch();
    let exact = search.nodes <= EXACT_NODES_MAX;
    let steps = guess.steps + search.nodes;
    let mut assignment = guess.assignment;
    for (&t, &s) in open.iter().zip(&search.best.1) {
        assignment[t] = s;
    }
    Found { assignment, exact, steps }
}

struct Search<'w> {
    schedule: Schedule<'w>,
    /// The tasks to decide, in order.
    open: &'w [usize],
    /// The place in `open` of each task; none for what runs or is done.
    place: Vec<Option<usize>>,
    best: (Value, Vec<Option<usize>>),
    /// The sites of the tasks decided so far.
    trail: Vec<Option<usize>>,
    nodes: u64,
    /// For [`Search::bound`]: the earliest end of a task that is not decided (row) at a site.
    ends: Vec<Option<u64>>,
    /// For [`Search::bound`]: whether the first reader of an item was counted, who alone surely pays for its way.
    paid: Vec<bool>,
}

impl Search<'_> {
    fn branch(&mut self) {
        let k = self.trail.len();
        if k == self.open.len() {
            let value = self.schedule.sums.value(self.schedule.world);
            if value.order(&self.best.0).then_with(|| self.trail.cmp(&self.best.1)).is_lt() {
                self.best = (value, self.trail.clone());
            }
            return;
        }
        let t = self.open[k];
        let mut children: Vec<(Value, Option<usize>)> = Vec::new();
        for s in self.choices(t) {
            self.nodes += 1;
            if self.nodes > EXACT_NODES_MAX {
                return;
            }
            let undo = self.schedule.try_put(t, s);
            children.push((self.bound(k + 1), s));
            self.schedule.undo(undo);
        }
        children.sort_by(|(a, s), (b, r)| a.order(b).then(s.cmp(r)));
        for (bound, s) in children {
            self.trail.push(s);
            if !self.hopeless(&bound) {
                let undo = self.schedule.try_put(t, s);
                self.branch();
                self.schedule.undo(undo);
            }
            self.trail.pop();
            if self.nodes > EXACT_NODES_MAX {
                return;
            }
        }
    }

    /// The sites to try; one that stands for all where the site does not matter.
    fn choices(&self, t: usize) -> Vec<Option<usize>> {
        let node = &self.schedule.world.tasks[t];
        if node.fixed.is_some() {
            return vec![node.fixed];
        }
        if node.candidates.is_empty() {
            return vec![None];
        }
        let some = if self.schedule.stranded_by(t).is_some() { 1 } else { node.candidates.len() };
        node.candidates[..some].iter().map(|&s| Some(s)).collect()
    }

    /// Whether nothing under a node can be better than the best known.
    fn hopeless(&self, bound: &Value) -> bool {
        match bound.order(&self.best.0) {
            Ordering::Less => false,
            Ordering::Equal => self.trail.as_slice() > &self.best.1[..self.trail.len()],
            Ordering::Greater => true,
        }
    }

    /// What the schedule comes to at least when the open tasks from `k` on are added.
    fn bound(&mut self, k: usize) -> Value {
        let world = self.schedule.world;
        let sites = world.sites.len();
        let mut sums = self.schedule.sums;
        self.paid.fill(false);
        for &t in &self.open[k..] {
            self.ends[t * sites..(t + 1) * sites].fill(None);
            let node = &world.tasks[t];
            let fixed = node.fixed.as_slice();
            let choices = if node.fixed.is_some() { fixed } else { &node.candidates };
            let (mut end, mut nanos) = (None::<u64>, u64::MAX);
            for &s in choices {
                let Some((ready, egress)) = self.inputs(t, s, k) else { continue };
                let Some(start) = self.schedule.profiles[s].earliest(&node.need, ready, node.run[s]) else { continue };
                let ends = start.saturating_add(node.run[s].unwrap_or(0));
                self.ends[t * sites + s] = Some(ends);
                end = Some(end.map_or(ends, |end| end.min(ends)));
                nanos = nanos.min(node.nanos[s].saturating_add(egress));
            }
            match end {
                Some(end) => {
                    sums.add(end, nanos);
                    node.reads.iter().for_each(|&item| self.paid[item] = true);
                }
                None => sums.unplaced += 1,
            }
        }
        Sums::value(&sums, world)
    }

    /// The earliest moment at which a task's inputs can be at a site, and what their way surely costs; nothing where
    /// they can't.
    fn inputs(&self, t: usize, s: usize, k: usize) -> Option<(u64, u64)> {
        let world = self.schedule.world;
        let sites = world.sites.len();
        let node = &world.tasks[t];
        if node.broken.is_some() {
            return None;
        }
        let (mut ready, mut egress) = (0u64, 0u64);
        for &index in &node.reads {
            let item = &world.items[index];
            let arrived = self.schedule.arrival(index, s);
            let (at, nanos) = match item.maker {
                _ if arrived.is_some() => (arrived?, 0),
                None => item.fetch[s].map(|fetch| (fetch.millis, fetch.nanos))?,
                Some(maker) if self.place[maker].is_some_and(|place| place >= k) => {
                    let (mut soonest, mut cheapest) = (None::<u64>, u64::MAX);
                    for from in 0..sites {
                        let Some(end) = self.ends[maker * sites + from] else { continue };
                        let way = world.transfer(from, s, item.bytes);
                        let at = end.saturating_add(way.millis);
                        soonest = Some(soonest.map_or(at, |soonest| soonest.min(at)));
                        cheapest = cheapest.min(way.nanos);
                    }
                    (soonest?, cheapest)
                }
                Some(maker) => {
                    let way = world.transfer(self.schedule.site[maker]?, s, item.bytes);
                    (self.schedule.end[maker].saturating_add(way.millis), way.nanos)
                }
            };
            ready = ready.max(at);
            if !self.paid[index] {
                egress = egress.saturating_add(nanos);
            }
        }
        Some((ready, egress))
    }
}
