//! Services: restarts, replicas, and newer runs that take the place of older ones.

use crate::play::{Play, run};

#[test]
fn a_newer_service_that_answers_takes_the_older_ones_place() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service"]);
    play.step("ready p-1/s");
    play.submit("q-1", &["s service"]);
    play.submit("p-2", &["s service"]);
    play.step("ready q-1/s");
    // Until the newer one answers the older one serves, and another project's is nobody's heir.
    play.table("p-1", &[("start p-2/s", "serving: s=ready@a#1"), ("ready p-2/s", "serving: s=ready@a#1!")]);
    play.table("p-1", &[("end p-1/s stopped", "stopped: s=stopped"), ("retire", "is not live")]);
    play.table("p-2", &[("", "serving: s=ready@a#1")]);
    play.table("q-1", &[("", "serving: s=ready@a#1")]);
}

#[test]
fn an_older_service_leaves_the_port_that_a_newer_one_needs() {
    let mut play = Play::new(&["a", "b"]);
    play.submit("p-1", &["s service port=80 site=a", "t service port=80 site=b", "u service port=81 site=a"]);
    ["s", "t", "u"].iter().for_each(|name| play.step(&format!("ready p-1/{name}")));
    play.submit("q-1", &["s service port=82 site=a"]);
    play.step("ready q-1/s");
    play.submit("p-2", &["s service port=80 site=a", "t service port=80 site=a", "u service port=83 site=a"]);
    // It serves for as long as the newer one is not ready for the port: that may take long, or never come.
    play.step("accept p-2/s");
    play.table("p-1", &[("", "serving: s=ready@a#1 t=ready@b#1 u=ready@a#1")]);
    // Only the same service's, at the same site, and for the same port.
    for name in ["s", "t", "u"] {
        play.step(&format!("prepared p-2/{name}"));
    }
    play.table("p-1", &[("", "serving: s=ready@a#1! t=ready@b#1 u=ready@a#1")]);
    play.table("p-2", &[("", "active: s=preparing@a#1 t=preparing@a#1 u=preparing@a#1")]);
    play.table("q-1", &[("", "serving: s=ready@a#1")]);
}

#[test]
fn an_older_service_between_two_tries_does_not_come_back_to_the_port() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service port=80"]);
    play.step("end p-1/s failed");
    play.submit("p-2", &["s service port=80"]);
    play.table("p-1", &[("", "active: s=backoff"), ("prepared p-2/s", "stopped: s=stopped")]);
}

#[test]
fn a_service_that_is_not_up_yet_is_superseded_as_well() {
    let check = |steps: &[&str], expected: &str| {
        let mut play = Play::new(&["a"]);
        play.submit("p-1", &["s service"]);
        play.submit("p-2", &["s service"]);
        steps.iter().for_each(|step| play.step(step));
        play.table("p-1", &[("ready p-2/s", expected)]);
    };
    check(&[], "active: s=placed@a#1!");
    check(&["start p-1/s"], "active: s=running@a#1!");
    check(&["end p-1/s failed"], "stopped: s=stopped");
}

#[test]
fn a_service_that_ends_is_started_again_until_it_never_answers() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service"]);
    for epoch in 1..=3 {
        play.step("ready p-1/s");
        play.step("wait 60");
        play.table("p-1", &[("end p-1/s ok", "active: s=backoff")]);
        play.table("p-1", &[("wait 1", &format!("active: s=placed@a#{}", epoch + 1))]);
    }
    // The last of them was the first end in a row without an answer.
    for _ in 0..3 {
        play.table("p-1", &[("end p-1/s failed", "active: s=backoff")]);
        play.step("wait 60");
    }
    play.table("p-1", &[("end p-1/s failed", "failed: s=failed")]);
}

#[test]
fn replicas_are_workloads_of_their_own() {
    let mut play = Play::new(&["a cpus=2"]);
    play.submit("p-1", &["s service replicas=3"]);
    let seen = play.how("p-1");
    assert_eq!(seen.matches("placed@a").count(), 2, "{seen}");
    assert!(seen.contains("queued"), "{seen}");
    let taken = play.try_submit("p-2", &["s service replicas=2", "s-2"], false).unwrap_err();
    assert_eq!(taken.to_string(), "the replica's name s-2 is taken or too long; rename the service");
    assert!(!play.world.runs.contains_key(&run("p-2")), "a refusal changes nothing");
    let many = play.try_submit("p-2", &["s service replicas=21"], false).unwrap_err();
    assert_eq!(many.to_string(), "the service s wants 21 replicas; at most 20 are allowed");
}

#[test]
fn a_run_that_counts_as_over_but_still_serves_can_be_stopped() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service", "t service"]);
    play.step("ready p-1/s");
    for _ in 0..5 {
        play.step("end p-1/t failed");
        play.step("wait 60");
    }
    play.table("p-1", &[("", "failed: s=ready@a#1 t=failed")]);
    play.world.stop(&run("p-1"), play.now).unwrap();
    play.table("p-1", &[("", "failed: s=ready@a#1! t=failed")]);
}

#[test]
fn a_newer_run_with_fewer_replicas_supersedes_all_of_the_older_ones() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service replicas=2"]);
    play.step("ready p-1/s");
    play.step("ready p-1/s-2");
    play.submit("p-2", &["s service"]);
    play.table("p-1", &[("ready p-2/s", "serving: s=ready@a#1! s-2=ready@a#1!")]);
}

#[test]
fn an_older_service_that_comes_up_late_does_not_stay() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service"]);
    play.step("end p-1/s failed");
    play.step("stop p-1");
    play.submit("p-2", &["s service"]);
    play.step("ready p-2/s");
    play.step("retry p-1");
    play.step("ready p-1/s");
    // One of the two: which is for the design to say.
    let serving = ["p-1", "p-2"].iter().filter(|of| play.how(of).ends_with("s=ready@a#1")).count()
        + usize::from(play.how("p-1").ends_with("s=ready@a#2"));
    assert_eq!(serving, 1, "{} / {}", play.how("p-1"), play.how("p-2"));
}

#[test]
fn a_service_that_crashes_after_each_start_is_started_ever_later() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service"]);
    for _ in 0..8 {
        play.step("ready p-1/s");
        play.step("end p-1/s failed");
        play.step("wait 1");
    }
    play.table("p-1", &[("", "active: s=backoff")]);
}

#[test]

fn losses_long_ago_don_t_count() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service"]);
    for _ in 0..10 {
        play.step("ready p-1/s");
        play.step("wait 600");
        play.table("p-1", &[("end p-1/s lost", "active: s=backoff")]);
        play.step("wait 60");
    }
}

#[test]
fn a_newer_run_that_serves_ends_services_that_it_has_no_more() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["s service", "old service"]);
    play.step("ready p-1/s");
    play.step("ready p-1/old");
    play.submit("p-2", &["s service"]);
    play.table("p-1", &[("ready p-2/s", "serving: old=ready@a#1! s=ready@a#1!")]);
    play.table("p-2", &[("", "serving: s=ready@a#1")]);
}
