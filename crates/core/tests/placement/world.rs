//! Random worlds, and a planner that is too slow and too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::placement::{
    Busy, Estimate, Input, Plan, Problem, Progress, Queued, SERVICE_PRICED, SiteState, Source, Task,
};
use tombolo_core::residency::{Residency, Selector};
use tombolo_core::resources::Resources;
use tombolo_core::site::{Link, Links, Prices, SiteInfo};
use tombolo_core::spec::Objective;
use tombolo_core::{Millis, Name, SiteId};

/// Random choices; zeros when it is used up.
pub struct Tape<'a>(std::slice::Iter<'a, u16>);

impl<'a> Tape<'a> {
    pub fn new(tape: &'a [u16]) -> Tape<'a> {
        Tape(tape.iter())
    }

    pub fn pick(&mut self, below: u64) -> u64 {
        u64::from(self.0.next().copied().unwrap_or(0)) % below
    }

    /// True one time in `times`.
    pub fn rarely(&mut self, times: u64) -> bool {
        self.pick(times) == times - 1
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn amount(tape: &mut Tape, cpus: u64, gpus: bool) -> Resources {
    let kinds = if gpus { BTreeMap::from([(name("a100"), tape.pick(2) as u32 + 1)]) } else { BTreeMap::new() };
    Resources { cpus_milli: 1000 * tape.pick(cpus + 1), memory_bytes: tape.pick(3) << 30, disk_bytes: 0, gpus: kinds }
}

/// Few sites and few tasks, with something of everything.
pub fn small_world(tape: &mut Tape, sites_max: usize, tasks_max: usize) -> Problem {
    let count = 1 + tape.pick(sites_max as u64) as usize;
    let ids: Vec<SiteId> = ["a", "b", "c", "d"][..count].iter().map(|id| SiteId::new(*id).unwrap()).collect();
    let mut sites: Vec<SiteState> = ids.iter().map(|id| site(tape, id)).collect();
    if tape.rarely(3) {
        // Sites that only differ by name, so that ties are common.
        let first = sites[0].clone();
        for site in &mut sites {
            let id = site.info.id.clone();
            *site = first.clone();
            site.info.id = id;
        }
    }
    let mut links = Links::default();
    for from in &ids {
        for to in &ids {
            if !tape.rarely(4) {
                let bytes_per_s = [1e6, 1e7, 1e8][tape.pick(3) as usize];
                links.0.insert(
                    (from.clone(), to.clone()),
                    Link { bytes_per_s, latency: Millis(tape.pick(3) * 50), limit: None },
                );
            }
        }
    }
    let versions: Vec<Input> = ["raw", "ref"].iter().map(|name| version(tape, name, &ids)).collect();
    let count = 1 + tape.pick(tasks_max as u64) as usize;
    let tasks = (0..count).map(|t| task(tape, t, &ids, &versions)).collect();
    let objective = [Objective::Time, Objective::Cost, Objective::Weighted(0.5), Objective::Weighted(0.9)];
    Problem { sites, links, tasks, objective: objective[tape.pick(4) as usize] }
}

fn site(tape: &mut Tape, id: &SiteId) -> SiteState {
    let gpus = tape.rarely(3);
    let mut capacity = amount(tape, 3, gpus);
    capacity.cpus_milli += 1000;
    capacity.memory_bytes += 1 << 30;
    let mut free = capacity.clone();
    let mut busy = Vec::new();
    for _ in 0..tape.pick(3) {
        let resources = Resources { cpus_milli: 1000 * tape.pick(3), ..Resources::default() };
        if free.holds(&resources) {
            free.take(&resources);
            let ends_in = (!tape.rarely(5)).then(|| Millis(1000 * tape.pick(20)));
            busy.push(Busy { resources, ends_in });
        }
    }
    let mut queued = Vec::new();
    if tape.rarely(5) {
        let resources = Resources { cpus_milli: 1000, ..Resources::default() };
        queued.push(Queued { resources, duration: Some(Millis(1000 * tape.pick(10))) });
    }
    let region = if tape.rarely(3) { "us" } else { "eu" };
    let prices = Prices {
        cpu_hour: tape.pick(4) as f64,
        memory_gib_hour: tape.pick(2) as f64 / 8.0,
        gpu_hour: BTreeMap::from([(name("a100"), tape.pick(3) as f64)]),
        egress_gib: tape.pick(3) as f64 / 20.0,
    };
    let labels = BTreeMap::from([("region".to_owned(), region.to_owned())]);
    let info = SiteInfo { id: id.clone(), labels, capacity, prices, containers: !tape.rarely(4) };
    SiteState { info, free, reachable: !tape.rarely(8), draining: tape.rarely(8), busy, queued }
}

fn residency(tape: &mut Tape, ids: &[SiteId]) -> Residency {
    match tape.pick(4) {
        0 => Residency::keep_at(Selector::label("region", "eu")),
        1 => Residency::keep_at(Selector::site(ids[tape.pick(ids.len() as u64) as usize].clone())),
        _ => Residency::anywhere(),
    }
}

fn version(tape: &mut Tape, text: &str, ids: &[SiteId]) -> Input {
    let bytes = tape.pick(5) * 30_000_000;
    let mut replicas = BTreeSet::from([ids[tape.pick(ids.len() as u64) as usize].clone()]);
    let mut missing = BTreeMap::new();
    for id in ids {
        match tape.pick(6) {
            0 => drop(replicas.insert(id.clone())),
            1 if !replicas.contains(id) => drop(missing.insert(id.clone(), bytes / 3)),
            _ => {}
        }
    }
    Input::Version { name: name(text), bytes, missing, replicas, residency: residency(tape, ids) }
}

fn task(tape: &mut Tape, t: usize, ids: &[SiteId], versions: &[Input]) -> Task {
    let mut inputs = Vec::new();
    for version in versions {
        if tape.rarely(3) {
            inputs.push(version.clone());
        }
    }
    for maker in 0..t {
        if tape.rarely(3) {
            let (bytes, released) = (tape.pick(4) * 20_000_000, tape.rarely(3));
            inputs.push(Input::Output { name: name(&format!("out{maker}")), task: maker, bytes, released });
        }
    }
    let estimate = |tape: &mut Tape| Estimate { millis: Millis(1000 * tape.pick(20)), source: Source::Declared };
    let duration = estimate(tape);
    let mut durations = BTreeMap::new();
    for id in ids {
        if tape.rarely(4) {
            durations.insert(id.clone(), estimate(tape));
        }
    }
    let at = ids[tape.pick(ids.len() as u64) as usize].clone();
    let progress = match tape.pick(16) {
        13 => Progress::Done(at),
        14 => Progress::Placed(at),
        15 => Progress::Running { site: at, remaining: Millis(1000 * tape.pick(10)) },
        _ => Progress::Undecided,
    };
    let gpus = tape.rarely(6);
    Task {
        name: name(&format!("t{t}")),
        resources: amount(tape, 3, gpus),
        priority: i32::from(tape.rarely(5)),
        selector: tape.rarely(8).then(|| Selector::label("region", "us")),
        image: tape.rarely(8),
        residency: Residency::anywhere(),
        duration,
        durations,
        inputs,
        service: tape.rarely(8),
        progress,
        barred: Default::default(),
    }
}

/// What the best assignment comes to.
#[derive(Debug, Clone)]
pub struct Best {
    pub sites: Vec<Option<SiteId>>,
    pub starts: Vec<Option<u64>>,
    pub makespan: u64,
    pub nanos: u64,
    unplaced: usize,
    ends: u64,
}

/// Tries every assignment.
pub fn brute_force(problem: &Problem) -> Best {
    let mut states: Vec<&SiteState> = problem.sites.iter().collect();
    states.sort_by_key(|state| &state.info.id);
    let order = order(problem);
    let choices: Vec<Vec<Option<usize>>> = order.iter().map(|&t| choices(problem, &states, t)).collect();
    let mut best: Option<Best> = None;
    let mut digits = vec![0; order.len()];
    loop {
        let mut assignment = vec![None; order.len()];
        for (place, &t) in order.iter().enumerate() {
            assignment[t] = choices[place][digits[place]];
        }
        let found = evaluate(problem, &states, &order, &assignment);
        // Assignments are tried in the order of names, so only what is better replaces.
        if best.as_ref().is_none_or(|best| better(problem, &found, best)) {
            best = Some(found);
        }
        let Some(place) = (0..digits.len()).rev().find(|&p| digits[p] + 1 < choices[p].len()) else { break };
        digits[place] += 1;
        digits[place + 1..].fill(0);
    }
    best.unwrap()
}

fn better(problem: &Problem, a: &Best, b: &Best) -> bool {
    let key = |x: &Best| {
        let score = match problem.objective {
            Objective::Time => x.makespan as f64,
            Objective::Cost => x.nanos as f64,
            Objective::Weighted(w) => w * (x.makespan as f64 / 3_600_000.0) + (1.0 - w) * (x.nanos as f64 / 1e9),
        };
        let rest = if problem.objective == Objective::Time { (x.nanos, 0) } else { (x.makespan, x.nanos) };
        (x.unplaced, score, rest, x.ends)
    };
    key(a) < key(b)
}

fn order(problem: &Problem) -> Vec<usize> {
    let tasks = &problem.tasks;
    let mut rank = vec![0; tasks.len()];
    let makers = |t: usize| {
        tasks[t].inputs.iter().filter_map(|i| match i {
            Input::Output { task, .. } => Some(*task),
            Input::Version { .. } => None,
        })
    };
    // Tasks of these worlds only read those before them.
    for t in (0..tasks.len()).rev() {
        rank[t] += if tasks[t].service { 0 } else { tasks[t].duration.millis.0 };
        makers(t).for_each(|maker| rank[maker] = rank[maker].max(rank[t]));
    }
    let mut order: Vec<usize> = Vec::new();
    while order.len() < tasks.len() {
        let ready = (0..tasks.len()).filter(|t| !order.contains(t) && makers(*t).all(|m| order.contains(&m)));
        let first = |&t: &usize| (-tasks[t].priority, u64::MAX - rank[t], tasks[t].name.clone());
        order.push(ready.min_by_key(first).unwrap());
    }
    order
}

/// What a task's bytes may not leave, by the recursion's letter.
fn derived(problem: &Problem, t: usize) -> Residency {
    problem.tasks[t].inputs.iter().fold(problem.tasks[t].residency.clone(), |all, input| match input {
        Input::Version { residency, .. } => all.and(residency),
        Input::Output { task, released: false, .. } => all.and(&derived(problem, *task)),
        Input::Output { .. } => all,
    })
}

fn fixed(task: &Task) -> Option<&SiteId> {
    match &task.progress {
        Progress::Undecided => None,
        Progress::Placed(site) | Progress::Done(site) | Progress::Running { site, .. } => Some(site),
    }
}

fn choices(problem: &Problem, states: &[&SiteState], t: usize) -> Vec<Option<usize>> {
    let task = &problem.tasks[t];
    if let Some(site) = fixed(task) {
        return vec![states.iter().position(|state| state.info.id == *site)];
    }
    let rule = derived(problem, t);
    let may = |s: usize| {
        let SiteState { info, reachable, draining, .. } = states[s];
        let inputs = task.inputs.iter().all(|input| match input {
            Input::Version { .. } => fetch(problem, states, input, s).is_some(),
            Input::Output { task, .. } => fixed(&problem.tasks[*task]).is_none_or(|at| {
                let from = states.iter().find(|state| state.info.id == *at).unwrap();
                *at == info.id || from.reachable
            }),
        });
        let picked = task.selector.as_ref().is_none_or(|selector| selector.picks(&info.id, &info.labels));
        let fits = info.capacity.holds(&task.resources) && (info.containers || !task.image);
        *reachable && !*draining && picked && fits && rule.allows(&info.id, &info.labels) && inputs
    };
    let sites: Vec<_> = (0..states.len()).filter(|&s| may(s)).map(Some).collect();
    if sites.is_empty() { vec![None] } else { sites }
}

/// Source, milliseconds and billionths, of the way of an external version to a site.
fn fetch(problem: &Problem, states: &[&SiteState], input: &Input, s: usize) -> Option<(usize, u64, u64)> {
    let Input::Version { bytes, missing, replicas, .. } = input else { unreachable!() };
    let here = &states[s].info.id;
    let whole = if replicas.contains(here) { 0 } else { *bytes };
    let lacks = missing.get(here).copied().unwrap_or(whole);
    if lacks == 0 {
        return Some((s, 0, 0));
    }
    let from = (0..states.len()).filter(|&f| f != s && states[f].reachable && replicas.contains(&states[f].info.id));
    let ways = from.map(|f| {
        let (millis, nanos) = way(problem, states, f, s, lacks);
        (f, millis, nanos)
    });
    ways.min_by(|a, b| {
        let score = |(_, millis, nanos): &(usize, u64, u64)| match problem.objective {
            Objective::Time => *millis as f64,
            Objective::Cost => *nanos as f64,
            Objective::Weighted(w) => w * (*millis as f64 / 3_600_000.0) + (1.0 - w) * (*nanos as f64 / 1e9),
        };
        score(a).total_cmp(&score(b)).then((a.1, a.2, a.0).cmp(&(b.1, b.2, b.0)))
    })
}

fn way(problem: &Problem, states: &[&SiteState], from: usize, to: usize, bytes: u64) -> (u64, u64) {
    let millis = problem.links.get(&states[from].info.id, &states[to].info.id).transfer(bytes).0;
    (millis, (states[from].info.prices.egress(bytes) * 1e9).round() as u64)
}

/// Holds resources at a site from one moment to another.
struct Hold {
    site: usize,
    resources: Resources,
    from: u64,
    to: u64,
}

fn room(states: &[&SiteState], holds: &[Hold], s: usize, need: &Resources, from: u64, to: u64) -> bool {
    let free_at = |moment: u64| {
        let mut free = states[s].info.capacity.clone();
        for hold in holds.iter().filter(|h| h.site == s && h.from <= moment && moment < h.to) {
            free.take(&hold.resources);
        }
        free.holds(need)
    };
    let inside = |moment: &u64| *moment > from && *moment < to;
    free_at(from) && holds.iter().map(|hold| hold.from).filter(inside).all(free_at)
}

fn earliest(
    states: &[&SiteState],
    holds: &[Hold],
    s: usize,
    need: &Resources,
    ready: u64,
    span: Option<u64>,
) -> Option<u64> {
    let mut moments: Vec<u64> = holds.iter().map(|hold| hold.to).filter(|&to| to > ready && to < u64::MAX).collect();
    moments.push(ready);
    moments.sort_unstable();
    moments.into_iter().find(|&at| room(states, holds, s, need, at, span.map_or(u64::MAX, |span| at + span)))
}

fn standing(problem: &Problem, states: &[&SiteState]) -> Vec<Hold> {
    let mut holds = Vec::new();
    for (site, state) in states.iter().enumerate() {
        for Busy { resources, ends_in } in &state.busy {
            let to = ends_in.map_or(u64::MAX, |end| end.0);
            holds.push(Hold { site, resources: resources.clone(), from: 0, to });
        }
        for Queued { resources, duration } in &state.queued {
            let span = duration.map(|span| span.0);
            if let Some(from) = earliest(states, &holds, site, resources, 0, span) {
                let to = span.map_or(u64::MAX, |span| from + span);
                // Nobody behind it takes what it waits for.
                holds.push(Hold { site, resources: resources.clone(), from: 0, to });
            }
        }
    }
    for task in &problem.tasks {
        if let Progress::Running { site, remaining } = &task.progress {
            let site = states.iter().position(|state| state.info.id == *site).unwrap();
            let to = if task.service { u64::MAX } else { remaining.0 };
            holds.push(Hold { site, resources: task.resources.clone(), from: 0, to });
        }
    }
    holds
}

fn evaluate(problem: &Problem, states: &[&SiteState], order: &[usize], assignment: &[Option<usize>]) -> Best {
    let tasks = &problem.tasks;
    let mut holds = standing(problem, states);
    let mut ends: Vec<Option<u64>> = vec![None; tasks.len()];
    let mut best = Best {
        sites: vec![None; tasks.len()],
        starts: vec![None; tasks.len()],
        makespan: 0,
        nanos: 0,
        unplaced: 0,
        ends: 0,
    };
    let mut arrived: BTreeMap<(Name, usize), u64> = BTreeMap::new();
    for (t, task) in tasks.iter().enumerate() {
        let end = match &task.progress {
            Progress::Done(_) => 0,
            Progress::Running { remaining, .. } if !task.service => remaining.0,
            Progress::Running { .. } => 0,
            _ => continue,
        };
        (ends[t], best.starts[t], best.sites[t]) = (Some(end), Some(0), fixed(task).cloned());
        best.makespan = best.makespan.max(end);
        best.ends += end;
    }
    for &t in order.iter().filter(|&&t| !matches!(tasks[t].progress, Progress::Done(_) | Progress::Running { .. })) {
        let step = assignment[t].and_then(|s| {
            let (ready, egress, moved) = inputs(problem, states, assignment, &ends, &arrived, t, s)?;
            let id = &states[s].info.id;
            let span = (!tasks[t].service).then(|| tasks[t].durations.get(id).unwrap_or(&tasks[t].duration).millis.0);
            let start = earliest(states, &holds, s, &tasks[t].resources, ready, span)?;
            Some((s, start, span, egress, moved))
        });
        let Some((site, start, span, egress, moved)) = step else {
            best.unplaced += 1;
            continue;
        };
        arrived.extend(moved);
        let end = start + span.unwrap_or(0);
        let to = span.map_or(u64::MAX, |_| end);
        holds.push(Hold { site, resources: tasks[t].resources.clone(), from: start, to });
        let info = &states[site].info;
        let price = info.prices.compute(&tasks[t].resources, span.map_or(SERVICE_PRICED, Millis));
        best.nanos += egress + (price * 1e9).round() as u64;
        best.makespan = best.makespan.max(end);
        best.ends += end;
        (ends[t], best.starts[t], best.sites[t]) = (Some(end), Some(start), Some(info.id.clone()));
    }
    best
}

type Moved = BTreeMap<(Name, usize), u64>;

/// When all is there, what egress costs, and what was moved.
fn inputs(
    problem: &Problem,
    states: &[&SiteState],
    assignment: &[Option<usize>],
    ends: &[Option<u64>],
    arrived: &Moved,
    t: usize,
    s: usize,
) -> Option<(u64, u64, Moved)> {
    let (mut ready, mut egress, mut moved) = (0, 0, Moved::new());
    // By source and by the moment from which they can go: ways that share a link go one after another.
    let mut queue: Vec<(usize, u64, usize, u64, Name)> = Vec::new();
    for (i, input) in problem.tasks[t].inputs.iter().enumerate() {
        let (name, from, exists, millis, nanos) = match input {
            Input::Version { name, .. } => {
                let (from, millis, nanos) = fetch(problem, states, input, s)?;
                (name, from, 0, millis, nanos)
            }
            Input::Output { name, task, .. } => {
                let (from, end) = (assignment[*task]?, ends[*task]?);
                let expected = problem.tasks.iter().flat_map(|task| &task.inputs).filter_map(|other| match other {
                    Input::Output { name: n, bytes, .. } if n == name => Some(*bytes),
                    _ => None,
                });
                let most = expected.max().unwrap();
                let (millis, nanos) = if from == s { (0, 0) } else { way(problem, states, from, s, most) };
                (name, from, end, millis, nanos)
            }
        };
        if let Some(at) = arrived.get(&(name.clone(), s)) {
            ready = ready.max(*at);
        } else if from == s || millis == 0 {
            ready = ready.max(exists);
        } else if !states[from].reachable {
            return None;
        } else {
            egress += nanos;
            queue.push((from, exists, i, millis, name.clone()));
        }
    }
    queue.sort();
    let mut until: BTreeMap<usize, u64> = BTreeMap::new();
    for (from, exists, _, millis, name) in queue {
        let at = exists.max(until.get(&from).copied().unwrap_or(0)) + millis;
        until.insert(from, at);
        moved.insert((name, s), at);
        ready = ready.max(at);
    }
    Some((ready, egress, moved))
}

/// The first task that a plan puts, or the first transfer that it sends, where a rule forbids it.
pub fn residency_fault(problem: &Problem, plan: &Plan) -> Option<String> {
    let labels: BTreeMap<_, _> = problem.sites.iter().map(|state| (&state.info.id, &state.info.labels)).collect();
    problem.tasks.iter().enumerate().filter(|(_, task)| fixed(task).is_none()).find_map(|(t, task)| {
        let outcome = plan.placement(&task.name).unwrap().outcome.as_ref().ok()?;
        let sent = outcome.transfers.iter().map(|transfer| &transfer.to);
        let bad = sent.chain([&outcome.site]).find(|site| !derived(problem, t).allows(site, labels[site]));
        bad.map(|site| format!("{} at {site}", task.name))
    })
}

/// The first moment at which a plan holds more than a site has.
pub fn capacity_fault(problem: &Problem, plan: &Plan) -> Option<String> {
    let states: Vec<&SiteState> = problem.sites.iter().collect();
    let base = standing(problem, &states);
    let mut holds = Vec::new();
    for task in problem.tasks.iter().filter(|task| matches!(task.progress, Progress::Undecided | Progress::Placed(_))) {
        let Ok(outcome) = &plan.placement(&task.name).unwrap().outcome else { continue };
        let site = states.iter().position(|state| state.info.id == outcome.site).unwrap();
        let to = if task.service { u64::MAX } else { outcome.start.0 + outcome.terms.run.0 };
        holds.push(Hold { site, resources: task.resources.clone(), from: outcome.start.0, to });
    }
    for Hold { site, from, .. } in &holds {
        let mut used = Resources::default();
        let now = |hold: &&Hold| hold.site == *site && hold.from <= *from && *from < hold.to;
        holds.iter().filter(now).for_each(|hold| used.add(&hold.resources));
        // What stands may itself be more than a site has, when a task is said to run where there is no room for it.
        let mut free = states[*site].info.capacity.clone();
        base.iter().filter(now).for_each(|hold| free.take(&hold.resources));
        if let Some(shortage) = free.shortage(&used) {
            return Some(format!("{} at {from}: {shortage}", states[*site].info.id));
        }
    }
    None
}
