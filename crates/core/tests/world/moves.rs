//! Moves: how they go, what forbids them, and that whatever fails leaves the workload where it was.

use tombolo_core::Millis;
use tombolo_core::moving::Moved;
use tombolo_core::sync::Intent;
use tombolo_core::world::Refusal;

use crate::play::{Play, id, site, version};

/// A job that runs at `a`.
fn job() -> Play {
    let mut play = Play::new(&["a cpus=4", "b cpus=4"]);
    play.submit("p-1", &["x site=a"]);
    play.world.workloads.get_mut(&id("p-1/x")).unwrap().spec.site = None;
    play.table("p-1", &[("accept p-1/x", "active: x=preparing@a#1"), ("start p-1/x", "active: x=running@a#1")]);
    play
}

fn service(words: &str) -> Play {
    let mut play = Play::new(&["a cpus=4", "b cpus=4"]);
    play.submit("p-1", &[&format!("x service site=a {words}")]);
    play.world.workloads.get_mut(&id("p-1/x")).unwrap().spec.site = None;
    play.table("p-1", &[("ready p-1/x", "serving: x=ready@a#1")]);
    play
}

fn last(play: &Play) -> &Moved {
    play.world.workloads[&id("p-1/x")].moves.last().unwrap()
}

fn order_state(play: &Play, at: &str) -> Option<tombolo_core::VersionId> {
    let desired = play.world.desired(&site(at), &[]);
    desired.assignments.iter().find_map(|one| match &one.intent {
        Intent::Prepare(order) | Intent::Run(order) => Some(order.state),
        Intent::Stop => None,
    })?
}

#[test]
fn a_job_goes_on_elsewhere_from_what_it_left() {
    let mut play = job();
    play.table("p-1", &[("move p-1/x b", "active: x=running@a#1>b#2 copying ahead")]);
    assert_eq!(play.told("b", &[]), ["prepare p-1/x#2"]);
    assert_eq!(play.told("a", &[("p-1/x", 1, false)]), ["run p-1/x#1"]);
    let desired = play.world.desired(&site("a"), &[]);
    assert_eq!((desired.copies.len(), desired.copies[0].turn), (1, (tombolo_core::Epoch(2), 1)));
    play.table(
        "p-1",
        &[
            ("prepared p-1/x#2@b", "active: x=running@a#1>b#2 copying ahead"),
            ("copied p-1/x#1@a 1 s1 1000", "active: x=running@a#1>b#2 copying ahead"),
        ],
    );
    assert_eq!(order_state(&play, "b"), Some(version("s1")), "it is brought ahead");
    play.table(
        "p-1",
        &[
            // Of an older state: the round is not there yet.
            ("prepared p-1/x#2@b s0", "active: x=running@a#1>b#2 copying ahead"),
            ("prepared p-1/x#2@b s1", "active: x=running@a#1>b#2 stopping"),
        ],
    );
    assert_eq!(play.told("a", &[("p-1/x", 1, false)]), ["stop p-1/x#1"]);
    assert_eq!(play.told("b", &[("p-1/x", 2, false)]), ["prepare p-1/x#2"]);
    play.table(
        "p-1",
        &[
            ("wait 2", "active: x=running@a#1>b#2 stopping"),
            ("end p-1/x#1@a checkpointed left=s2", "active: x=placed@b#2>b#2 landing"),
        ],
    );
    assert_eq!(play.told("b", &[("p-1/x", 2, false)]), ["run p-1/x#2"]);
    assert_eq!(order_state(&play, "b"), Some(version("s2")), "with the last delta");
    assert_eq!(play.told("a", &[("p-1/x", 1, true)]), ["settled p-1/x#1"]);
    play.table("p-1", &[("wait 1", "active: x=placed@b#2>b#2 landing"), ("start p-1/x#2@b", "active: x=running@b#2")]);
    let moved = last(&play);
    assert_eq!((moved.undone.as_deref(), moved.rounds, moved.last_bytes), (None, 1, 1000));
    assert_eq!((moved.downtime, moved.switch), (Some(Millis(3_000)), Some(Millis(1_000))));
    play.table("p-1", &[("end p-1/x#2@b ok", "succeeded: x=succeeded")]);
    let attempts = &play.world.workloads[&id("p-1/x")].attempts;
    assert!(attempts.iter().all(|attempt| attempt.ended.is_some()), "{attempts:?}");
}

