//! The planner against a slow and simple one of its own kind, on random small worlds.

use std::collections::BTreeMap;

use crate::world::{Tape, brute_force, capacity_fault, residency_fault, small_world};
use proptest::prelude::*;
use tombolo_core::placement::{Estimate, Outcome, Plan, Problem, Progress, Source, plan};
use tombolo_core::spec::Objective;
use tombolo_core::{Millis, SiteId};

fn sites(problem: &Problem, plan: &Plan) -> Vec<Option<SiteId>> {
    let site = |name| plan.placement(name).unwrap().site().cloned();
    problem.tasks.iter().map(|task| site(&task.name)).collect()
}

fn tapes() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(any::<u16>(), 250)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_plan_is_the_best_that_there_is(tape in tapes()) {
        let problem = small_world(&mut Tape::new(&tape), 4, 5);
        let plan = plan(&problem);
        let best = brute_force(&problem);
        prop_assert!(plan.exact);
        prop_assert_eq!(sites(&problem, &plan), best.sites);
        prop_assert_eq!(plan.makespan, Millis(best.makespan));
        prop_assert!((plan.cost - best.nanos as f64 / 1e9).abs() < 1e-9);
        let start = |name| plan.placement(name).unwrap().outcome.as_ref().ok().map(|o: &Outcome| o.start.0);
        prop_assert_eq!(problem.tasks.iter().map(|task| start(&task.name)).collect::<Vec<_>>(), best.starts);
    }

    #[test]
    fn rules_and_capacity_are_kept(tape in tapes()) {
        let problem = small_world(&mut Tape::new(&tape), 4, 8);
        let plan = plan(&problem);
        prop_assert_eq!(residency_fault(&problem, &plan), None);
        prop_assert_eq!(capacity_fault(&problem, &plan), None);
        for placement in &plan.placements {
            let chosen = placement.site().into_iter().count();
            prop_assert_eq!(chosen + placement.others.len(), problem.sites.len(), "every site is spoken of");
        }
    }

    #[test]
    fn the_order_of_sites_does_not_matter(tape in tapes(), turn in 0..4usize) {
        let problem = small_world(&mut Tape::new(&tape), 4, 7);
        let mut turned = problem.clone();
        let by = turn % turned.sites.len();
        turned.sites.rotate_left(by);
        turned.sites.swap(0, problem.sites.len() - 1);
        prop_assert_eq!(plan(&problem), plan(&turned));
    }

    #[test]
    fn a_faster_twin_of_a_site_never_harms(tape in tapes(), of in 0..4usize) {
        let problem = small_world(&mut Tape::new(&tape), 3, 5);
        let mut richer = problem.clone();
        let mut twin = richer.sites[of % problem.sites.len()].clone();
        let of = std::mem::replace(&mut twin.info.id, SiteId::new("z").unwrap());
        for task in &mut richer.tasks {
            let millis = Millis(task.durations.get(&of).unwrap_or(&task.duration).millis.0 / 2);
            task.durations.insert(twin.info.id.clone(), Estimate { millis, source: Source::History });
        }
        let links: BTreeMap<_, _> = richer.links.0.clone();
        for ((from, to), link) in links {
            let twin = twin.info.id.clone();
            if to == of {
                richer.links.0.insert((from, twin), link);
            } else if from == of {
                richer.links.0.insert((twin, to), link);
            }
        }
        richer.sites.push(twin);
        let (before, after) = (plan(&problem), plan(&richer));
        prop_assert!(before.exact && after.exact);
        let unplaced = |plan: &Plan| plan.placements.iter().filter(|p| p.outcome.is_err()).count();
        prop_assert!(unplaced(&after) <= unplaced(&before));
        if unplaced(&after) == unplaced(&before) {
            let score = |plan: &Plan| match problem.objective {
                Objective::Time => plan.makespan.0 as f64,
                Objective::Cost => plan.cost,
                Objective::Weighted(w) => w * plan.makespan.as_secs_f64() / 3600.0 + (1.0 - w) * plan.cost,
            };
            prop_assert!(score(&after) <= score(&before) + 1e-9, "{} > {}", score(&after), score(&before));
        }
    }

    /// What is decided stays decided, and planning again from a plan's own choices gives the same times.
    #[test]
    fn a_plan_that_is_kept_stays(tape in tapes()) {
        let mut problem = small_world(&mut Tape::new(&tape), 4, 5);
        let first = plan(&problem);
        for task in &mut problem.tasks {
            if let (Progress::Undecided, Some(site)) = (&task.progress, first.placement(&task.name).unwrap().site()) {
                task.progress = Progress::Placed(site.clone());
            }
        }
        let again = plan(&problem);
        prop_assert_eq!((first.makespan, first.cost), (again.makespan, again.cost));
        prop_assert_eq!(sites(&problem, &first), sites(&problem, &again));
    }
}
