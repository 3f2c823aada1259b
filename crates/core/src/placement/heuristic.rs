//! Good assignments fast: constructions, each right for some shape of problem, then a bounded local search.
//!
//! Two of them look through the graph as if there were room for all and every task had its inputs to itself. Seen
//! from a chain's end (or the root of a tree that grows together) the best sites follow exactly; in other graphs it
//! is a guess at what a choice will cost later. Greedy construction in the order of scheduling, as in HEFT (Topcuoglu,
//! Hariri, Wu 2002), minds room and sharing; it is done once with that guess and once without.

use super::schedule::{Assignment, Schedule, Value};
use super::world::{Lens, NANOS_PER_UNIT, World};
use super::{Found, LOCAL_STEPS_MAX};

/// The best assignment found.
pub fn search(world: &World) -> Found {
    let lens = Lens::new(world.objective);
    let mut guesses = vec![greedy(world, lens, None)];
    let flows: Vec<Flow> = lenses(world).into_iter().map(|lens| Flow::new(world, lens)).collect();
    for flow in &flows {
        guesses.push(greedy(world, flow.lens, Some((flow, &flow.tails()))));
        guesses.push(flow.backwards());
    }
    let choices: usize = world.tasks.iter().map(|node| node.candidates.len()).sum();
    let constructed = guesses.len() * (choices + 2 * world.order.len());
    let valued = guesses.into_iter().map(|guess| (Schedule::of(world, &guess).sums.value(world), guess));
    let (mut value, mut best) = valued.min_by(|(a, _), (b, _)| a.order(b)).expect("there is a first");
    let steps = constructed as u64 + local(&flows[flows.len() / 2], &mut best, &mut value);
    Found { assignment: best, exact: false, steps }
}

/// The weights to construct with. A plan's time counts once and its prices add up, so what an hour of a single task is
/// worth lies between the objective's word and, where much runs side by side, next to nothing.
fn lenses(world: &World) -> Vec<Lens> {
    let lens = Lens::new(world.objective);
    if lens.hour == 0.0 || lens.money == 0.0 {
        return vec![lens];
    }
    let runs = world.tasks.iter().filter_map(|node| *node.run.first()?).map(|run| run as f64);
    let width = (runs.sum::<f64>() / world.longest_path.max(1) as f64).max(1.0);
    vec![lens, Lens { hour: lens.hour / width, ..lens }, Lens { hour: 0.0, ..lens }]
}

/// Each task, in order, where it does best, counting what the rest of the graph then costs if that is known.
fn greedy(world: &World, lens: Lens, ahead: Option<(&Flow, &Table)>) -> Assignment {
    let mut schedule = Schedule::new(world);
    let mut assignment = schedule.site.clone();
    for &t in &world.order {
        if schedule.settled(t) {
            continue;
        }
        assignment[t] = world.tasks[t].fixed.or_else(|| {
            let mut best: Option<((f64, u64, u64), usize)> = None;
            for &s in &world.tasks[t].candidates {
                let Some(probe) = schedule.probe(t, s) else { continue };
                let tail = ahead.map_or(0.0, |(flow, tails)| tails.get(t, s) - flow.own.get(t, s));
                let score = lens.weigh(probe.end as f64, probe.nanos() as f64) + tail;
                let key = (score, probe.end, probe.nanos());
                let less = |least: (f64, u64, u64)| {
                    key.0.total_cmp(&least.0).then((key.1, key.2).cmp(&(least.1, least.2))).is_lt()
                };
                if best.is_none_or(|(least, _)| less(least)) {
                    best = Some((key, s));
                }
            }
            best.map(|(_, s)| s).or(world.tasks[t].candidates.first().copied())
        });
        schedule.put(t, assignment[t]);
    }
    assignment
}

/// A number for each task at each site; infinite where it can't be.
struct Table {
    cells: Vec<f64>,
    sites: usize,
}

impl Table {
    fn new(world: &World) -> Table {
        Table { cells: vec![f64::INFINITY; world.tasks.len() * world.sites.len()], sites: world.sites.len() }
    }

    fn get(&self, t: usize, s: usize) -> f64 {
        self.cells[t * self.sites + s]
    }