#[test]
fn a_service_switches_and_the_source_leaves() {
    let mut play = service("");
    play.table(
        "p-1",
        &[
            ("move p-1/x b", "serving: x=ready@a#1>b#2 copying ahead"),
            ("copied p-1/x#1@a 1", "serving: x=ready@a#1>b#2 copying ahead"),
            ("prepared p-1/x#2@b", "serving: x=ready@a#1>b#2 starting beside"),
        ],
    );
    assert_eq!(play.told("b", &[("p-1/x", 2, false)]), ["run p-1/x#2"]);
    assert_eq!(play.told("a", &[("p-1/x", 1, false)]), ["run p-1/x#1"], "it goes on serving");
    play.table(
        "p-1",
        &[
            ("start p-1/x#2@b", "serving: x=ready@a#1>b#2 starting beside"),
            ("ready p-1/x#2@b", "serving: x=ready@b#2 -a#1"),
        ],
    );
    assert_eq!(play.told("a", &[]), ["stop p-1/x#1"]);
    assert_eq!(last(&play).downtime, None);
    play.table("p-1", &[("end p-1/x#1@a stopped", "serving: x=ready@b#2")]);
    assert_eq!(play.told("a", &[("p-1/x", 1, true)]), ["settled p-1/x#1"]);
    // And back.
    play.table(
        "p-1",
        &[
            ("move p-1/x a", "serving: x=ready@b#2>a#3 copying ahead"),
            ("copied p-1/x#2@b 1", "serving: x=ready@b#2>a#3 copying ahead"),
            ("prepared p-1/x#3@a", "serving: x=ready@b#2>a#3 starting beside"),
            ("ready p-1/x#3@a", "serving: x=ready@a#3 -b#2"),
            ("end p-1/x#2@b stopped", "serving: x=ready@a#3"),
        ],
    );
}

#[test]
fn what_fails_before_anything_stops_leaves_the_source_alone() {
    for (step, why) in [
        ("end p-1/x#2@b failed", "at b it exited with code 1"),
        ("copied p-1/x#1@a 1 failed", "its state can't be copied: its disk is full"),
        ("revoke b", "b was revoked"),
        ("call-off p-1/x", "ann thought better of it"),
        ("wait 30", "its deadline passed"),
    ] {
        let mut play = job();
        play.step("move p-1/x b deadline=30");
        play.step(step);
        assert!(play.how("p-1").starts_with("p-1 active: x=running@a#1"), "{step}: {}", play.how("p-1"));
        assert_eq!(last(&play).undone.as_deref(), Some(why));
        assert_eq!(play.told("a", &[("p-1/x", 1, false)]), ["run p-1/x#1"]);
        if step != "revoke b" {
            assert_eq!(play.told("b", &[]), ["stop p-1/x#2"], "{step}");
            play.step("end p-1/x#2@b stopped");
            assert_eq!(play.how("p-1"), "p-1 active: x=running@a#1");
        }
        assert_eq!(play.told("b", &[]), [""; 0]);
        // The next placement has an epoch of its own.
        play.table("p-1", &[("end p-1/x#1@a lost", "active: x=backoff"), ("wait 2", "active: x=placed@a#3")]);
    }
}

#[test]
fn what_fails_after_the_source_stopped_brings_it_back() {
    for (step, why) in [
        ("end p-1/x#2@b failed", "at b it exited with code 1"),
        ("revoke b", "at b it was lost: its site b was revoked"),
        ("silence b", "b was not heard of for 15.0 s, before it had started there"),
    ] {
        let mut play = service("single");
        play.table(
            "p-1",
            &[
                ("move p-1/x b", "serving: x=ready@a#1>b#2 copying ahead"),
                ("copied p-1/x#1@a 1 s1 9", "serving: x=ready@a#1>b#2 copying ahead"),
                ("prepared p-1/x#2@b s1", "serving: x=ready@a#1>b#2 stopping"),
                ("end p-1/x#1@a stopped left=s2", "active: x=placed@b#2>b#2 landing"),
            ],
        );
        play.step(step);
        if step == "silence b" {
            play.table("p-1", &[("wait 25", "active: x=placed@b#2>b#2 landing")]);
            play.step("wait 15");
        }
        assert_eq!(play.how("p-1"), "p-1 active: x=placed@a#3>b#2 returning", "{step}");
        assert_eq!(order_state(&play, "a"), Some(version("s2")), "with what it had left itself");
        play.table("p-1", &[("ready p-1/x#3@a", "serving: x=ready@a#3")]);
        assert_eq!(last(&play).undone.as_deref(), Some(why));
        if step == "silence b" {
            // It wakes up and has it still: it has to go.
            assert_eq!(play.told("b", &[("p-1/x", 2, false)]), ["stop p-1/x#2"]);
        }
    }
}

