//! Thousands of histories. `TOMBOLO_SIM_SEEDS` says how many, `TOMBOLO_SIM_SEED` plays one and tells its story.

use tombolo_sim::{Options, Summary, simulate};

const SEEDS_DEFAULT: u64 = 2_000;

fn play(leases: bool) {
    if let Some(seed) = number("TOMBOLO_SIM_SEED") {
        match simulate(&Options { seed, leases, trace: true }) {
            Ok(summary) => println!("{}", summary.story.join("\n")),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let mut total = Summary::default();
    for seed in 0..number("TOMBOLO_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT) {
        match simulate(&Options { seed, leases, trace: false }) {
            Ok(summary) => {
                total.launches += summary.launches;
                total.crashes += summary.crashes;
                total.cuts += summary.cuts;
                total.successes += summary.successes;
                total.moves += summary.moves;
                total.moved += summary.moved;
                total.undone += summary.undone;
                total.drains += summary.drains;
                total.drained += summary.drained;
                total.homed += summary.homed;
            }
            Err(failure) => panic!("{failure}\nplay it again with TOMBOLO_SIM_SEED={seed}"),
        }
    }
    println!("{total:?}");
    assert!(total.launches > 0 && total.crashes > 0 && total.cuts > 0 && total.successes > 0, "{total:?}");
    assert!(total.moved > 0 && total.undone > 0, "{total:?}");
    assert!(total.drains > 0 && total.drained > 0 && total.homed > 0, "{total:?}");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn invariants_hold_where_sites_are_waited_for() {
    play(false);
}

#[test]
fn invariants_hold_where_sites_are_given_up_after_their_lease() {
    play(true);
}

/// A history follows from its seed alone.
#[test]
fn a_seed_reproduces() {
    for seed in 0..20 {
        let options = Options { seed, leases: true, trace: true };
        assert_eq!(simulate(&options).unwrap(), simulate(&options).unwrap());
    }
}
