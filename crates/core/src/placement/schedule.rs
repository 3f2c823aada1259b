//! List scheduling: what an assignment is worth.

use std::cmp::Ordering;

use super::profile::Profile;
use super::world::{Fetch, World};
use crate::spec::Objective;

/// A site for each task; none where it is not placed.
pub type Assignment = Vec<Option<usize>>;

const NEVER: u64 = u64::MAX;

/// What is compared between assignments, most important first. The last, where two are otherwise equal, is the
/// sites' order by name, which this does not hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    pub unplaced: usize,
    pub primary: f64,
    pub second: u64,
    pub third: u64,
    /// The sum of all ends, so that what does not delay the whole is not delayed for nothing either.
    pub ends: u64,
}

impl Value {
    pub fn order(&self, other: &Value) -> Ordering {
        let rest = |v: &Value| (v.second, v.third, v.ends);
        let first = self.unplaced.cmp(&other.unplaced).then(self.primary.total_cmp(&other.primary));
        first.then_with(|| rest(self).cmp(&rest(other)))
    }
}

/// Sums over tasks, of which a value is made.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    pub unplaced: usize,
    pub makespan: u64,
    pub nanos: u64,
    pub ends: u64,
}

impl Sums {
    pub fn add(&mut self, end: u64, nanos: u64) {
        self.makespan = self.makespan.max(end);
        self.nanos = self.nanos.saturating_add(nanos);
        self.ends = self.ends.saturating_add(end);
    }

    pub fn value(&self, world: &World) -> Value {
        let Sums { unplaced, makespan, nanos, ends } = *self;
        let (primary, second, third) = match world.objective {
            // Whole amounts, as hours would round different spans to the same number.
            Objective::Time => (makespan as f64, nanos, 0),
            Objective::Cost => (nanos as f64, makespan, 0),
            Objective::Weighted(_) => (world.score(makespan, nanos), makespan, nanos),
        };
        Value { unplaced, primary, second, third, ends }
    }
}

/// How one task would go at one site, given those before it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Probe {
    /// When the last input exists, wherever.
    pub exist: u64,
    /// When all inputs are at the site.
    pub ready: u64,
    pub start: u64,
    /// For a service, its start.
    pub end: u64,
    pub egress_nanos: u64,
    pub compute_nanos: u64,
    /// What has to be brought: the item, how, and when it has arrived.
    pub moves: Vec<(usize, Fetch, u64)>,
}

impl Probe {
    pub fn nanos(&self) -> u64 {
        self.egress_nanos.saturating_add(self.compute_nanos)
    }
}

/// A schedule of the first tasks of the order.
#[derive(Clone)]
pub struct Schedule<'w> {
    pub world: &'w World<'w>,
    pub profiles: Vec<Profile>,
    /// When an item is at a site (row by item), [`NEVER`] where nobody brings it.
    arrived: Vec<u64>,
    pub site: Assignment,
    pub end: Vec<u64>,
    pub sums: Sums,
}

/// What takes a task back out.
pub struct Undo {
    task: usize,
    profile: Option<(usize, Profile)>,
    arrived: Vec<usize>,
    sums: Sums,
}