#[test]
fn a_move_that_is_called_off_late_comes_back_from_there() {
    let mut play = job();
    play.table(
        "p-1",
        &[
            ("move p-1/x b", "active: x=running@a#1>b#2 copying ahead"),
            ("copied p-1/x#1@a 1 s1 9", "active: x=running@a#1>b#2 copying ahead"),
            ("prepared p-1/x#2@b s1", "active: x=running@a#1>b#2 stopping"),
            ("call-off p-1/x", "active: x=running@a#1>b#2 stopping"),
            // It had been told to end, and begins again at home, without having been elsewhere.
            ("end p-1/x#1@a stopped left=s2", "active: x=placed@a#3>b#2 returning -b#2"),
            ("end p-1/x#2@b stopped", "active: x=placed@a#3>b#2 returning"),
            ("start p-1/x#3@a", "active: x=running@a#3"),
            ("move p-1/x b", "active: x=running@a#3>b#4 copying ahead"),
            ("copied p-1/x#3@a 1 s3 9", "active: x=running@a#3>b#4 copying ahead"),
            ("prepared p-1/x#4@b s3", "active: x=running@a#3>b#4 stopping"),
            ("end p-1/x#3@a stopped left=s4", "active: x=placed@b#4>b#4 landing"),
            ("call-off p-1/x", "active: x=placed@b#4>b#4 landing"),
            // The word came when it had started: it goes on from where it got to.
            ("start p-1/x#4@b", "active: x=running@b#4>b#4 landing"),
            ("end p-1/x#4@b stopped left=s5", "active: x=placed@a#5>b#4 returning"),
        ],
    );
    assert_eq!(order_state(&play, "a"), Some(version("s5")));
    play.table("p-1", &[("start p-1/x#5@a", "active: x=running@a#5")]);
}

#[test]
fn what_ends_meanwhile_is_an_end_like_any_other() {
    let ahead = "move p-1/x b";
    let mut play = job();
    play.table(
        "p-1",
        &[(ahead, "active: x=running@a#1>b#2 copying ahead"), ("end p-1/x#1@a ok", "succeeded: x=succeeded -b#2")],
    );
    assert_eq!(play.told("b", &[]), ["stop p-1/x#2"]);
    play.step("end p-1/x#2@b stopped");
    assert_eq!(last(&play).undone.as_deref(), Some("it succeeded meanwhile"));

    // It ends well although it was asked to stop for the move.
    let mut play = job();
    play.step(ahead);
    play.step("copied p-1/x#1@a 1 s1 9");
    play.table(
        "p-1",
        &[
            ("prepared p-1/x#2@b s1", "active: x=running@a#1>b#2 stopping"),
            ("end p-1/x#1@a ok", "succeeded: x=succeeded -b#2"),
        ],
    );
    // A stop during a move ends both.
    let mut play = job();
    play.table(
        "p-1",
        &[
            (ahead, "active: x=running@a#1>b#2 copying ahead"),
            ("stop p-1/x", "active: x=running@a#1! -b#2"),
            ("end p-1/x#1@a stopped", "stopped: x=stopped -b#2"),
        ],
    );
    // A job that began there and failed has moved, and failed there.
    let mut play = job();
    play.step(ahead);
    play.step("copied p-1/x#1@a 1 s1 9");
    play.step("prepared p-1/x#2@b s1");
    play.step("end p-1/x#1@a stopped left=s2");
    play.table("p-1", &[("end p-1/x#2@b failed", "failed: x=failed")]);
    assert_eq!(last(&play).undone, None);
}

