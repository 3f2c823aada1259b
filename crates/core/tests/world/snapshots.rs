//! Copies that are taken while nothing moves: when, where they are brought, what is kept, and what a failover goes on from.

use std::collections::BTreeSet;

use tombolo_core::sync::{Intent, Report};
use tombolo_core::world::{Came, LEFT_FOR};
use tombolo_core::{Epoch, Residency, Selector, VersionId};

use crate::play::{Play, id, site, version};

const JOB: &str = "x state=60 failover=30";

/// A job that runs at `a`, of which a copy is taken each minute.
fn play() -> Play {
    let mut play = Play::new(&["a cpus=4 price=1", "b cpus=4 price=2", "c cpus=4 price=3"]);
    play.submit("p-1", &[JOB]);
    play.table("p-1", &[("accept p-1/x", "active: x=preparing@a#1"), ("start p-1/x", "active: x=running@a#1")]);
    play
}

fn copies(play: &Play, at: &str) -> usize {
    play.world.desired(&site(at), &[]).copies.len()
}

fn held(play: &Play, at: &str) -> Vec<VersionId> {
    play.world.desired(&site(at), &[]).holds.into_iter().map(|hold| hold.version).collect()
}

fn kept(play: &Play) -> Vec<VersionId> {
    play.world.workloads[&id("p-1/x")].snapshots.kept.iter().map(|kept| kept.version).collect()
}

/// What the placement at a site begins with.
fn begins_with(play: &Play, at: &str) -> Option<VersionId> {
    play.world.desired(&site(at), &[]).assignments.iter().find_map(|one| match &one.intent {
        Intent::Run(order) => Some(order.state),
        Intent::Prepare(_) | Intent::Stop => None,
    })?
}

#[test]
fn a_copy_is_taken_each_time_and_brought_to_the_next_best_site() {
    let mut play = play();
    play.step("wait 59");
    assert_eq!(copies(&play, "a"), 0);
    play.step("wait 1");
    assert_eq!((copies(&play, "a"), copies(&play, "b")), (1, 0));
    // It takes as long as it takes, and no other is asked for meanwhile.
    play.step("wait 30");
    assert_eq!(play.world.workloads[&id("p-1/x")].snapshots.asked, 1);
    play.step("snapshot a s1 1000");
    assert_eq!(copies(&play, "a"), 0);
    assert_eq!((held(&play, "b"), held(&play, "c")), (vec![version("s1")], vec![]), "the second choice");
    play.step("has b s1");
    play.step("wait 60");
    play.step("snapshot a s2 100");
    assert_eq!(kept(&play), [version("s1"), version("s2")], "until the newer one is there too");
    play.step("has b s2");
    assert_eq!(kept(&play), [version("s2")]);
    assert!(play.unnamed.contains(&version("s1")) && !play.unnamed.contains(&version("s2")), "{:?}", play.unnamed);
    let copied = play.world.workloads[&id("p-1/x")].copied.unwrap();
    assert!((copied.change_bytes_per_s.unwrap() - 100.0 / 60.0).abs() < 0.01, "{copied:?}");
    // What did its work goes on from nothing.
    play.step("end p-1/x ok");
    assert!(play.unnamed.contains(&version("s2")));
    assert_eq!((held(&play, "b"), copies(&play, "a")), (vec![], 0));
}

/// What changes now and then does not stand still because two copies came between two changes.
#[test]
fn the_rate_of_change_is_of_all_that_copies_have_spanned() {
    let mut play = play();
    let rate = |play: &Play| play.world.workloads[&id("p-1/x")].copied.unwrap().change_bytes_per_s;
    let expected = [("s1 1000", None), ("s2 600", Some(10.0)), ("s3 0", Some(4.83)), ("s4 0", Some(3.10))];
    for (copy, expected) in expected {
        play.step("wait 60");
        play.step(&format!("snapshot a {copy}"));
        let off = rate(&play).unwrap_or(0.0) - expected.unwrap_or(0.0);
        assert!(rate(&play).is_some() == expected.is_some() && off.abs() < 0.01, "{copy}: {:?}", rate(&play));
    }
}

/// A grant names the size, so that a wrong one would have the state refused.
#[test]
fn what_was_left_has_the_size_that_is_told_and_not_the_last_copys() {
    let left = |how: &str| {
        let mut play = play();
        play.step("wait 60");
        play.step("snapshot a s1 1000");
        play.step(&format!("end p-1/x {how}"));
        play.world.versions[&version("s2")].bytes
    };
    assert_eq!((left("checkpointed left=s2 bytes=7"), left("checkpointed left=s2")), (7, 0));
}

