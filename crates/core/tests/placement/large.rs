//! The planner on problems that are too large to search whole, and what it may spend on them.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::{capacity_fault, name, residency_fault};
use tombolo_core::placement::{
    EXACT_NODES_MAX, Estimate, Input, LOCAL_STEPS_MAX, Plan, Problem, Progress, SiteState, Source, Task, plan,
};
use tombolo_core::residency::{Residency, Selector};
use tombolo_core::resources::Resources;
use tombolo_core::site::{Link, Links, Prices, SiteInfo};
use tombolo_core::spec::Objective;
use tombolo_core::{Millis, SiteId};

/// A linear congruential generator (Knuth's MMIX constants); its high bits are even enough for this.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn cpus(count: u64) -> Resources {
    Resources { cpus_milli: count * 1000, ..Resources::default() }
}

/// Stages that each read up to `reads` of the last 20 before them, and one of 30 datasets now and then.
fn world(sites: usize, tasks: usize, reads: u64, objective: Objective) -> Problem {
    let mut dice = Dice(7);
    let ids: Vec<SiteId> = (0..sites).map(|s| SiteId::new(format!("site-{s:02}")).unwrap()).collect();
    let mut links = Links::default();
    for from in &ids {
        for to in &ids {
            let link =
                Link { bytes_per_s: 1e6 * (1 + dice.roll(100)) as f64, latency: Millis(dice.roll(100)), limit: None };
            links.0.insert((from.clone(), to.clone()), link);
        }
    }
    let versions: Vec<Input> = (0..30).map(|v| version(&mut dice, v, &ids)).collect();
    let sites = ids.iter().map(|id| site(&mut dice, id)).collect();
    let tasks = (0..tasks).map(|t| task(&mut dice, t, reads, &versions)).collect();
    Problem { sites, links, tasks, objective }
}

fn site(dice: &mut Dice, id: &SiteId) -> SiteState {
    let prices =
        Prices { cpu_hour: dice.roll(10) as f64 / 50.0, egress_gib: dice.roll(10) as f64 / 100.0, ..Prices::default() };
    let region = if dice.roll(2) == 0 { "eu" } else { "us" };
    let info = SiteInfo {
        id: id.clone(),
        labels: BTreeMap::from([("region".to_owned(), region.to_owned())]),
        capacity: cpus(4 + dice.roll(60)),
        prices,
        containers: true,
    };
    let free = info.capacity.clone();
    SiteState { info, free, reachable: true, draining: false, busy: Vec::new(), queued: Vec::new() }
}

fn version(dice: &mut Dice, v: usize, ids: &[SiteId]) -> Input {
    let eu = Residency::keep_at(Selector::label("region", "eu"));
    Input::Version {
        name: name(&format!("data-{v}")),
        bytes: dice.roll(10_000_000_000),
        missing: BTreeMap::new(),
        replicas: BTreeSet::from([ids[dice.roll(ids.len() as u64) as usize].clone()]),
        residency: if dice.roll(3) == 0 { eu } else { Residency::anywhere() },
    }
}

fn task(dice: &mut Dice, t: usize, reads: u64, versions: &[Input]) -> Task {
    let mut inputs = Vec::new();
    if t == 0 || dice.roll(4) == 0 {
        inputs.push(versions[dice.roll(versions.len() as u64) as usize].clone());
    }
    let makers: BTreeSet<usize> =
        (0..dice.roll(reads + 1)).map(|_| t.saturating_sub(1 + dice.roll(20) as usize)).collect();
    for maker in makers.into_iter().filter(|&maker| maker < t) {
        let (bytes, released) = (dice.roll(2_000_000_000), dice.roll(2) == 0);
        inputs.push(Input::Output { name: name(&format!("out-{maker}")), task: maker, bytes, released });
    }
    Task {
        name: name(&format!("stage-{t:04}")),
        resources: cpus(1 + dice.roll(4)),
        priority: 0,
        selector: None,
        image: false,
        residency: Residency::anywhere(),
        duration: Estimate { millis: Millis(1000 * (1 + dice.roll(600))), source: Source::History },
        durations: BTreeMap::new(),
        inputs,
        service: false,
        progress: Progress::Undecided,
        barred: Default::default(),
    }
}