impl<'w> Schedule<'w> {
    /// With what runs and what is done, which are facts, and nothing else.
    pub fn new(world: &'w World<'w>) -> Schedule<'w> {
        let mut schedule = Schedule {
            world,
            profiles: world.sites.iter().map(|site| site.profile.clone()).collect(),
            arrived: vec![NEVER; world.items.len() * world.sites.len()],
            site: vec![None; world.tasks.len()],
            end: vec![0; world.tasks.len()],
            sums: Sums::default(),
        };
        for (t, node) in world.tasks.iter().enumerate() {
            let Some(s) = node.fixed.filter(|_| node.running() || node.done()) else { continue };
            schedule.site[t] = Some(s);
            if node.running() {
                schedule.profiles[s].hold(&node.need, 0, node.run[s]);
                schedule.end[t] = node.run[s].unwrap_or(0);
                schedule.sums.add(schedule.end[t], 0);
            }
        }
        schedule
    }

    /// The schedule of a whole assignment.
    pub fn of(world: &'w World<'w>, assignment: &Assignment) -> Schedule<'w> {
        let mut schedule = Schedule::new(world);
        schedule.extend(0, assignment);
        schedule
    }

    /// Schedules all tasks from a place in the order on.
    pub fn extend(&mut self, from: usize, assignment: &Assignment) {
        for &t in &self.world.order[from..] {
            if !self.settled(t) {
                self.put(t, assignment[t]);
            }
        }
    }

    /// Whether a task runs or is done, so that there is nothing to schedule.
    pub fn settled(&self, t: usize) -> bool {
        let node = &self.world.tasks[t];
        node.running() || node.done()
    }

    /// The first input whose maker has no place.
    pub fn stranded_by(&self, t: usize) -> Option<usize> {
        let reads = self.world.tasks[t].reads.iter();
        reads.filter_map(|&item| self.world.items[item].maker).find(|&maker| self.site[maker].is_none())
    }

    pub fn arrival(&self, item: usize, s: usize) -> Option<u64> {
        Some(self.arrived[item * self.profiles.len() + s]).filter(|&at| at != NEVER)
    }

    /// How a task would go at a site; nothing where it never gets its inputs or its room.
    pub fn probe(&self, t: usize, s: usize) -> Option<Probe> {
        let node = &self.world.tasks[t];
        if node.broken.is_some() {
            return None;
        }
        let mut probe = Probe { compute_nanos: node.nanos[s], ..Probe::default() };
        // The moment from which each move can begin.
        let mut begins: Vec<u64> = Vec::new();
        for &index in &node.reads {
            let item = &self.world.items[index];
            let (exists, fetch) = match item.maker {
                Some(maker) => (self.end[maker], self.world.transfer(self.site[maker]?, s, item.bytes)),
                None => (0, item.fetch[s]?),
            };
            probe.exist = probe.exist.max(exists);
            if let Some(at) = self.arrival(index, s) {
                probe.ready = probe.ready.max(at);
            } else if fetch.bytes == 0 {
                probe.ready = probe.ready.max(exists);
            } else if !self.world.sites[fetch.from].state.reachable {
                return None;
            } else {
                begins.push(exists);
                probe.egress_nanos = probe.egress_nanos.saturating_add(fetch.nanos);
                probe.moves.push((index, fetch, exists.saturating_add(fetch.millis)));
            }
        }
        if probe.moves.len() > 1 {
            share_links(&mut probe.moves, &begins);
        }
        probe.ready = probe.moves.iter().map(|&(_, _, at)| at).fold(probe.ready, u64::max);
        probe.start = self.profiles[s].earliest(&node.need, probe.ready, node.run[s])?;
        probe.end = probe.start.saturating_add(node.run[s].unwrap_or(0));
        Some(probe)
    }

    /// Schedules a task that comes next in the order; without a site, or where it finds no room, it stays out.
    pub fn put(&mut self, t: usize, s: Option<usize>) {
        match s.and_then(|s| Some((s, self.probe(t, s)?))) {
            Some((s, probe)) => self.apply(t, s, &probe, &mut Vec::new()),
            None => self.sums.unplaced += 1,
        }
    }

    /// The same, with a way back.
    pub fn try_put(&mut self, t: usize, s: Option<usize>) -> Undo {
        let mut undo = Undo { task: t, profile: None, arrived: Vec::new(), sums: self.sums };
        match s.and_then(|s| Some((s, self.probe(t, s)?))) {
            Some((s, probe)) => {
                undo.profile = Some((s, self.profiles[s].clone()));
                self.apply(t, s, &probe, &mut undo.arrived);
            }
            None => self.sums.unplaced += 1,
        }
        undo
    }

    pub fn undo(&mut self, undo: Undo) {
        self.site[undo.task] = None;
        self.sums = undo.sums;
        if let Some((s, profile)) = undo.profile {
            self.profiles[s] = profile;
        }
        for cell in undo.arrived {
            self.arrived[cell] = NEVER;
        }
    }

    pub fn apply(&mut self, t: usize, s: usize, probe: &Probe, arrived: &mut Vec<usize>) {
        let node = &self.world.tasks[t];
        self.profiles[s].hold(&node.need, probe.start, node.run[s].map(|_| probe.end));
        for &(item, _, at) in &probe.moves {
            let cell = item * self.profiles.len() + s;
            self.arrived[cell] = at;
            arrived.push(cell);
        }
        self.site[t] = Some(s);
        self.end[t] = probe.end;
        self.sums.add(probe.end, probe.nanos());
    }
}

/// Moves from one site go one after another, in the order in which they can begin.
fn share_links(moves: &mut [(usize, Fetch, u64)], begins: &[u64]) {
    let mut queue: Vec<usize> = (0..moves.len()).collect();
    queue.sort_by_key(|&i| (moves[i].1.from, begins[i], i));
    let mut before: Option<(usize, u64)> = None;
    for i in queue {
        let (_, fetch, at) = &mut moves[i];
        let free = before.filter(|&(from, _)| from == fetch.from).map_or(0, |(_, until)| until);
        *at = begins[i].max(free).saturating_add(fetch.millis);
        before = Some((fetch.from, *at));
    }
}
