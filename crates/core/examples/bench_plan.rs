//! The planner on a made-up world, for `cargo xtask bench plan`.
//!
//! ```text
//! bench_plan <stages> <sites> <chain|dag> <runs>
//! ```
//! Prints what it planned as one JSON object: how long each planning took, what the plan costs beside the one that
//! takes the cheapest site stage by stage, and the world in the peer's terms: for each stage and site the compute
//! price, the egress price of each site, and the bytes that flow. Numbers come from a fixed seed.
#![allow(clippy::disallowed_methods, reason = "the crate reads no clock; who measures it has to")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::time::Instant;

use tombolo_core::placement::{Estimate, Input, Problem, Progress, SiteState, Source, Task, plan};
use tombolo_core::resources::Resources;
use tombolo_core::site::{Links, Prices, SiteInfo};
use tombolo_core::spec::Objective;
use tombolo_core::{Millis, Name, Residency, SiteId};

const GIB: u64 = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [stages, sites, shape, runs] = args[..] else {
        return Err("usage: bench_plan <stages> <sites> <chain|dag> <runs>".into());
    };
    let problem = problem(stages.parse()?, sites.parse()?, shape == "dag")?;
    let mut seconds = Vec::new();
    let mut planned = plan(&problem);
    for _ in 0..runs.parse()? {
        let began = Instant::now();
        planned = plan(&problem);
        seconds.push(began.elapsed().as_secs_f64());
    }
    if let Some(lost) = planned.placements.iter().find(|placement| placement.outcome.is_err()) {
        return Err(format!("{} has no place", lost.task).into());
    }
    let greedy = greedy(&problem);
    println!(
        "{{\"seconds\":{seconds:?},\"cost\":{:?},\"greedy\":{greedy:?},\"exact\":{},{}}}",
        planned.cost,
        planned.exact,
        peers_terms(&problem)
    );
    Ok(())
}

/// Sites with different speeds and prices; a chain, or layers whose stages read one to three of the layer before.
fn problem(stages: usize, sites: usize, layered: bool) -> Result<Problem, Box<dyn Error>> {
    const WIDTH: usize = 20;
    let mut random = Random(2026);
    let mut world = Vec::new();
    for number in 0..sites {
        let prices = Prices {
            cpu_hour: 0.02 + random.unit() * 0.2,
            egress_gib: [0.0, 0.02, 0.09, 0.12][random.below(4)],
            ..Prices::default()
        };
        let capacity = Resources { cpus_milli: 1_000_000, memory_bytes: 4_000 * GIB, ..Resources::default() };
        let id = SiteId::new(format!("site-{number:02}"))?;
        let info = SiteInfo { id, labels: BTreeMap::new(), capacity: capacity.clone(), prices, containers: true };
        let (busy, queued) = (vec![], vec![]);
        world.push(SiteState { info, free: capacity, reachable: true, draining: false, busy, queued });
    }
    // What a stage writes is as large for every stage that reads it.
    let written: Vec<u64> = (0..stages).map(|_| (random.unit() * 4.0 * GIB as f64) as u64).collect();
    let mut tasks = Vec::new();
    for number in 0..stages {
        let minutes = 5.0 + random.unit() * 55.0;
        let known =
            |speed: f64| Estimate { millis: Millis((minutes / speed * 60_000.0) as u64), source: Source::History };
        // Some sites suit some stages: no single site is the best for all, so that moving bytes can pay.
        let mut durations = BTreeMap::new();
        for site in &world {
            durations.insert(site.info.id.clone(), known(0.25 + random.unit() * 3.75));
        }
        let before: BTreeSet<usize> = match (layered, number) {
            (_, 0) => BTreeSet::new(),
            (false, _) => BTreeSet::from([number - 1]),
            (true, _) if number < WIDTH => BTreeSet::new(),
            (true, _) => {
                let first = (number / WIDTH - 1) * WIDTH;
                (0..=random.below(3)).map(|_| first + random.below(WIDTH)).collect()
            }
        };
        let mut inputs = Vec::new();
        for task in before {
            let (name, bytes) = (Name::new(format!("out-{task}"))?, written[task]);
            inputs.push(Input::Output { name, task, bytes, released: false });
        }
        tasks.push(Task {
            name: Name::new(format!("stage-{number:04}"))?,
            resources: Resources { cpus_milli: 4_000, memory_bytes: 8 * GIB, ..Resources::default() },
            priority: 0,
            selector: None,
            image: false,
            residency: Residency::anywhere(),
            duration: known(1.0),
            durations,
            inputs,
            service: false,
            progress: Progress::Undecided,
            barred: Default::default(),
        });
    }
    Ok(Problem { sites: world, links: Links::default(), tasks, objective: Objective::Cost })
}

fn compute(problem: &Problem, task: usize, site: usize) -> f64 {
    let (task, info) = (&problem.tasks[task], &problem.sites[site].info);
    info.prices.compute(&task.resources, task.durations[&info.id].millis)
}

fn reads(problem: &Problem, task: usize) -> impl Iterator<Item = (usize, u64)> {
    problem.tasks[task].inputs.iter().filter_map(|input| match input {
        Input::Output { task, bytes, .. } => Some((*task, *bytes)),
        Input::Version { .. } => None,
    })
}

/// What it costs when each stage in turn takes the site that is cheapest for it alone, given those before.
fn greedy(problem: &Problem) -> f64 {
    let mut at: Vec<usize> = Vec::new();
    let mut total = 0.0;
    for task in 0..problem.tasks.len() {
        let price = |site: usize| {
            let moved = reads(problem, task).filter(|(from, _)| at[*from] != site);
            let egress: f64 = moved.map(|(from, bytes)| problem.sites[at[from]].info.prices.egress(bytes)).sum();
            egress + compute(problem, task, site)
        };
        let Some(best) = (0..problem.sites.len()).min_by(|a, b| price(*a).total_cmp(&price(*b))) else { break };
        total += price(best);
        at.push(best);
    }
    total
}

fn peers_terms(problem: &Problem) -> String {
    let egress: Vec<f64> = problem.sites.iter().map(|site| site.info.prices.egress(GIB)).collect();
    let mut text = format!("\"egress_gib\":{egress:?},\"tasks\":[");
    for task in 0..problem.tasks.len() {
        let prices: Vec<f64> = (0..problem.sites.len()).map(|site| compute(problem, task, site)).collect();
        let reads: Vec<[f64; 2]> =
            reads(problem, task).map(|(from, bytes)| [from as f64, bytes as f64 / GIB as f64]).collect();
        let comma = if task == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{{\"prices\":{prices:?},\"reads\":{reads:?}}}");
    }
    text + "]"
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