fn check(problem: &Problem, plan: &Plan) {
    assert_eq!(residency_fault(problem, plan), None);
    assert_eq!(capacity_fault(problem, plan), None);
    assert!(plan.placements.iter().all(|placement| placement.outcome.is_ok()));
    let ends: BTreeMap<_, _> = plan
        .placements
        .iter()
        .map(|placement| {
            let outcome = placement.outcome.as_ref().unwrap();
            (&placement.task, (outcome.start.0, outcome.start.0 + outcome.terms.run.0))
        })
        .collect();
    for task in &problem.tasks {
        for input in &task.inputs {
            if let Input::Output { task: maker, .. } = input {
                let made = ends[&problem.tasks[*maker].name].1;
                assert!(ends[&task.name].0 >= made, "{} begins before its input is made", task.name);
            }
        }
    }
}

/// What planning may take at most: seven constructions with their evaluation, and the local search, whose last trial may
/// go on to the end.
fn steps_max(sites: usize, tasks: usize) -> u64 {
    (7 * (sites + 2) * tasks + tasks) as u64 + LOCAL_STEPS_MAX
}

#[test]
fn a_thousand_stages_on_fifty_sites_within_the_budget() {
    for objective in [Objective::Time, Objective::Cost, Objective::Weighted(0.5)] {
        let problem = world(50, 1000, 2, objective);
        let plan = plan(&problem);
        assert!(!plan.exact);
        assert!(plan.steps <= steps_max(50, 1000), "{} steps", plan.steps);
        check(&problem, &plan);
    }
}

#[test]
fn what_people_write_is_planned_exactly() {
    for objective in [Objective::Time, Objective::Cost, Objective::Weighted(0.5)] {
        for (sites, tasks) in [(3, 8), (4, 10), (4, 12), (5, 12)] {
            let problem = world(sites, tasks, 2, objective);
            let plan = plan(&problem);
            assert!(plan.steps <= steps_max(sites, tasks) + EXACT_NODES_MAX + 1);
            assert!(plan.exact, "{tasks} stages on {sites} sites");
            check(&problem, &plan);
        }
    }
}

/// In a chain, what is cheapest follows stage by stage from the cheapest ways to each site; the planner's constructions
/// have to find that whatever the length.
#[test]
fn a_long_chain_costs_the_least_there_is() {
    let mut problem = world(10, 200, 0, Objective::Cost);
    let mut dice = Dice(11);
    for t in 1..problem.tasks.len() {
        let bytes = dice.roll(20_000_000_000);
        problem.tasks[t].inputs = vec![Input::Output { name: name("out"), task: t - 1, bytes, released: true }];
    }
    let sites = &problem.sites;
    let compute = |t: usize, s: usize| {
        let task: &Task = &problem.tasks[t];
        (sites[s].info.prices.compute(&task.resources, task.duration.millis) * 1e9).round()
    };
    let Input::Version { bytes, replicas, .. } = &problem.tasks[0].inputs[0] else { unreachable!() };
    let egress = |from: usize, to: usize, bytes: u64| match from == to {
        true => 0.0,
        false => (sites[from].info.prices.egress(bytes) * 1e9).round(),
    };
    let home = sites.iter().position(|site| replicas.contains(&site.info.id)).unwrap();
    let mut least: Vec<f64> = (0..sites.len()).map(|s| compute(0, s) + egress(home, s, *bytes)).collect();
    for t in 1..problem.tasks.len() {
        let Input::Output { bytes, .. } = &problem.tasks[t].inputs[0] else { unreachable!() };
        let from = |s: usize| (0..sites.len()).map(|f| least[f] + egress(f, s, *bytes)).fold(f64::INFINITY, f64::min);
        least = (0..sites.len()).map(|s| compute(t, s) + from(s)).collect();
    }
    let least = least.into_iter().fold(f64::INFINITY, f64::min) / 1e9;
    // Whole billionths are rounded for each stage.
    assert!((plan(&problem).cost - least).abs() < 1e-6, "{} instead of {least}", plan(&problem).cost);
}

/// Twenty stages that all want the same few places: the search is bounded also where its bounds say little.
#[test]
fn a_crowd_stays_within_the_budget() {
    for objective in [Objective::Time, Objective::Cost, Objective::Weighted(0.5)] {
        let mut problem = world(6, 20, 0, objective);
        problem.sites.iter_mut().for_each(|site| (site.info.capacity, site.free) = (cpus(5), cpus(5)));
        let plan = plan(&problem);
        assert!(plan.steps <= steps_max(6, 20) + EXACT_NODES_MAX + 1, "{} steps", plan.steps);
        check(&problem, &plan);
    }
}
