//! A problem in numbers: names become indices, prices whole amounts, rules lists of sites that may be.
//!
//! Money is counted in billionths and time in milliseconds, both whole, so that sums do not depend on the order of
//! their terms and a bound is never above what it bounds by a rounding error.

use std::borrow::Cow;
use std::collections::{BTreeMap, BinaryHeap};

use super::outcome::{Reason, Unplaceable};
use super::profile::{Need, Profile};
use super::{Estimate, Input, Problem, Progress, SERVICE_PRICED, SiteState, Task};
use crate::ids::{Name, SiteId};
use crate::residency::{Residency, Selector};
use crate::resources::Resources;
use crate::site::{Link, Prices, SiteInfo};
use crate::spec::Objective;

/// Longer spans are taken for this: a hundred years.
const SPAN_MAX: u64 = 100 * 365 * 24 * 3_600_000;
/// Higher single prices are taken for this: a million.
const NANOS_MAX: f64 = 1e15;

/// Money is counted in these.
pub const NANOS_PER_UNIT: f64 = 1e9;

pub struct World<'p> {
    pub objective: Objective,
    /// By name.
    pub sites: Vec<Site<'p>>,
    pub tasks: Vec<Node<'p>>,
    /// The order in which tasks are scheduled.
    pub order: Vec<usize>,
    pub items: Vec<Item<'p>>,
    /// Of expected run times through the graph.
    pub longest_path: u64,
    links: Vec<Link>,
}

pub struct Site<'p> {
    /// Owned where the problem only mentions it.
    pub state: Cow<'p, SiteState>,
    pub profile: Profile,
}

/// Bytes that tasks read: an external version, or an output.
pub struct Item<'p> {
    pub name: &'p Name,
    /// The task that makes it; none for an external version.
    pub maker: Option<usize>,
    /// How an external version gets to each site; none where it can't.
    pub fetch: Vec<Option<Fetch>>,
    /// The whole of it; of an output, the most that a reader expects.
    pub bytes: u64,
}

/// The best way to bring an item to a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fetch {
    pub from: usize,
    pub bytes: u64,
    pub millis: u64,
    pub nanos: u64,
}

/// A task in numbers.
pub struct Node<'p> {
    pub task: &'p Task,
    pub need: Need,
    /// At each site; none for a service.
    pub run: Vec<Option<u64>>,
    /// Of compute, at each site, in billionths.
    pub nanos: Vec<u64>,
    /// Where it may go.
    pub candidates: Vec<usize>,
    /// Where it is, if that is a fact.
    pub fixed: Option<usize>,
    /// Indices of items.
    pub reads: Vec<usize>,
    /// Set where it can't be placed whatever the others do.
    pub broken: Option<Unplaceable>,
    rules: BTreeMap<Selector, Origin<'p>>,
}

/// Where a rule of residency comes from.
#[derive(Clone, Copy)]
struct Origin<'p> {
    input: &'p Name,
    through: Option<&'p Name>,
}

/// How much an hour and a unit of money weigh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lens {
    pub hour: f64,
    pub money: f64,
}

impl Lens {
    pub fn new(objective: Objective) -> Lens {
        match objective {
            Objective::Time => Lens { hour: 1.0, money: 0.0 },
            Objective::Cost => Lens { hour: 0.0, money: 1.0 },
            Objective::Weighted(weight) => {
                let hour = if weight.is_nan() { 0.5 } else { weight.clamp(0.0, 1.0) };
                Lens { hour, money: 1.0 - hour }
            }
        }
    }

    pub fn weigh(&self, millis: f64, nanos: f64) -> f64 {
        self.hour * (millis / 3_600_000.0) + self.money * (nanos / NANOS_PER_UNIT)
    }
}