    fn row(&self, t: usize) -> &[f64] {
        &self.cells[t * self.sites..][..self.sites]
    }

    fn set(&mut self, t: usize, s: usize, value: f64) {
        self.cells[t * self.sites + s] = value;
    }
}

/// The graph with a score for each task at each site and for each way between sites.
struct Flow<'w> {
    world: &'w World<'w>,
    lens: Lens,
    /// A task by itself: its run, its price, and its external inputs.
    own: Table,
    /// For each task, what it reads of others: (maker, bytes).
    makers: Vec<Vec<(usize, f64)>>,
    readers: Vec<Vec<(usize, f64)>>,
    /// The score of a way is linear in its bytes: (at once, for each byte), by source within destination and the
    /// other way round.
    into: Vec<(f64, f64)>,
    out: Vec<(f64, f64)>,
}

impl<'w> Flow<'w> {
    fn new(world: &'w World<'w>, lens: Lens) -> Flow<'w> {
        let sites = world.sites.len();
        let way = |from: usize, to: usize| {
            if from == to {
                return (0.0, 0.0);
            }
            let link = world.link(from, to);
            let at_once = lens.weigh(link.latency.0 as f64, 0.0);
            let egress = world.sites[from].info().prices.egress(1).max(0.0) * NANOS_PER_UNIT;
            (at_once, lens.weigh(1000.0 / link.bytes_per_s.max(1.0), egress))
        };
        let mut flow = Flow {
            world,
            lens,
            own: Table::new(world),
            makers: vec![Vec::new(); world.tasks.len()],
            readers: vec![Vec::new(); world.tasks.len()],
            into: (0..sites * sites).map(|i| way(i % sites, i / sites)).collect(),
            out: (0..sites * sites).map(|i| way(i / sites, i % sites)).collect(),
        };
        for t in 0..world.tasks.len() {
            for s in flow.choices(t) {
                let own = flow.alone(t, s);
                flow.own.set(t, s, own);
            }
            for &item in &world.tasks[t].reads {
                if let Some(maker) = world.items[item].maker {
                    let bytes = world.items[item].bytes as f64;
                    flow.makers[t].push((maker, bytes));
                    flow.readers[maker].push((t, bytes));
                }
            }
        }
        flow
    }

    fn choices(&self, t: usize) -> Vec<usize> {
        let node = &self.world.tasks[t];
        node.fixed.map_or_else(|| node.candidates.clone(), |s| vec![s])
    }

    fn alone(&self, t: usize, s: usize) -> f64 {
        let node = &self.world.tasks[t];
        if node.running() || node.done() {
            let left = if node.done() { 0 } else { node.run[s].unwrap_or(0) };
            return self.lens.weigh(left as f64, 0.0);
        }
        let (mut millis, mut nanos) = (0, node.nanos[s]);
        for fetch in node.reads.iter().filter_map(|&item| self.world.items[item].fetch.get(s).copied().flatten()) {
            millis = fetch.millis.max(millis);
            nanos = nanos.saturating_add(fetch.nanos);
        }
        let millis = node.run[s].unwrap_or(0).saturating_add(millis);
        self.lens.weigh(millis as f64, nanos as f64)
    }

    fn way(&self, from: usize, to: usize, bytes: f64) -> f64 {
        let (at_once, each) = self.out[from * self.own.sites + to];
        if bytes == 0.0 { 0.0 } else { at_once + bytes * each }
    }

    fn is_time(&self) -> bool {
        self.lens.money == 0.0
    }

    /// What several ways or paths come to: the longest, or all of their prices.
    fn join(&self, a: f64, b: f64) -> f64 {
        if self.is_time() { a.max(b) } else { a + b }
    }

    /// The least of a row, with the ways of `bytes` added.
    fn least(row: &[f64], ways: &[(f64, f64)], bytes: f64) -> f64 {
        let mut least = f64::INFINITY;
        for (value, (at_once, each)) in row.iter().zip(ways) {
            least = least.min(value + at_once + bytes * each);
        }
        least
    }

    /// What it takes at least from a task's start to the end of the graph, if it is at a site. What several tasks
    /// lead to is shared among them.
    fn tails(&self) -> Table {
        let mut tails = Table::new(self.world);
        for &t in self.world.order.iter().rev() {
            for s in self.choices(t) {
                let ways = &self.out[s * tails.sites..][..tails.sites];
                let mut rest = 0.0;
                for &(reader, bytes) in &self.readers[t] {
                    let share = if self.is_time() { 1.0 } else { self.makers[reader].len() as f64 };
                    let least = Self::least(tails.row(reader), ways, bytes) / share;
                    // A reader that has no place at all says nothing about this one's.
                    rest = self.join(rest, if least.is_finite() { least } else { 0.0 });
                }
                tails.set(t, s, self.own.get(t, s) + rest);
            }
        }
        tails
    }

    /// The sites that follow, from the last task back, from what it takes at least to have each task done at a site.
    fn backwards(&self) -> Assignment {
        let mut heads = Table::new(self.world);
        for &t in &self.world.order {
            for s in self.choices(t) {
                let ways = &self.into[s * heads.sites..][..heads.sites];
                let mut before = 0.0;
                for &(maker, bytes) in &self.makers[t] {
                    let share = if self.is_time() { 1.0 } else { self.readers[maker].len() as f64 };
                    let least = Self::least(heads.row(maker), ways, bytes) / share;
                    before = self.join(before, if least.is_finite() { least } else { 0.0 });
                }
                heads.set(t, s, self.own.get(t, s) + before);
            }
        }
        let mut assignment: Assignment = vec![None; self.world.tasks.len()];
        for &t in self.world.order.iter().rev() {
            let after = |s: usize| {
                let chosen = self.readers[t].iter().filter_map(|&(reader, bytes)| Some((assignment[reader]?, bytes)));
                chosen.map(|(to, bytes)| self.way(s, to, bytes)).fold(0.0, |a, b| self.join(a, b))
            };
            let scored = self.choices(t).into_iter().map(|s| (heads.get(t, s) + after(s), s));
            assignment[t] = scored.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, s)| s);
        }
        assignment
    }

    /// What a task's site makes of it and of the ways from and to its neighbours.
    fn near(&self, assignment: &Assignment, t: usize, s: usize) -> f64 {
        let from = self.makers[t].iter().filter_map(|&(m, bytes)| Some(self.way(assignment[m]?, s, bytes)));
        let to = self.readers[t].iter().filter_map(|&(r, bytes)| Some(self.way(s, assignment[r]?, bytes)));
        let from = from.fold(0.0, |a, b| self.join(a, b));
        self.own.get(t, s) + from + to.fold(0.0, |a, b| self.join(a, b))
    }
}

