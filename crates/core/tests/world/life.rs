//! A workload's life: the way through, failures, stops, retries, the cache, and reports that come late.

use crate::play::{Play, id, run, site, version};
use tombolo_core::Epoch;
use tombolo_core::sync::{Finish, Observed, Outcome, Phase, Report};
use tombolo_core::world::Refusal;

/// The site's own scheduler lets it wait, and later ends it: neither is a failure.
#[test]
fn a_sites_own_queue_is_told_and_its_evictions_count_as_losses() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x"]);
    play.table("p-1", &[("queued p-1/x waits for room", "active: x=preparing@a#1")]);
    assert_eq!(play.why("p-1/x"), "waits for room");
    play.step("queued p-1/x waits for a node");
    assert_eq!(play.why("p-1/x"), "waits for a node");
    play.table("p-1", &[("start p-1/x", "active: x=running@a#1")]);
    assert_eq!(play.world.workloads[&id("p-1/x")].why, None);
    play.table("p-1", &[("end p-1/x evicted", "active: x=backoff")]);
    let record = &play.world.workloads[&id("p-1/x")];
    assert_eq!((record.failures, record.losses), (0, 1));
}

#[test]
fn the_whole_way() {
    let mut play = Play::new(&["a"]);
    play.know("raw", None, &["a"]);
    play.submit("p-1", &["clean in=raw out=table", "train in=table out=model", "serve service in=model"]);
    play.table(
        "p-1",
        &[
            ("", "active: clean=placed@a#1 serve=waiting train=waiting"),
            ("accept p-1/clean", "active: clean=preparing@a#1 serve=waiting train=waiting"),
            ("start p-1/clean", "active: clean=running@a#1 serve=waiting train=waiting"),
            ("end p-1/clean ok", "active: clean=succeeded serve=waiting train=placed@a#1"),
            ("start p-1/train", "active: clean=succeeded serve=waiting train=running@a#1"),
            ("end p-1/train ok", "active: clean=succeeded serve=placed@a#1 train=succeeded"),
            ("start p-1/serve", "active: clean=succeeded serve=running@a#1 train=succeeded"),
            ("ready p-1/serve", "serving: clean=succeeded serve=ready@a#1 train=succeeded"),
            ("retire", "serving: clean=succeeded serve=ready@a#1 train=succeeded"),
            ("stop p-1", "serving: clean=succeeded serve=ready@a#1! train=succeeded"),
            ("end p-1/serve stopped", "stopped: clean=succeeded serve=stopped train=succeeded"),
            ("retire", "is not live"),
        ],
    );
    let words: Vec<_> = play.events.iter().filter(|e| e.workload.is_none()).map(|e| e.state.as_str()).collect();
    assert_eq!(words, ["active", "serving", "stopped"]);
}

#[test]
fn failures_are_tried_again_ever_later_and_losses_beside_them() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x retries=2"]);
    play.table(
        "p-1",
        &[
            ("end p-1/x failed", "active: x=backoff"),
            ("wait 1", "active: x=placed@a#2"),
            ("end p-1/x lost", "active: x=backoff"),
            ("wait 1", "active: x=placed@a#3"),
            ("end p-1/x failed", "active: x=backoff"),
            ("wait 1", "active: x=backoff"),
            ("wait 1", "active: x=placed@a#4"),
            ("end p-1/x failed", "failed: x=failed"),
        ],
    );
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x"]);
    for _ in 0..3 {
        play.step("end p-1/x lost");
        play.step("wait 60");
    }
    play.table("p-1", &[("", "active: x=placed@a#4"), ("end p-1/x lost", "failed: x=failed")]);
}

#[test]
fn what_the_lease_ended_is_placed_again_without_counting() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x failover=30"]);
    for epoch in 2..10 {
        play.step("end p-1/x stopped");
        play.table("p-1", &[("wait 1", &format!("active: x=placed@a#{epoch}"))]);
    }
    play.table("p-1", &[("end p-1/x checkpointed left=s1", "active: x=backoff")]);
    play.step("wait 1");
    assert_eq!(play.world.workloads[&id("p-1/x")].state_dir, Some(version("s1")));
}