impl<'p> World<'p> {
    pub fn new(problem: &'p Problem) -> World<'p> {
        let mut world = World {
            objective: problem.objective,
            sites: sites(problem),
            tasks: Vec::new(),
            order: Vec::new(),
            items: Vec::new(),
            longest_path: 0,
            links: Vec::new(),
        };
        for from in &world.sites {
            for to in &world.sites {
                world.links.push(problem.links.get(from.id(), to.id()));
            }
        }
        let (order, broken, longest_path) = order(&problem.tasks);
        world.longest_path = longest_path;
        world.order = order;
        let kinds = kinds(problem);
        for (task, broken) in problem.tasks.iter().zip(broken) {
            // What runs or is done is a fact, whatever is wrong with its inputs.
            let broken = broken.filter(|_| matches!(task.progress, Progress::Undecided | Progress::Placed(_)));
            world.tasks.push(world.node(task, &kinds, broken));
        }
        world.read(problem);
        for i in 0..world.order.len() {
            let t = world.order[i];
            let rules = world.rules(t);
            world.tasks[t].rules = rules;
            if world.tasks[t].fixed.is_none() && world.tasks[t].broken.is_none() {
                let sites = 0..world.sites.len();
                world.tasks[t].candidates = sites.filter(|&s| world.refusal(t, s).is_none()).collect();
            }
        }
        world
    }

    pub fn link(&self, from: usize, to: usize) -> Link {
        self.links[from * self.sites.len() + to]
    }

    /// How an output of `bytes` gets from one site to another.
    pub fn transfer(&self, from: usize, to: usize, bytes: u64) -> Fetch {
        if from == to || bytes == 0 {
            return Fetch { from, ..Fetch::default() };
        }
        let millis = self.link(from, to).transfer(bytes).0.min(SPAN_MAX);
        Fetch { from, bytes, millis, nanos: nanos(self.sites[from].info().prices.egress(bytes)) }
    }

    /// Time and money as one number, in the objective's unit; never less for more of either.
    pub fn score(&self, millis: u64, nanos: u64) -> f64 {
        Lens::new(self.objective).weigh(millis as f64, nanos as f64)
    }

    /// Why a task that is not yet anywhere can't go to a site, so far as the other tasks' sites don't matter.
    pub fn refusal(&self, t: usize, s: usize) -> Option<Reason> {
        let (node, site) = (&self.tasks[t], &self.sites[s]);
        let (id, labels) = (site.id(), &site.info().labels);
        if matches!(site.state, Cow::Owned(_)) {
            return Some(Reason::Unreachable);
        }
        // What no operator can change comes first: who reads 'is draining' may wait in vain for the end of it.
        if let Some((rule, origin)) = node.rules.iter().find(|(rule, _)| !rule.picks(id, labels)) {
            let (input, through) = (origin.input.clone(), origin.through.cloned());
            return Some(Reason::Residency { input, rule: rule.clone(), through });
        }
        if let Some(wanted) = node.task.selector.as_ref().filter(|selector| !selector.picks(id, labels)) {
            return Some(Reason::Selector { wanted: wanted.clone() });
        }
        if node.task.image && !site.info().containers {
            return Some(Reason::NoContainers);
        }
        if let Some(shortage) = site.info().capacity.shortage(&node.task.resources) {
            return Some(Reason::NeverFits(shortage));
        }
        if let Some(reason) = node.task.barred.get(id) {
            return Some(reason.clone());
        }
        if !site.state.reachable {
            return Some(Reason::Unreachable);
        }
        if site.state.draining {
            return Some(Reason::Draining);
        }
        let stuck = node.reads.iter().map(|&item| &self.items[item]).find(|item| match item.maker {
            None => item.fetch[s].is_none(),
            Some(maker) => self.tasks[maker].fixed.is_some_and(|at| at != s && !self.sites[at].state.reachable),
        });
        stuck.map(|item| Reason::NoReplicaReachable { input: item.name.clone() })
    }

    fn node(&self, task: &'p Task, kinds: &BTreeMap<&Name, usize>, broken: Option<Unplaceable>) -> Node<'p> {
        let estimates = self.sites.iter().map(|site| task.durations.get(site.id()).unwrap_or(&task.duration));
        let mut run: Vec<Option<u64>> =
            estimates.map(|estimate| (!task.service).then(|| estimate.millis.0.min(SPAN_MAX))).collect();
        let fixed = match &task.progress {
            Progress::Undecided => None,
            Progress::Placed(site) | Progress::Running { site, .. } | Progress::Done(site) => {
                self.sites.iter().position(|s| s.id() == site)
            }
        };
        if let (Progress::Running { remaining, .. }, false) = (&task.progress, task.service) {
            run.fill(Some(remaining.0.min(SPAN_MAX)));
        }
        let price = |(site, run): (&Site, &Option<u64>)| {
            let span = run.map_or(SERVICE_PRICED, crate::time::Millis);
            nanos(site.info().prices.compute(&task.resources, span))
        };
        let nanos = self.sites.iter().zip(&run).map(price).collect();
        let need = need(&task.resources, kinds);
        let rules = BTreeMap::new();
        Node { task, need, run, nanos, candidates: Vec::new(), fixed, reads: Vec::new(), broken, rules }
    }

    /// Finds the items, and which task reads which.
    fn read(&mut self, problem: &'p Problem) {
        let mut outputs: BTreeMap<(usize, &Name), usize> = BTreeMap::new();
        let mut versions: BTreeMap<&Name, Vec<(&Input, usize)>> = BTreeMap::new();
        for (t, task) in problem.tasks.iter().enumerate() {
            if self.tasks[t].broken.is_some() {
                continue;
            }
            for input in &task.inputs {
                let item = match input {
                    Input::Output { name, task, bytes, .. } => {
                        let next = self.items.len();
                        let item = *outputs.entry((*task, name)).or_insert(next);
                        if item == next {
                            self.items.push(Item { name, maker: Some(*task), fetch: Vec::new(), bytes: 0 });
                        }
                        self.items[item].bytes = self.items[item].bytes.max(*bytes);
                        item
                    }
                    Input::Version { name, bytes, .. } => {
                        let alike = versions.entry(name).or_default();
                        let known = alike.iter().find(|(other, _)| *other == input).map(|&(_, item)| item);
                        let item = known.unwrap_or(self.items.len());
                        if known.is_none() {
                            alike.push((input, item));
                            let fetch = (0..self.sites.len()).map(|to| self.fetch(input, to)).collect();
                            self.items.push(Item { name, maker: None, fetch, bytes: *bytes });
                        }
                        item
                    }
                };
                // A task may read the same bytes under two names; they are there once.
                if !self.tasks[t].reads.contains(&item) {
                    self.tasks[t].reads.push(item);
                }
            }
        }
    }

    /// The way from the replica that the objective likes best.
    fn fetch(&self, input: &Input, to: usize) -> Option<Fetch> {
        let Input::Version { bytes, missing, replicas, .. } = input else { return None };
        let here = self.sites[to].id();
        let whole = if replicas.contains(here) { 0 } else { *bytes };
        let lacks = missing.get(here).copied().unwrap_or(whole);
        if lacks == 0 {
            return Some(Fetch { from: to, ..Fetch::default() });
        }
        let sources = (0..self.sites.len()).filter(|&from| from != to && self.sites[from].state.reachable);
        let ways = sources.filter(|&from| replicas.contains(self.sites[from].id()));
        let ways = ways.map(|from| self.transfer(from, to, lacks));
        ways.min_by(|a, b| {
            let by_score = self.score(a.millis, a.nanos).total_cmp(&self.score(b.millis, b.nanos));
            by_score.then((a.millis, a.nanos, a.from).cmp(&(b.millis, b.nanos, b.from)))
        })
    }

    /// All the rules that a task is under. Tasks before it in the order have theirs.
    fn rules(&self, t: usize) -> BTreeMap<Selector, Origin<'p>> {
        let mut rules = BTreeMap::new();
        let task = self.tasks[t].task;
        let mut keep = |residency: &Residency, origin: Origin<'p>| {
            for rule in &residency.0 {
                rules.entry(rule.clone()).or_insert(origin);
            }
        };
        for input in &task.inputs {
            if let Input::Version { name, residency, .. } = input {
                keep(residency, Origin { input: name, through: None });
            }
        }
        keep(&task.residency, Origin { input: &task.name, through: None });
        for input in &task.inputs {
            if let Input::Output { name, task: maker, released: false, .. } = input {
                let Some(maker) = self.tasks.get(*maker) else { continue };
                for (rule, origin) in &maker.rules {
                    let derived = Origin { input: origin.input, through: Some(name) };
                    rules.entry(rule.clone()).or_insert(derived);
                }
            }
        }
        rules
    }
}

