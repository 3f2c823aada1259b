//! Who gets room at a site that is full, and in which order.

use crate::play::{Play, name, project, run, site, version};
use tombolo_core::placement::{self, Placement};
use tombolo_core::spec::Objective;
use tombolo_core::world::Submission;

#[test]
fn first_come_first_served_and_nobody_overtakes() {
    let mut play = Play::new(&["a cpus=4"]);
    play.submit("p-1", &["x cpus=3"]);
    play.submit("p-2", &["x cpus=4"]);
    // It would fit beside the first, but the second waits for the whole site.
    play.submit("p-3", &["x cpus=1"]);
    play.table("p-2", &[("wait 10", "active: x=queued")]);
    play.table("p-3", &[("", "active: x=queued")]);
    assert_eq!(play.why("p-2/x"), "waits for room at a");
    assert_eq!(play.why("p-3/x"), "waits for room at a");
    play.table("p-2", &[("wait 30", "active: x=queued"), ("end p-1/x ok", "active: x=placed@a#1")]);
    play.table("p-3", &[("", "active: x=queued"), ("end p-2/x ok", "active: x=placed@a#1")]);
    play.within_capacity();
}

#[test]
fn higher_priority_goes_first_and_stops_nobody() {
    let mut play = Play::new(&["a cpus=1"]);
    play.submit("p-1", &["x"]);
    play.submit("p-2", &["x"]);
    play.submit("p-3", &["x prio=5"]);
    play.submit("p-4", &["x prio=-5"]);
    play.submit("p-5", &["x"]);
    let order = ["p-1", "p-3", "p-2", "p-5", "p-4"];
    for (i, of) in order.iter().enumerate() {
        play.within_capacity();
        for later in &order[i + 1..] {
            play.table(later, &[("", "active: x=queued")]);
        }
        play.table(of, &[("", "active: x=placed@a#1"), (&format!("end {of}/x ok"), "succeeded: x=succeeded")]);
    }
}

#[test]
fn within_a_run_priority_decides_too() {
    let mut play = Play::new(&["a cpus=1"]);
    play.submit("p-1", &["a", "b prio=3", "c prio=9"]);
    play.table(
        "p-1",
        &[
            ("", "active: a=queued b=queued c=placed@a#1"),
            ("end p-1/c ok", "active: a=queued b=placed@a#1 c=succeeded"),
            ("end p-1/b ok", "active: a=placed@a#1 b=succeeded c=succeeded"),
        ],
    );
}

#[test]
fn a_full_site_holds_up_nobody_who_can_go_elsewhere() {
    let mut play = Play::new(&["a cpus=1", "b cpus=1"]);
    play.submit("p-1", &["x site=a"]);
    play.submit("p-2", &["x site=a"]);
    play.submit("p-3", &["x site=b"]);
    play.table("p-2", &[("wait 10", "active: x=queued")]);
    play.table("p-3", &[("", "active: x=placed@b#1")]);
}

#[test]
fn what_is_submitted_while_others_wait_is_placed_at_once() {
    let mut play = Play::new(&["a cpus=1", "b cpus=1"]);
    play.submit("p-1", &["x site=a"]);
    play.submit("p-2", &["x site=a"]);
    play.submit("p-3", &["x site=b"]);
    play.table("p-3", &[("", "active: x=placed@b#1")]);
}

#[test]
fn a_pause_before_a_retry_gives_the_room_to_others() {
    let mut play = Play::new(&["a cpus=1"]);
    play.submit("p-1", &["x retries=1"]);
    play.submit("p-2", &["x"]);
    play.table("p-1", &[("end p-1/x failed", "active: x=backoff"), ("wait 1", "active: x=queued")]);
    play.table("p-2", &[("", "active: x=placed@a#1"), ("end p-2/x ok", "succeeded: x=succeeded")]);
    play.table("p-1", &[("", "active: x=placed@a#2")]);
}

#[test]
fn capacity_holds_under_many_ends_and_beginnings() {
    let mut play = Play::new(&["a cpus=5", "b cpus=3"]);
    for number in 1..=12 {
        play.submit(&format!("p-{number}"), &["x cpus=2", "y cpus=1 retries=1", "z cpus=3"]);
    }
    for round in 0..200 {
        play.within_capacity();
        let placed = play.world.workloads.values().find(|record| record.state.site().is_some());
        let Some(next) = placed.map(|record| record.id.clone()) else { break };
        let how = if round % 3 == 0 && next.name.as_str() == "y" { "failed" } else { "ok" };
        play.step(&format!("end {next} {how}"));
        play.step("wait 1");
    }
    assert!(play.world.workloads.values().all(|record| record.state.is_final()));
}