#[test]
fn a_failed_gate_skips_the_rest_of_the_run() {
    let mut play = Play::new(&["a cpus=2"]);
    play.submit("p-1", &["busy prio=9", "test prio=9 retries=3", "other", "make out=o", "after in=o", "s service"]);
    play.table(
        "p-1",
        &[
            ("", "active: after=waiting busy=placed@a#1 make=queued other=queued s=waiting test=placed@a#1"),
            (
                "end p-1/test gate",
                "active: after=skipped busy=placed@a#1 make=skipped other=skipped s=skipped test=failed",
            ),
            // What runs already may end.
            (
                "end p-1/busy ok",
                "failed: after=skipped busy=succeeded make=skipped other=skipped s=skipped test=failed",
            ),
        ],
    );
}

#[test]
fn a_failure_skips_what_reads_from_it_and_nothing_else() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["a out=o", "b in=o out=q", "c in=q", "d", "s service"]);
    play.table(
        "p-1",
        &[
            ("", "active: a=placed@a#1 b=waiting c=waiting d=placed@a#1 s=waiting"),
            ("end p-1/a failed", "active: a=failed b=skipped c=skipped d=placed@a#1 s=skipped"),
            ("end p-1/d ok", "failed: a=failed b=skipped c=skipped d=succeeded s=skipped"),
            ("retry p-1", "active: a=placed@a#2 b=waiting c=waiting d=succeeded s=waiting"),
            ("end p-1/a ok", "active: a=succeeded b=placed@a#1 c=waiting d=succeeded s=waiting"),
        ],
    );
}

#[test]
fn stop_in_every_state() {
    let check = |steps: &[&str], expected: &str| {
        let mut play = Play::new(&["a cpus=1"]);
        play.submit("p-1", &["x retries=3 out=o", "y in=o"]);
        steps.iter().for_each(|step| play.step(step));
        play.step("stop p-1");
        // Asking again is harmless.
        if play.how("p-1").contains("active") {
            play.step("stop p-1");
        }
        assert_eq!(play.how("p-1"), format!("p-1 {expected}"), "{steps:?}");
    };
    check(&[], "active: x=placed@a#1! y=stopped");
    check(&["accept p-1/x"], "active: x=preparing@a#1! y=stopped");
    check(&["start p-1/x"], "active: x=running@a#1! y=stopped");
    check(&["end p-1/x failed"], "stopped: x=stopped y=stopped");
    check(&["end p-1/x ok"], "active: x=succeeded y=placed@a#1!");
    check(&["drain a", "end p-1/x failed", "wait 3"], "stopped: x=stopped y=stopped");
    // Whatever the site has to say of its end, it is not tried again.
    for (end, expected) in [
        ("stopped", "stopped: x=stopped y=stopped"),
        ("checkpointed", "stopped: x=stopped y=stopped"),
        ("failed", "failed: x=failed y=stopped"),
        ("lost", "failed: x=failed y=stopped"),
        ("ok", "stopped: x=succeeded y=stopped"),
    ] {
        let mut play = Play::new(&["a"]);
        play.submit("p-1", &["x retries=3 out=o", "y in=o"]);
        play.table("p-1", &[("stop p-1", "active: x=placed@a#1! y=stopped"), (&format!("end p-1/x {end}"), expected)]);
        assert!(matches!(play.world.stop(&run("p-1"), play.now), Err(Refusal::Over(..))));
    }
}

#[test]
fn retry_needs_something_to_retry_and_forgets_old_failures() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x retries=1"]);
    assert!(matches!(play.world.retry(&run("p-1"), play.now), Err(Refusal::NothingToRetry(_))));
    assert!(matches!(play.world.retry(&run("p-2"), play.now), Err(Refusal::NoRun(_))));
    play.table(
        "p-1",
        &[
            ("end p-1/x failed", "active: x=backoff"),
            ("wait 1", "active: x=placed@a#2"),
            ("end p-1/x failed", "failed: x=failed"),
            ("retry p-1", "active: x=placed@a#3"),
            ("end p-1/x failed", "active: x=backoff"),
            ("stop p-1", "stopped: x=stopped"),
            ("retry p-1", "active: x=placed@a#4"),
            ("end p-1/x ok", "succeeded: x=succeeded"),
        ],
    );
}