impl Site<'_> {
    pub fn id(&self) -> &SiteId {
        &self.state.info.id
    }

    pub fn info(&self) -> &SiteInfo {
        &self.state.info
    }
}

impl Node<'_> {
    pub fn running(&self) -> bool {
        matches!(self.task.progress, Progress::Running { .. })
    }

    pub fn done(&self) -> bool {
        matches!(self.task.progress, Progress::Done(_))
    }

    pub fn estimate(&self, site: &SiteId) -> Estimate {
        *self.task.durations.get(site).unwrap_or(&self.task.duration)
    }
}

pub fn money(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_UNIT
}

fn nanos(money: f64) -> u64 {
    // A negative price or none at all (NaN) is no reason to run something.
    (money * NANOS_PER_UNIT).round().clamp(0.0, NANOS_MAX) as u64
}

fn need(resources: &Resources, kinds: &BTreeMap<&Name, usize>) -> Need {
    let plain = [resources.cpus_milli, resources.memory_bytes, resources.disk_bytes];
    let gpus = resources.gpus.iter().filter_map(|(kind, count)| Some((*kinds.get(kind)?, u64::from(*count))));
    plain.into_iter().enumerate().chain(gpus).filter(|&(_, amount)| amount > 0).collect()
}

/// Kinds of accelerators that a task asks for; the others don't matter. Indices 0 to 2 are cpus, memory and disk.
fn kinds(problem: &Problem) -> BTreeMap<&Name, usize> {
    let mut kinds: BTreeMap<&Name, usize> = BTreeMap::new();
    for kind in problem.tasks.iter().flat_map(|task| task.resources.gpus.keys()) {
        let next = 3 + kinds.len();
        kinds.entry(kind).or_insert(next);
    }
    kinds
}