/// Changes single sites for as long as that helps and the budget lasts. Where the budget does not allow to try all,
/// only what looks better from near is tried. Returns how many times a task was scheduled.
fn local(flow: &Flow, best: &mut Assignment, value: &mut Value) -> u64 {
    let world = flow.world;
    let moves: usize = world.tasks.iter().map(|node| node.candidates.len()).sum();
    let all = (moves * world.order.len()) as u64 <= LOCAL_STEPS_MAX;
    let mut steps = 0;
    loop {
        let mut better = false;
        let mut prefix = Schedule::new(world);
        for (k, &t) in world.order.iter().enumerate() {
            if prefix.settled(t) {
                continue;
            }
            for &s in world.tasks[t].candidates.iter().filter(|_| world.tasks[t].fixed.is_none()) {
                let looks_better = || best[t].is_some_and(|at| flow.near(best, t, s) < flow.near(best, t, at));
                if Some(s) == best[t] || steps >= LOCAL_STEPS_MAX || !(all || looks_better()) {
                    continue;
                }
                steps += (world.order.len() - k) as u64;
                let was = best[t].replace(s);
                let mut trial = prefix.clone();
                trial.extend(k, best);
                let found = trial.sums.value(world);
                if found.order(value).is_lt() {
                    (*value, better) = (found, true);
                } else {
                    best[t] = was;
                }
            }
            prefix.put(t, best[t]);
        }
        if !better || steps >= LOCAL_STEPS_MAX {
            return steps;
        }
    }
}