#[test]
fn a_shrunken_site_takes_nothing_until_it_has_room_again() {
    let mut play = Play::new(&["a cpus=4"]);
    play.submit("p-1", &["x cpus=2", "y cpus=2"]);
    play.world.edit_site(&site("a"), |site| site.info.capacity.cpus_milli = 2000).unwrap();
    play.submit("p-2", &["z cpus=1"]);
    play.table("p-2", &[("end p-1/x ok", "active: z=queued"), ("end p-1/y ok", "active: z=placed@a#1")]);
}

#[test]
fn runs_that_wait_for_one_site_starve_nobody_at_another() {
    let mut play = Play::new(&["a", "laptop"]);
    play.step("silence laptop");
    play.step("wait 20");
    for number in 1..=64 {
        play.submit(&format!("p-{number}"), &["x site=laptop"]);
    }
    play.submit("q-1", &["x site=a"]);
    play.table("q-1", &[("wait 60", "active: x=placed@a#1")]);
}

#[test]
fn a_long_queue_at_one_site_starves_nobody_at_another() {
    let mut play = Play::new(&["a", "b cpus=1"]);
    for number in 1..=66 {
        play.submit(&format!("p-{number}"), &["x site=b"]);
    }
    play.submit("q-1", &["x site=a"]);
    play.table("q-1", &[("wait 60", "active: x=placed@a#1")]);
}

#[test]
fn a_runs_low_stage_does_not_go_with_its_high_one() {
    let mut play = Play::new(&["a cpus=2"]);
    play.submit("p-1", &["busy cpus=2"]);
    play.submit("p-2", &["high prio=10", "low"]);
    play.submit("p-3", &["middle prio=5"]);
    play.step("end p-1/busy ok");
    play.table("p-2", &[("", "active: high=placed@a#1 low=queued")]);
    play.table("p-3", &[("", "active: middle=placed@a#1")]);
}

/// How a stage would be placed if it were submitted now.
fn planned(play: &Play, line: &str) -> Placement {
    let spec = project("new", &[line]);
    let (id, code) = (run("new-1"), version("code"));
    let submission = Submission { id, spec, code, data: Default::default(), by: "ann".into(), force: false };
    let problem = play.world.clone().what_if(submission, Some(Objective::Time), play.now).unwrap();
    let plan = placement::plan(&problem);
    plan.placement(&name(line.split(' ').next().unwrap())).unwrap().clone()
}

/// Where, after how many seconds of waiting, and what is said of the other site.
fn waits(placement: &Placement) -> (&str, u64, String) {
    let outcome = placement.outcome.as_ref().unwrap();
    (outcome.site.as_str(), outcome.terms.wait.0 / 1000, placement.others[0].1.to_string())
}

#[test]
fn a_plan_waits_behind_all_that_waits_ahead() {
    let mut play = Play::new(&["a cpus=1", "b cpus=1"]);
    play.submit("r-1", &["x site=b takes=300"]);
    play.submit("p-1", &["x site=a takes=100"]);
    let before = "3 min 20 s slower: waits 5 min 0 s for room";
    assert_eq!(waits(&planned(&play, "y takes=10")), ("a", 100, before.into()));
    for number in 2..=6 {
        play.submit(&format!("p-{number}"), &["x site=a takes=100"]);
    }
    // One runs and five wait: the other site is free sooner, and that is why.
    let behind = "5 min 0 s slower: waits 10 min 0 s for room";
    assert_eq!(waits(&planned(&play, "y takes=10")), ("b", 300, behind.into()));
    // Who goes first waits for what runs alone.
    assert_eq!(waits(&planned(&play, "y takes=10 prio=5")), ("a", 100, before.into()));
    // What is submitted is placed by the same.
    play.submit("q-1", &["y takes=10"]);
    assert_eq!(play.why("q-1/y"), "waits for room at b");
    play.submit("q-2", &["y takes=10 prio=5"]);
    assert_eq!(play.why("q-2/y"), "waits for room at a");
}

#[test]
fn a_queue_too_long_to_be_minded_one_by_one_is_waited_for_all_the_same() {
    let mut play = Play::new(&["a cpus=2", "b"]);
    play.submit("p-1", &["x site=a takes=20 cpus=2"]);
    for number in 2..=301 {
        play.submit(&format!("p-{number}"), &["x site=a takes=20"]);
    }
    // 300 of 20 s, two at a time, after the first; those that are not planned again keep their places too.
    let placement = planned(&play, "y site=a takes=20");
    let (at, wait, _) = waits(&placement);
    assert_eq!(at, "a");
    assert!((2970..=3070).contains(&wait), "{wait}");
}