/// The sites by name, and for each one that only a task's progress speaks of, one that is not reachable.
fn sites(problem: &Problem) -> Vec<Site<'_>> {
    let kinds = kinds(problem);
    let mut states: BTreeMap<&SiteId, Cow<SiteState>> = BTreeMap::new();
    for state in &problem.sites {
        states.entry(&state.info.id).or_insert(Cow::Borrowed(state));
    }
    for task in &problem.tasks {
        if let Progress::Placed(site) | Progress::Running { site, .. } | Progress::Done(site) = &task.progress {
            states.entry(site).or_insert_with(|| Cow::Owned(gone(site)));
        }
    }
    states.into_values().map(|state| Site { profile: profile(&state, &kinds), state }).collect()
}

fn gone(id: &SiteId) -> SiteState {
    SiteState {
        info: SiteInfo {
            id: id.clone(),
            labels: BTreeMap::new(),
            capacity: Resources::default(),
            prices: Prices::default(),
            containers: false,
        },
        free: Resources::default(),
        reachable: false,
        draining: false,
        busy: Vec::new(),
        queued: Vec::new(),
    }
}

/// What is free at a site before any task of the problem.
fn profile(state: &SiteState, kinds: &BTreeMap<&Name, usize>) -> Profile {
    let dense = |resources: &Resources| {
        let mut amounts = vec![0; 3 + kinds.len()];
        for (kind, amount) in need(resources, kinds) {
            amounts[kind] = amount;
        }
        amounts
    };
    let capacity = dense(&state.info.capacity);
    let mut held = vec![0u64; capacity.len()];
    for busy in &state.busy {
        for (kind, amount) in need(&busy.resources, kinds) {
            held[kind] = held[kind].saturating_add(amount);
        }
    }
    // A site that shrank under its load has less than nothing free until enough has ended; so the profile is made
    // from what is held at each moment, not by giving back to what is free now.
    let free = dense(&state.free);
    let unexplained: Vec<u64> =
        (0..capacity.len()).map(|k| capacity[k].saturating_sub(held[k]).saturating_sub(free[k])).collect();
    let mut ends: Vec<u64> = state.busy.iter().filter_map(|busy| busy.ends_in).map(|end| end.0.min(SPAN_MAX)).collect();
    ends.push(0);
    ends.sort_unstable();
    ends.dedup();
    let mut profile = Profile::new(capacity);
    for (i, &from) in ends.iter().enumerate() {
        let mut used = unexplained.clone();
        for busy in &state.busy {
            if busy.ends_in.is_none_or(|end| end.0.min(SPAN_MAX) > from) {
                for (kind, amount) in need(&busy.resources, kinds) {
                    used[kind] = used[kind].saturating_add(amount);
                }
            }
        }
        let used: Need = used.into_iter().enumerate().filter(|&(_, amount)| amount > 0).collect();
        profile.hold(&used, from, ends.get(i + 1).copied());
    }
    for queued in &state.queued {
        let need = need(&queued.resources, kinds);
        let span = queued.duration.map(|span| span.0.min(SPAN_MAX));
        if let Some(start) = profile.earliest(&need, 0, span) {
            // From now on: nobody behind it takes room that it waits for.
            profile.hold(&need, 0, span.map(|span| start.saturating_add(span)));
        }
    }
    profile
}