#[test]
fn a_job_without_checkpoints_begins_anew_only_if_asked() {
    let mut play = job();
    play.table(
        "p-1",
        &[
            ("move p-1/x b", "active: x=running@a#1>b#2 copying ahead"),
            ("prepared p-1/x#2@b", "active: x=running@a#1>b#2 copying ahead"),
            ("copied p-1/x#1@a 1", "active: x=running@a#1 -b#2"),
        ],
    );
    let why = last(&play).undone.clone().unwrap();
    assert!(why.contains("--method restart"), "{why}");
    play.table(
        "p-1",
        &[
            ("end p-1/x#2@b stopped", "active: x=running@a#1"),
            ("move p-1/x b restart", "active: x=running@a#1>b#3 copying ahead"),
            ("prepared p-1/x#3@b", "active: x=running@a#1>b#3 stopping"),
            ("end p-1/x#1@a stopped left=s1", "active: x=placed@b#3>b#3 landing"),
        ],
    );
    assert_eq!(order_state(&play, "b"), None);
}

#[test]
fn a_downtime_that_can_t_be_kept_is_said_before_anything_stops() {
    let mut play = job();
    play.step("move p-1/x b downtime=1");
    // A link of 12.5 MB/s, as none was measured; each round brings as much as the one before.
    for round in 1..=3 {
        play.step(&format!("copied p-1/x#1@a {round} s{round} 900000000"));
        play.step("wait 1");
        play.step(&format!("prepared p-1/x#2@b s{round}"));
    }
    assert!(play.how("p-1").starts_with("p-1 active: x=running@a#1"), "{}", play.how("p-1"));
    let why = last(&play).undone.clone().unwrap();
    assert!(why.contains("at most 1.0 s was asked for"), "{why}");
}

#[test]
fn what_forbids_a_move_is_named() {
    let check = |play: &mut Play, to: &str, how: &[&str], expected: &str| match play.try_move("p-1/x", to, how) {
        Err(Refusal::CantMove { rule, .. }) => assert_eq!(rule, expected),
        other => panic!("{expected}: {other:?}"),
    };
    let mut play = job();
    check(&mut play, "a", &[], "same-site");
    check(&mut play, "b", &["switch"], "method");
    assert!(matches!(play.try_move("p-1/x", "nowhere", &[]), Err(Refusal::NoSite(_))));
    play.step("drain b");
    check(&mut play, "b", &[], "draining");
    play.step("undrain b");
    play.step("silence b");
    play.step("wait 20");
    check(&mut play, "b", &[], "unreachable");
    play.step("hear b");
    play.step("move p-1/x b");
    check(&mut play, "b", &[], "moving");
    play.step("call-off p-1/x");
    play.step("end p-1/x#2@b stopped");
    play.step("stop p-1/x");
    check(&mut play, "b", &[], "stopping");
    play.step("end p-1/x stopped");
    check(&mut play, "b", &[], "over");

    let mut play = service("single");
    check(&mut play, "b", &["switch"], "method");

    // Room and rules.
    let mut play = Play::new(&["a cpus=4", "b cpus=4", "c cpus=1"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret", "y site=b cpus=3", "z site=a cpus=2"]);
    for step in ["start p-1/x", "start p-1/y", "start p-1/z"] {
        play.step(step);
    }
    check(&mut play, "b", &[], "residency");
    match play.try_move("p-1/z", "b", &[]) {
        Err(Refusal::CantMove { rule, .. }) => assert_eq!(rule, "selector"),
        other => panic!("{other:?}"),
    }
    play.world.workloads.get_mut(&id("p-1/z")).unwrap().spec.site = None;
    for to in ["b", "c"] {
        match play.try_move("p-1/z", to, &[]) {
            Err(Refusal::CantMove { rule, .. }) => assert_eq!(rule, "capacity", "{to}"),
            other => panic!("{to}: {other:?}"),
        }
    }
    play.within_capacity();
}

#[test]
fn the_state_stays_where_its_inputs_may_be() {
    let mut play = Play::new(&["a cpus=4", "b cpus=4"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret"]);
    play.step("start p-1/x");
    play.step("end p-1/x lost left=s1");
    assert_eq!(play.residency("s1"), "a");
}
