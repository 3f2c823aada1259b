//! Sites that are silent, drained, revoked or too small, and what is said of them.

use crate::play::{Play, id, run, site, version};
use tombolo_core::placement;
use tombolo_core::world::Submission;
use tombolo_core::{Millis, Timestamp};

#[test]
fn silence_alone_moves_nothing() {
    let mut play = Play::new(&["a", "b"]);
    play.submit("p-1", &["x site=a", "y site=b"]);
    play.step("start p-1/x");
    play.step("silence a");
    play.table("p-1", &[("wait 3600", "active: x=running@a#1 y=placed@b#1")]);
    play.table("p-1", &[("end p-1/x ok", "active: x=succeeded y=placed@b#1")]);
}

/// The lease (20 s), the grace (5 s), 2% of both for a slow clock and 10 s to spare: 35.5 s of silence.
#[test]
fn failing_over_waits_for_the_lease_to_be_over_there() {
    let mut play = Play::new(&["a price=1", "b price=2"]);
    play.submit("p-1", &["x failover=20 out=o"]);
    play.step("start p-1/x");
    play.step("silence a");
    play.table(
        "p-1",
        &[
            ("wait 35", "active: x=running@a#1"),
            ("wait 1", "active: x=placed@b#2"),
            // The first site comes back with an end that nobody waits for any more.
            ("hear a", "active: x=placed@b#2"),
            ("end p-1/x#1@a ok", "active: x=placed@b#2"),
        ],
    );
    assert_eq!(play.told("a", &[("p-1/x", 1, true)]), ["settled p-1/x#1"]);
    assert_eq!(play.told("a", &[("p-1/x", 1, false)]), ["stop p-1/x#1"]);
    assert!(!play.world.versions.contains_key(&version("o")));
}

#[test]
fn one_word_of_the_site_begins_the_lease_anew() {
    let mut play = Play::new(&["a price=1", "b price=2"]);
    play.submit("p-1", &["x failover=20"]);
    play.table(
        "p-1",
        &[
            ("silence a", "active: x=placed@a#1"),
            ("wait 35", "active: x=placed@a#1"),
            ("hear a", "active: x=placed@a#1"),
            ("silence a", "active: x=placed@a#1"),
            ("wait 35", "active: x=placed@a#1"),
            ("wait 1", "active: x=placed@b#2"),
        ],
    );
}

#[test]
fn a_world_that_has_just_woken_up_takes_no_silence_for_proof() {
    let mut play = Play::new(&["a price=1", "b price=2"]);
    play.submit("p-1", &["x failover=20"]);
    play.step("silence a");
    // The control plane was away for an hour, with nobody's reports.
    play.now = play.now + Millis::from_secs(3600);
    play.world.awake = play.now;
    play.table("p-1", &[("wait 35", "active: x=placed@a#1"), ("wait 1", "active: x=placed@b#2")]);
}

#[test]
fn a_stop_that_the_site_never_heard_of_ends_with_the_lease() {
    let mut play = Play::new(&["a", "b"]);
    play.submit("p-1", &["x failover=20"]);
    play.step("silence a");
    play.table(
        "p-1",
        &[
            ("stop p-1", "active: x=placed@a#1!"),
            ("wait 35", "active: x=placed@a#1!"),
            ("wait 1", "stopped: x=stopped"),
        ],
    );
}

#[test]
fn next_deadline_is_when_something_happens_by_itself() {
    let mut play = Play::new(&["a", "b"]);
    assert_eq!(play.world.next_deadline(), None);
    play.submit("p-1", &["x failover=20"]);
    assert_eq!(play.world.next_deadline(), Some(play.now + Millis(35_500)));
    play.step("end p-1/x lost");
    assert_eq!(play.world.next_deadline(), Some(play.now + Millis(1_000)));
    play.step("wait 1");
    play.step("end p-1/x ok");
    assert_eq!(play.world.next_deadline(), None);
}

#[test]
fn a_draining_site_keeps_what_it_has_and_gets_nothing_more() {
    let mut play = Play::new(&["a price=1", "b price=2"]);
    play.submit("p-1", &["x", "y site=a retries=2"]);
    play.step("drain a");
    play.submit("p-2", &["x", "y site=a"]);
    play.table("p-1", &[("", "active: x=placed@a#1 y=placed@a#1")]);
    play.table("p-2", &[("", "active: x=placed@b#1 y=queued")]);
    assert_eq!(play.why("p-2/y"), "no site can have it (a: is draining; b: `site` asks for a)");
    play.table(
        "p-1",
        &[("end p-1/y failed", "active: x=placed@a#1 y=backoff"), ("wait 1", "active: x=placed@a#1 y=queued")],
    );
    play.table("p-1", &[("undrain a", "active: x=placed@a#1 y=placed@a#2")]);
    play.table("p-2", &[("", "active: x=placed@b#1 y=placed@a#1")]);
}

#[test]
fn a_revoked_site_says_and_gets_nothing() {
    let mut play = Play::new(&["a", "b"]);
    play.know("raw", None, &["b"]);
    play.submit("p-1", &["x site=a in=raw out=o"]);
    play.step("revoke a");
    play.table("p-1", &[("end p-1/x ok", "active: x=backoff")]);
    assert!(!play.world.versions.contains_key(&version("o")));
    assert_eq!(play.world.sources(&version("raw"), &site("a")).unwrap_err(), "site a is revoked");
    play.submit("p-2", &["x site=a"]);
    assert_eq!(play.why("p-2/x"), "no site can have it (a: is revoked; b: `site` asks for a)");
    // Nor is anything fetched from it.
    play.know("raw", None, &["a"]);
    play.world.drop_replica(&version("raw"), &site("b"));
    assert_eq!(play.world.sources(&version("raw"), &site("b")).unwrap(), []);
}