/// The order of scheduling, and for each task whether it can't be scheduled at all: its input does not exist, or it
/// waits for itself. These come last. With the longest path of expected run times.
fn order(tasks: &[Task]) -> (Vec<usize>, Vec<Option<Unplaceable>>, u64) {
    let makers = |task: &Task| -> Vec<(usize, Name)> {
        let outputs = task.inputs.iter().filter_map(|input| match input {
            Input::Output { task, name, .. } => Some((*task, name.clone())),
            Input::Version { .. } => None,
        });
        outputs.collect()
    };
    let mut broken: Vec<Option<Unplaceable>> = vec![None; tasks.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    let mut waits = vec![0usize; tasks.len()];
    for (t, task) in tasks.iter().enumerate() {
        for (maker, name) in makers(task) {
            match readers.get_mut(maker) {
                Some(readers) => {
                    readers.push(t);
                    waits[t] += 1;
                }
                None => broken[t] = Some(Unplaceable::Broken { input: name }),
            }
        }
    }
    let ranks = ranks(tasks, &readers);
    let key = |t: usize| (tasks[t].priority, ranks[t], std::cmp::Reverse((&tasks[t].name, t)));
    let mut ready: BinaryHeap<_> = (0..tasks.len()).filter(|&t| waits[t] == 0).map(|t| (key(t), t)).collect();
    let mut order = Vec::with_capacity(tasks.len());
    while let Some((_, t)) = ready.pop() {
        order.push(t);
        for &reader in &readers[t] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push((key(reader), reader));
            }
        }
    }
    for t in 0..tasks.len() {
        if waits[t] > 0 {
            let name = makers(&tasks[t]).first().map(|(_, name)| name.clone());
            broken[t] = name.map(|input| Unplaceable::Broken { input });
            order.push(t);
        }
    }
    (order, broken, ranks.into_iter().max().unwrap_or(0))
}

/// The longest path of expected run times from each task's start to the end of the graph.
fn ranks(tasks: &[Task], readers: &[Vec<usize>]) -> Vec<u64> {
    let mut waits: Vec<usize> = readers.iter().map(Vec::len).collect();
    let mut ranks = vec![0u64; tasks.len()];
    let mut ready: Vec<usize> = (0..tasks.len()).filter(|&t| waits[t] == 0).collect();
    while let Some(t) = ready.pop() {
        if !tasks[t].service {
            ranks[t] = ranks[t].saturating_add(tasks[t].duration.millis.0);
        }
        for input in &tasks[t].inputs {
            let Input::Output { task: maker, .. } = input else { continue };
            if *maker >= tasks.len() {
                continue;
            }
            ranks[*maker] = ranks[*maker].max(ranks[t]);
            waits[*maker] -= 1;
            if waits[*maker] == 0 {
                ready.push(*maker);
            }
        }
    }
    ranks
}