/// Where its site dies, nobody else may have the code and the inputs.
#[test]
fn a_copy_comes_with_all_that_is_needed_to_go_on_from_it() {
    let mut play = Play::new(&["a cpus=4 price=1", "b cpus=4 price=2"]);
    play.know("raw", None, &["a"]);
    play.submit("p-1", &[&format!("{JOB} in=raw")]);
    play.table("p-1", &[("accept p-1/x", "active: x=preparing@a#1"), ("start p-1/x", "active: x=running@a#1")]);
    play.step("wait 60");
    play.step("snapshot a s1");
    let holds = play.world.desired(&site("b"), &[]).holds;
    let code = play.world.runs[&id("p-1/x").run].code;
    assert_eq!((holds.len(), holds[0].version), (1, version("s1")));
    assert_eq!(BTreeSet::from_iter(holds[0].beside.clone()), BTreeSet::from([code, version("raw")]));
    // A rule that came since: nothing of it goes there.
    let raw = play.world.versions.get_mut(&version("raw")).unwrap();
    raw.residency = Residency::keep_at(Selector::site(site("a")));
    assert!(held(&play, "b").is_empty());
}

#[test]
fn torn_and_failed_copies_change_nothing_that_is_kept() {
    let mut play = play();
    play.step("wait 60");
    play.step("snapshot a s1");
    play.step("wait 60");
    play.step("snapshot a s2 5 torn");
    assert_eq!((kept(&play), held(&play, "b")), (vec![version("s1")], vec![version("s1")]));
    assert!(play.unnamed.contains(&version("s2")));
    play.step("wait 60");
    play.step("snapshot a failed");
    assert_eq!((kept(&play), copies(&play, "a")), (vec![version("s1")], 0));
    play.step("wait 60");
    assert_eq!(copies(&play, "a"), 1, "it is tried again the next time");
}

#[test]
fn a_failover_goes_on_from_the_newest_copy_that_is_in_reach() {
    let mut play = play();
    for (copy, there) in [("s1", true), ("s2", true), ("s3", false)] {
        play.step("wait 60");
        play.step(&format!("snapshot a {copy} 10"));
        if there {
            play.step(&format!("has b {copy}"));
        }
    }
    play.step("silence a");
    play.step("wait 60");
    assert_eq!(play.how("p-1"), "p-1 active: x=placed@b#2");
    assert_eq!(begins_with(&play, "b"), Some(version("s2")), "the third never left a");
    let stays = play.world.stays(&play.world.workloads[&id("p-1/x")], play.now);
    assert!(matches!(&stays[1].came, Came::FailedOver { from, .. } if *from == site("a")), "{stays:#?}");
}

#[test]
fn who_did_not_ask_to_be_started_elsewhere_waits_for_its_newest_state() {
    let mut play = Play::new(&["a cpus=4 price=1", "b cpus=4 price=2"]);
    play.submit("p-1", &["x state=60"]);
    play.step("start p-1/x");
    for copy in ["s1", "s2"] {
        play.step("wait 60");
        play.step(&format!("snapshot a {copy} 10"));
    }
    play.step("has b s1");
    play.step("silence a");
    play.step("wait 600");
    assert_eq!(play.how("p-1"), "p-1 active: x=running@a#1");
    assert_eq!(begins_with(&play, "a"), Some(version("s2")));
}

#[test]
fn a_copy_is_where_its_workloads_inputs_may_be() {
    let mut play = Play::new(&["a cpus=4 price=1", "b cpus=4 price=2", "c cpus=4 price=3"]);
    play.know("d", None, &["a", "c"]);
    let may = [Selector::site(site("a")), Selector::site(site("c"))].into_iter().flat_map(|selector| selector.0);
    play.world.versions.get_mut(&version("d")).unwrap().residency = Residency::keep_at(Selector(may.collect()));
    play.submit("p-1", &["x state=60 in=d"]);
    play.step("start p-1/x");
    play.step("wait 60");
    play.step("snapshot a s1");
    assert_eq!((held(&play, "b"), held(&play, "c")), (vec![], vec![version("s1")]));
    assert!(play.world.may_be_at(&version("s1"), &site("b")).is_err());
}