#[test]
fn why_there_is_no_place_is_said_site_by_site() {
    let check = |prepare: &dyn Fn(&mut Play), stage: &str, expected: &str| {
        let mut play = Play::new(&["a cpus=2", "b cpus=4"]);
        prepare(&mut play);
        play.submit("p-1", &[stage]);
        assert!(play.how("p-1").ends_with("x=queued"), "{}", play.how("p-1"));
        assert_eq!(play.why("p-1/x"), expected);
    };
    check(&|_| {}, "x cpus=8", "no site can have it (a: needs 8 cpus, has 2; b: needs 8 cpus, has 4)");
    check(&|_| {}, "x site=c", "no site can have it (a: `site` asks for c; b: `site` asks for c)");
    check(
        &|play| play.know("raw", Some("a"), &["a"]),
        "x in=raw cpus=3",
        "no site can have it (a: needs 3 cpus, has 2; b: raw may only be at a)",
    );
    check(
        &|play| {
            play.know("raw", None, &["a"]);
            play.step("silence a");
            play.step("wait 16");
        },
        "x in=raw cpus=3",
        "no site can have it (a: needs 3 cpus, has 2; b: no reachable site has raw)",
    );
    check(
        &|play| {
            play.submit("q-1", &["s service cpus=4 site=b", "t service cpus=2 site=a"]);
        },
        "x cpus=2 site=b",
        "no site can have it (a: `site` asks for b; b: is full, and what runs there is not known to end)",
    );
    let mut play = Play::new(&[]);
    play.world.versions.insert(
        version("code"),
        tombolo_core::world::VersionRecord {
            bytes: 0,
            files: 0,
            residency: Default::default(),
            made_by: None,
            given: Default::default(),
            facts: Default::default(),
            at: Timestamp(0),
            replicas: Default::default(),
        },
    );
    play.submit("p-1", &["x"]);
    assert_eq!(play.why("p-1/x"), "there is no site yet");
}

#[test]
fn what_waits_for_a_site_is_placed_when_it_comes() {
    let mut play = Play::new(&["a"]);
    play.step("silence a");
    play.step("wait 20");
    play.submit("p-1", &["x"]);
    play.table("p-1", &[("wait 5", "active: x=queued"), ("hear a", "active: x=placed@a#1")]);
}

#[test]
fn what_if_says_what_a_submission_would_do() {
    let mut play = Play::new(&["a cpus=1 price=1", "b cpus=1 price=2"]);
    play.submit("p-1", &["x takes=600"]);
    let submission = Submission {
        id: run("p-2"),
        spec: crate::play::project("p", &["y takes=10 out=o", "z in=o takes=10 site=b"]),
        code: version("code"),
        data: Default::default(),
        by: "ann".into(),
        force: false,
    };
    let mut copy = play.world.clone();
    let problem = copy.what_if(submission, Some(tombolo_core::spec::Objective::Time), play.now).unwrap();
    let plan = placement::plan(&problem);
    let places: Vec<_> = plan.placements.iter().map(|p| format!("{}@{}", p.task, p.site().unwrap())).collect();
    assert_eq!(places, ["y@b", "z@b"]);
    assert_eq!(plan.makespan, Millis(20_000));
}

#[test]
fn what_was_at_a_revoked_site_can_be_stopped() {
    let mut play = Play::new(&["a", "b"]);
    play.submit("p-1", &["x site=a"]);
    play.step("start p-1/x");
    play.step("revoke a");
    play.table("p-1", &[("stop p-1", "stopped: x=stopped"), ("retire", "is not live")]);
}

#[test]
fn a_stage_pinned_to_a_revoked_site_says_so() {
    let mut play = Play::new(&["a", "b"]);
    play.step("revoke a");
    play.submit("p-1", &["x site=a"]);
    assert!(play.why("p-1/x").contains("a: is revoked"), "{}", play.why("p-1/x"));
}

#[test]
fn a_revoked_site_is_told_nothing() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x"]);
    play.step("revoke a");
    assert_eq!(play.told("a", &[]), [""; 0]);
}

#[test]
fn a_site_heard_of_in_the_future_is_not_reachable_now() {
    let mut play = Play::new(&["a"]);
    play.step("silence a");
    // A control plane that starts again after its machine's clock was set back by a day.
    play.world.sites.get_mut(&site("a")).unwrap().heard = Some(play.now + Millis::from_secs(86_400));
    play.world.awake = play.now;
    play.submit("p-1", &["x failover=20"]);
    play.table("p-1", &[("wait 60", "active: x=queued")]);
    assert_eq!(play.world.workloads[&id("p-1/x")].attempts.len(), 0);
}

#[test]
fn a_lease_does_not_run_from_the_future() {
    let mut play = Play::new(&["a price=1", "b price=2"]);
    play.submit("p-1", &["x failover=20"]);
    play.step("silence a");
    play.world.sites.get_mut(&site("a")).unwrap().heard = Some(play.now + Millis::from_secs(86_400));
    play.world.awake = play.now;
    play.table("p-1", &[("wait 36", "active: x=placed@b#2")]);
}