#[test]
fn stale_reports_change_nothing_and_are_answered() {
    let mut play = Play::new(&["a cpus=1", "b cpus=1"]);
    play.submit("p-1", &["x site=a retries=5 out=o"]);
    assert_eq!(play.told("a", &[]), ["run p-1/x#1"]);
    play.table(
        "p-1",
        &[
            ("start p-1/x", "active: x=running@a#1"),
            // A report from before it started comes late; one of another site is none of its business.
            ("accept p-1/x", "active: x=running@a#1"),
            ("end p-1/x#1@b ok", "active: x=running@a#1"),
            ("end p-1/x#2@a ok", "active: x=running@a#1"),
            ("end p-1/x failed", "active: x=backoff"),
            ("end p-1/x#1@a ok", "active: x=backoff"),
            ("wait 1", "active: x=placed@a#2"),
            ("end p-1/x#1@a ok", "active: x=placed@a#2"),
        ],
    );
    assert!(!play.world.versions.contains_key(&version("o")));
    assert_eq!(play.told("a", &[("p-1/x", 1, true)]), ["run p-1/x#2", "settled p-1/x#1"]);
    assert_eq!(play.told("a", &[("p-1/x", 1, false)]), ["run p-1/x#2", "stop p-1/x#1"]);
    // Newer than this world knows, as after a restored backup; and wholly unknown.
    assert_eq!(play.told("a", &[("p-1/x", 7, false), ("q-1/x", 1, true)]), ["run p-1/x#2"]);
    assert_eq!(play.told("b", &[]), [""; 0]);
}

#[test]
fn the_same_report_twice_counts_once() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x retries=1 out=o"]);
    play.step("end p-1/x failed");
    play.step("end p-1/x#1@a failed");
    assert_eq!(play.world.workloads[&id("p-1/x")].failures, 1);
    play.step("wait 1");
    play.step("end p-1/x ok");
    let events = play.events.len();
    play.step("end p-1/x#2@a ok");
    assert_eq!(play.events.len(), events);
    assert_eq!(play.world.workloads[&id("p-1/x")].attempts.len(), 2);
}

#[test]
fn what_is_unchanged_is_not_run_again_down_the_chain() {
    let stages = ["a in=raw out=o", "b in=o out=q", "c in=q out=r"];
    let mut play = Play::new(&["a"]);
    play.know("raw", None, &["a"]);
    play.submit("p-1", &stages);
    for stage in ["a", "b", "c"] {
        play.step(&format!("end p-1/{stage} ok"));
    }
    play.submit("p-2", &stages);
    play.table("p-2", &[("", "succeeded: a=cached b=cached c=cached")]);
    // From the first stage that is another, all is run; where its output is the same, the rest is known again.
    play.submit("p-3", &[stages[0], "b in=o out=q do=other", stages[2]]);
    play.table(
        "p-3",
        &[
            ("", "active: a=cached b=placed@a#1 c=waiting"),
            ("end p-3/b ok", "succeeded: a=cached b=succeeded c=cached"),
        ],
    );
    play.try_submit("p-4", &stages, true).unwrap();
    play.table("p-4", &[("", "active: a=placed@a#1 b=waiting c=waiting")]);
    // Another project's stage is another stage.
    play.submit("q-1", &stages[..1]);
    play.table("q-1", &[("", "active: a=placed@a#1")]);
    // Outputs that nobody has any more are made again.
    play.world.drop_replica(&version("o"), &site("a"));
    play.submit("p-5", &stages[..1]);
    play.table("p-5", &[("", "active: a=placed@a#1")]);
}

#[test]
fn success_without_a_declared_output_is_a_failure() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x out=o retries=3"]);
    let finish = Finish::without_running(Outcome::Succeeded, play.now);
    let phase = Phase::Finished(Box::new(finish));
    let report =
        Report { observed: vec![Observed { workload: id("p-1/x"), epoch: Epoch(1), phase }], ..Report::default() };
    play.world.report(&site("a"), &report, play.now);
    play.table("p-1", &[("", "failed: x=failed")]);
}