#[test]
fn a_move_takes_the_place_of_a_copy_and_a_copy_outlasts_an_undone_move() {
    let mut play = play();
    play.step("wait 60");
    assert_eq!(copies(&play, "a"), 1);
    play.step("move p-1/x c");
    assert_eq!(copies(&play, "a"), 1, "the round's");
    play.step("copied p-1/x#1@a 1 s1 10");
    play.step("call-off p-1/x");
    play.step("wait 60");
    // After all that the move has asked for, though its epoch is the newest.
    let turn = play.world.desired(&site("a"), &[]).copies[0].turn;
    assert!(turn > (Epoch(2), 12), "{turn:?}");
    play.step("snapshot a s2 10");
    assert_eq!(play.world.workloads[&id("p-1/x")].state_dir, Some(version("s2")));
}

#[test]
fn what_a_workload_has_left_elsewhere_goes_once_it_has_run_for_a_while() {
    let mut play = play();
    for step in ["move p-1/x c", "prepared p-1/x#2@c", "copied p-1/x#1@a 1 s1 10", "prepared p-1/x#2@c s1"] {
        play.step(step);
    }
    play.step("end p-1/x#1@a checkpointed left=s2");
    play.step("start p-1/x#2@c");
    let left = vec![(id("p-1/x"), Epoch(1))];
    let told = |play: &mut Play, at: &str| {
        play.world.report(&site(at), &Report { left: left.clone(), ..Report::default() }, play.now);
        play.world.decide(play.now);
        play.world.desired(&site(at), &[]).forget
    };
    assert_eq!(told(&mut play, "a"), []);
    play.step(&format!("wait {}", LEFT_FOR.0 / 1000 - 1));
    assert_eq!(told(&mut play, "a"), [], "it may yet have to come back");
    play.step("wait 2");
    assert_eq!(told(&mut play, "a"), left);
    // Whatever a site says, what is there stays.
    assert_eq!(told(&mut play, "c"), []);
    play.step("end p-1/x#2@c ok");
    assert_eq!(told(&mut play, "c"), left);
}

#[test]
fn stays_tell_why_each_began() {
    let mut play = play();
    for step in ["move p-1/x c", "prepared p-1/x#2@c", "copied p-1/x#1@a 1 s1 10", "prepared p-1/x#2@c s1"] {
        play.step(step);
    }
    play.step("end p-1/x#1@a checkpointed left=s2");
    play.step("start p-1/x#2@c");
    play.step("wait 10");
    let stays = play.world.stays(&play.world.workloads[&id("p-1/x")], play.now);
    let told: Vec<_> =
        stays.iter().map(|stay| (stay.site.as_str(), stay.to.is_some(), stay.came.to_string())).collect();
    assert_eq!(told, [("a", true, "placed".to_owned()), ("c", false, "moved from a by ann".to_owned())]);
    assert!(stays[1].cost > 0.0, "what lasts costs already: {stays:?}");
}

#[test]
fn a_quote_knows_what_is_there_and_learns_what_the_program_takes() {
    let mut play = play();
    play.step("wait 60");
    play.step("snapshot a s1 1000");
    play.step("has c s1");
    play.step("wait 60");
    play.step("snapshot a s2 60");
    let wish = |to: &str| tombolo_core::moving::Wish {
        to: site(to),
        method: None,
        deadline: None,
        max_downtime: None,
        by: "ann".to_owned(),
        why: None,
        cause: tombolo_core::draining::Cause::Asked,
    };
    let quote = |play: &Play, to: &str| play.world.quote_move(&id("p-1/x"), &wish(to), play.now).unwrap().1;
    let (to_b, to_c) = (quote(&play, "b"), quote(&play, "c"));
    assert!(to_b.bytes >= 1000, "{to_b:?}");
    assert!(to_c.bytes < 100, "the state of a minute ago is there: {to_c:?}");
    for step in ["move p-1/x c", "prepared p-1/x#2@c", "copied p-1/x#1@a 1 s3 10", "prepared p-1/x#2@c s3"] {
        play.step(step);
    }
    play.step("wait 4");
    play.step("end p-1/x#1@a checkpointed left=s4");
    play.step("wait 3");
    play.step("start p-1/x#2@c");
    play.step("wait 1");
    let back = quote(&play, "a");
    assert_eq!((back.save.0, back.start.0 > 2_000, back.downtime.0 > 6_000), (4_000, true, true), "{back:?}");
}
