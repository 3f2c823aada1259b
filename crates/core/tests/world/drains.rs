//! Sites that are left and opened again: who goes where in which order, what stays and why, and that it goes on whatever
//! dies meanwhile.

use tombolo_core::Timestamp;
use tombolo_core::draining::{Cause, DrainWish};
use tombolo_core::world::{Refusal, WorkloadRecord, World};

use crate::play::{Play, id, site};

/// Sites in which a, the first, has all these, running: services of p-1 and jobs of q-1.
fn at_a(sites: &[&str], lines: &[&str]) -> Play {
    let mut play = Play::new(sites);
    let pinned: Vec<String> = lines.iter().map(|line| format!("{line} site=a")).collect();
    let (services, jobs): (Vec<&str>, Vec<&str>) =
        pinned.iter().map(String::as_str).partition(|line| line.contains(" service"));
    for (run, lines) in [("p-1", services), ("q-1", jobs)] {
        if !lines.is_empty() {
            play.submit(run, &lines);
        }
    }
    let ids: Vec<_> = play.world.workloads.keys().cloned().collect();
    for id in ids {
        let record = play.world.workloads.get_mut(&id).unwrap();
        record.spec.site = None;
        let word = if record.spec.service().is_some() { "ready" } else { "start" };
        play.step(&format!("{word} {id}"));
    }
    play
}

/// What the plan of a drain has, as `w -> b switch`, and what stays, as `w: rule`.
fn planned(play: &Play, at: &str) -> (Vec<String>, Vec<String>) {
    let plan = play.world.drain_plan(&site(at), false, play.now).unwrap();
    let moves = plan.moves.iter().map(|one| format!("{} -> {} {}", one.workload.name, one.to, one.method.word()));
    let stays = plan.stays.iter().map(|(id, stay)| format!("{}: {}", id.name, stay.rule));
    (moves.collect(), stays.collect())
}

fn stays(play: &Play, at: &str) -> Vec<String> {
    let drain = play.world.sites[&site(at)].drain.as_ref().unwrap();
    drain.stays.iter().map(|(id, stay)| format!("{}: {}", id.name, stay.rule)).collect()
}

fn ended(play: &Play, at: &str) -> bool {
    !play.world.sites[&site(at)].drain.as_ref().unwrap().lasts()
}

/// Carries every move that is under way one step on, as sites would that are well. Jobs have left state but for those of
/// the given names.
fn carry(play: &mut Play, stateless: &[&str]) {
    let moving: Vec<_> = play.world.moves().map(|record| record.id.clone()).collect();
    for id in moving {
        let record = play.world.workloads[&id].clone();
        let Some(moving) = record.moving.clone() else { continue };
        if play.silent.contains(&moving.to) {
            continue;
        }
        let (there, here) = (format!("{id}#{}@{}", moving.epoch, moving.to), format!("{id}#{}", record.epoch));
        let round = moving.rounds.len();
        match moving.stage.word() {
            "copying ahead" if moving.rounds.last().is_some_and(|round| round.taken.is_none()) => {
                let state = match stateless.contains(&id.name.as_str()) || record.spec.service().is_some() {
                    true => String::new(),
                    false => format!("{} 1", state_of(id.name.as_str())),
                };
                play.step(&format!("copied {here}@{} {round} {state}", moving.from));
            }
            "copying ahead" => {
                let state = match moving.ahead().is_some() {
                    true => state_of(id.name.as_str()),
                    false => String::new(),
                };
                play.step(&format!("prepared {there} {state}"));
            }
            "starting beside" => play.step(&format!("ready {there}")),
            "stopping" => play.step(&format!("end {here}@{} checkpointed", moving.from)),
            "landing" if record.spec.service().is_some() => play.step(&format!("ready {there}")),
            "landing" => play.step(&format!("start {there}")),
            _ => play.step(&format!("start {here}@{}", moving.from)),
        }
    }
    let all = play.world.workloads.values();
    let leaving: Vec<_> =
        all.flat_map(|one| one.leaving.iter().map(|leaving| (one.id.clone(), leaving.clone()))).collect();
    for (id, leaving) in leaving {
        if !play.silent.contains(&leaving.site) {
            play.see_end(&format!("{id}#{}@{}", leaving.epoch, leaving.site));
        }
    }
    play.settle();
    play.within_capacity();
}

fn state_of(name: &str) -> String {
    format!("s-{name}")
}

fn carry_until(play: &mut Play, stateless: &[&str], done: impl Fn(&Play) -> bool) {
    for _ in 0..200 {
        if done(play) {
            return;
        }
        carry(play, stateless);
        play.step("wait 1");
    }
    panic!("{}", play.how("p-1"));
}

/// The world as a new process has it, from what is stored.
fn reload(play: &mut Play) {
    let old = std::mem::take(&mut play.world);
    let mut world = World::default();
    world.awake = play.now;
    world.wall_ahead_ms = old.wall_ahead_ms;
    world.links = old.links.clone();
    world.versions = old.versions.clone();
    world.history = old.history.clone();
    world.sites = old.sites.clone();
    world.runs = old.runs.clone();
    world.workloads = old.workloads.clone();
    world.forget_questions();
    play.world = world;
    play.settle();
}

#[test]
fn a_site_is_left_in_the_order_of_dependencies() {
    let mut play = Play::new(&["a cpus=20", "b cpus=20"]);
    play.submit(
        "p-1",
        &[
            "x site=a out=o",
            "y site=a in=o out=q",
            "late in=q site=a prio=9",
            "s service site=a",
            "t service single site=a prio=3",
        ],
    );
    for name in ["x", "y", "late", "s", "t"] {
        play.world.workloads.get_mut(&id(&format!("p-1/{name}"))).unwrap().spec.site = None;
    }
    // Nothing is there but the first: the rest is placed elsewhere in its turn.
    play.step("start p-1/x");
    assert_eq!(planned(&play, "a").0, ["x -> b checkpoint"]);
    play.step("end p-1/x ok");
    play.step("start p-1/y");
    play.step("end p-1/y ok");
    assert_eq!(planned(&play, "a").0, ["late -> b checkpoint"], "it is placed, and not begun");
    play.step("start p-1/late");
    play.step("leave a");
    assert_eq!(play.world.workloads[&id("p-1/late")].moving.as_ref().unwrap().cause, Cause::Drain);
    carry_until(&mut play, &[], |play| ended(play, "a"));
    play.step("end p-1/late ok");
    assert!(play.how("p-1").contains("s=placed@b") && play.how("p-1").contains("t=placed@b"), "{}", play.how("p-1"));

    let play = at_a(&["a cpus=20", "b cpus=20"], &["s service", "t service single prio=3", "big service cpus=5", "j"]);
    // Of what depends on nothing else the more important goes first, then the larger.
    assert_eq!(planned(&play, "a").0, ["t -> b checkpoint", "big -> b switch", "s -> b switch", "j -> b checkpoint"]);
}

#[test]
fn everything_leaves_and_the_drain_is_over() {
    let mut play = at_a(&["a cpus=20", "b cpus=2", "c cpus=3"], &["s service", "t service single", "j", "k"]);
    play.step("leave a");
    let under_way = play.world.moves().count();
    assert_eq!(under_way, 4, "two over each link, as nobody has measured them");
    carry_until(&mut play, &[], |play| ended(play, "a"));
    let drain = play.world.sites[&site("a")].drain.clone().unwrap();
    assert_eq!((drain.of.len(), drain.stays.len()), (4, 0));
    for name in ["p-1/s", "p-1/t", "q-1/j", "q-1/k"] {
        let record = &play.world.workloads[&id(name)];
        assert_ne!(record.state.site(), Some(&site("a")));
        let last = record.moves.last().unwrap();
        assert_eq!((last.cause, last.why.as_deref()), (Cause::Drain, Some("a is drained by ann")));
        assert_eq!(record.away_from, Some(site("a")));
    }
    // New work isn't placed there, nor moved.
    play.submit("p-2", &["n cpus=10"]);
    assert!(play.why("p-2/n").contains("a: is draining"), "{}", play.why("p-2/n"));
    play.step("stop p-1");
    assert!(matches!(play.try_move("p-1/s", "a", &[]), Err(Refusal::CantMove { rule: "stopping" | "over", .. })));
}

#[test]
fn a_plan_keeps_to_capacity_and_packs_well() {
    // Only together do they fit: the large one has to have the large room.
    let play = at_a(&["a cpus=20", "b cpus=4", "c cpus=2"], &["big service cpus=4", "x service", "y service"]);
    let (moves, stays) = planned(&play, "a");
    assert!(stays.is_empty() && moves[0] == "big -> b switch", "{moves:?} {stays:?}");
    let play = at_a(
        &["a cpus=20", "b cpus=2", "c cpus=1"],
        &["big service cpus=4", "x service", "y service", "z service", "u service"],
    );
    let (moves, stays) = planned(&play, "a");
    assert_eq!((moves.len(), stays.len()), (3, 2), "{moves:?} {stays:?}");
    assert!(stays.iter().all(|stay| stay.ends_with(": capacity")), "{stays:?}");
}

#[test]
fn what_can_t_leave_is_named_with_its_rule() {
    let mut play = Play::new(&["a cpus=20", "b cpus=20"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret", "pinned service site=a", "n site=a"]);
    for step in ["start p-1/x", "start p-1/n"] {
        play.step(step);
    }
    let (moves, rules) = planned(&play, "a");
    assert_eq!((moves.len(), rules), (0, vec!["n: selector".to_owned(), "x: residency".to_owned()]));
    play.step("leave a");
    play.step("wait 30");
    assert_eq!(stays(&play, "a"), ["n: selector", "x: residency"]);
    assert!(!ended(&play, "a"), "it is waited for");
    play.step("end p-1/n ok");
    play.step("end p-1/x ok");
    assert!(ended(&play, "a"));
    assert_eq!(stays(&play, "a"), [""; 0]);
    assert!(play.why("p-1/pinned").contains("a: is draining"), "{}", play.why("p-1/pinned"));
}

#[test]
fn jobs_without_state_are_left_to_end_unless_asked() {
    let mut play = at_a(&["a cpus=20", "b cpus=20"], &["j", "k"]);
    play.step("leave a deadline=100");
    carry_until(&mut play, &["j"], |play| play.world.workloads[&id("q-1/k")].state.site() == Some(&site("b")));
    for _ in 0..60 {
        carry(&mut play, &["j"]);
    }
    assert_eq!(stays(&play, "a"), ["j: no-state"]);
    // It is asked again for its state at times, and never stopped.
    for _ in 0..30 {
        play.step("wait 3");
        carry(&mut play, &["j"]);
        assert_eq!(play.world.workloads[&id("q-1/j")].state.site(), Some(&site("a")));
        assert_eq!(play.world.workloads[&id("q-1/j")].epoch.0, 1);
    }
    play.step("wait 60");
    assert!(ended(&play, "a"), "the deadline has passed");
    assert_eq!(stays(&play, "a"), ["j: no-state"]);
    assert!(play.how("q-1").contains("j=running@a#1"), "the drain ends, not the work: {}", play.how("p-1"));
    let before = play.world.workloads[&id("q-1/j")].moves.len();
    play.step("wait 400");
    assert_eq!(play.world.workloads[&id("q-1/j")].moves.len(), before, "and nothing is tried any more");
    // Asked for again with leave to begin anew.
    play.step("leave a restart");
    carry_until(&mut play, &["j"], |play| ended(play, "a"));
    assert!(play.how("q-1").contains("j=running@b"), "{}", play.how("p-1"));
}

#[test]
fn a_job_that_leaves_state_later_goes_later() {
    let mut play = at_a(&["a cpus=20", "b cpus=20"], &["j"]);
    play.step("leave a");
    carry(&mut play, &["j"]);
    carry(&mut play, &["j"]);
    assert_eq!(stays(&play, "a"), ["j: no-state"]);
    play.step("wait 61");
    carry_until(&mut play, &[], |play| ended(play, "a"));
    assert!(play.how("q-1").contains("j=running@b"), "{}", play.how("p-1"));
}

#[test]
fn it_goes_on_whatever_process_dies() {
    let mut play =
        at_a(&["a cpus=20", "b cpus=20"], &["s service", "t service single", "j", "k", "l service", "m service"]);
    play.step("leave a");
    for _ in 0..200 {
        if ended(&play, "a") {
            break;
        }
        reload(&mut play);
        carry(&mut play, &[]);
        reload(&mut play);
        play.step("wait 1");
    }
    assert!(ended(&play, "a"));
    for record in play.world.workloads.values() {
        assert_eq!(record.state.site(), Some(&site("b")));
        assert_eq!(record.moves.len(), 1, "each went once");
    }
}

#[test]
fn a_destination_that_dies_is_planned_around() {
    let lines = ["s service", "t service single", "j", "k", "l service", "m service"];
    let mut play = at_a(&["a cpus=20", "b cpus=20", "c cpus=20 price=9"], &lines);
    play.step("leave a");
    carry(&mut play, &[]);
    assert!(play.world.moves().all(|record| record.moving.as_ref().unwrap().to == site("b")));
    play.step("silence b");
    play.step("wait 16");
    carry_until(&mut play, &[], |play| ended(play, "a"));
    for record in play.world.workloads.values() {
        assert_eq!(record.state.site(), Some(&site("c")), "{}", play.how("p-1"));
        assert!(record.moves.iter().filter(|moved| moved.undone.is_none()).count() == 1);
    }
    // When it is back it has nothing of them.
    play.step("hear b");
    carry_until(&mut play, &[], |play| play.world.workloads.values().all(|record| record.leaving.is_empty()));
}

/// A destination where it never becomes ready is tried a few times, and then no more.
#[test]
fn what_fails_there_again_and_again_stays() {
    let mut play = at_a(&["a cpus=20", "b cpus=20"], &["s service"]);
    play.step("leave a");
    for _ in 0..60 {
        let moving = play.world.workloads[&id("p-1/s")].moving.clone();
        if let Some(moving) = moving {
            play.step(&format!("end p-1/s#{}@b failed", moving.epoch));
            play.step(&format!("end p-1/s#{}@b failed", moving.epoch));
        }
        play.step("wait 5");
    }
    assert_eq!(play.world.workloads[&id("p-1/s")].moves.len(), 3);
    assert_eq!(stays(&play, "a"), ["s: failed-there"]);
    assert_eq!(play.how("p-1"), "p-1 serving: s=ready@a#1");
}

#[test]
fn a_deadline_undoes_what_has_not_arrived() {
    let mut play = at_a(&["a cpus=20", "b cpus=20"], &["s service"]);
    play.step("leave a deadline=20");
    assert!(play.world.next_deadline().is_some());
    play.step("wait 21");
    assert_eq!(play.how("p-1"), "p-1 serving: s=ready@a#1 -b#2");
    assert!(ended(&play, "a"));
    play.step("wait 60");
    assert_eq!(play.world.workloads[&id("p-1/s")].moves.len(), 1, "nothing begins after it");
}

#[test]
fn what_is_asked_of_sites_has_an_answer() {
    let mut play = at_a(&["a cpus=20", "b cpus=20"], &["s service"]);
    let wish = || DrainWish { deadline: None, restart_jobs: false, by: "bob".to_owned() };
    let now = play.now;
    assert_eq!(play.world.drain(&site("x"), wish(), now), Err(Refusal::NoSite(site("x"))));
    assert_eq!(play.world.undrain(&site("x"), "bob", now), Err(Refusal::NoSite(site("x"))));
    assert_eq!(play.world.undrain(&site("a"), "bob", now), Err(Refusal::NotDraining(site("a"))));
    play.step("leave a deadline=500");
    let begun = play.world.sites[&site("a")].drain.clone().unwrap();
    play.step("wait 1");
    // Asked for again it is the same one.
    play.world.drain(&site("a"), wish(), play.now).unwrap();
    let again = play.world.sites[&site("a")].drain.clone().unwrap();
    assert_eq!((again.at, again.deadline, again.by.as_str()), (begun.at, begun.deadline, "bob"));
    assert_eq!(play.world.moves().count(), 1);
    // A move during a drain: it is moving, and nothing goes where all leaves.
    match play.try_move("p-1/s", "b", &[]) {
        Err(Refusal::CantMove { rule, .. }) => assert_eq!(rule, "moving"),
        other => panic!("{other:?}"),
    }
    // A stop during its move.
    play.step("stop p-1/s");
    assert_eq!(play.how("p-1"), "p-1 serving: s=ready@a#1! -b#2");
    assert_eq!(stays(&play, "a"), ["s: stopping"]);
    play.step("revoke b");
    assert_eq!(play.world.drain(&site("b"), wish(), now), Err(Refusal::Revoked(site("b"))));
    assert_eq!(play.world.undrain(&site("b"), "bob", now), Err(Refusal::Revoked(site("b"))));
}

#[test]
fn what_is_on_its_way_to_a_site_that_is_left_turns_round() {
    let mut play = at_a(&["a cpus=20", "b cpus=20", "c cpus=20 price=5"], &["s service"]);
    play.step("move p-1/s b");
    play.step("leave b");
    assert_eq!(play.how("p-1"), "p-1 serving: s=ready@a#1 -b#2");
    assert_eq!(play.world.workloads[&id("p-1/s")].moves.last().unwrap().undone.as_deref(), Some("b is drained"));
}

#[test]
fn opening_a_site_brings_home_what_belongs_there() {
    let lines = ["s service", "t service", "j takes=9000", "h service home=b", "soon takes=0"];
    let mut play = at_a(&["a cpus=20", "b cpus=20"], &lines);
    play.step("leave a");
    carry_until(&mut play, &[], |play| ended(play, "a"));
    // A person has moved one on: it is theirs now.
    play.step("open a");
    assert!(play.world.sites[&site("a")].drain.is_none());
    carry_until(&mut play, &[], |play| play.world.sites[&site("a")].homecoming.is_none());
    let how = play.how("p-1");
    assert!(how.contains("s=ready@a") && how.contains("t=ready@a"), "{how}");
    assert!(play.how("q-1").contains("j=running@a"), "{}", play.how("q-1"));
    assert!(how.contains("h=ready@a"), "the drain had moved it, though it is at home elsewhere: {how}");
    let last = play.world.workloads[&id("p-1/s")].moves.last().unwrap().clone();
    assert_eq!(last.cause, Cause::Home);
    let why = last.why.unwrap();
    assert!(why.starts_with("a was opened again by ann: a drain of a had moved it; saves $0.00"), "{why}");
    // Its home is opened.
    play.step("leave b");
    play.step("wait 1");
    play.step("open b");
    carry_until(&mut play, &[], |play| play.world.sites[&site("b")].homecoming.is_none());
    assert!(play.how("p-1").contains("h=ready@b"), "{}", play.how("p-1"));
    let why = play.world.workloads[&id("p-1/h")].moves.last().unwrap().why.clone().unwrap();
    assert_eq!(why, "b was opened again by ann: b is its home");
}

#[test]
fn what_is_cheaper_away_stays_away() {
    let mut play = at_a(&["a cpus=20 price=2", "b cpus=20 price=1"], &["s service", "h service home=a"]);
    play.step("leave a");
    carry_until(&mut play, &[], |play| ended(play, "a"));
    play.step("open a");
    carry_until(&mut play, &[], |play| play.world.sites[&site("a")].homecoming.is_none());
    let how = play.how("p-1");
    assert!(how.contains("s=ready@b") && how.contains("h=ready@a"), "{how}");
    assert_eq!(play.world.workloads[&id("p-1/s")].away_from, None, "it is at home where it is");
}

#[test]
fn opening_in_the_middle_calls_back_what_has_not_gone() {
    let mut play = at_a(&["a cpus=20", "b cpus=20"], &["s service", "j"]);
    play.step("leave a");
    assert_eq!(play.world.moves().count(), 2);
    play.step("open a");
    carry_until(&mut play, &[], |play| play.world.workloads.values().all(|record| record.leaving.is_empty()));
    assert_eq!(
        (play.how("p-1"), play.how("q-1")),
        ("p-1 serving: s=ready@a#1".into(), "q-1 active: j=running@a#1".into())
    );
}

/// Monday the fifth of January 1970 begins at 4 days.
fn monday(day: i64, hour: i64, minute: i64) -> Timestamp {
    Timestamp((((4 + day) * 24 + hour) * 60 + minute) * 60_000)
}

#[test]
fn a_label_leaves_and_opens_by_itself() {
    let mut play = at_a(&["a cpus=20", "b cpus=20"], &["s service"]);
    // Two hours ahead of UTC: midnight there is ten in the evening here.
    play.world.wall_ahead_ms = 2 * 3_600_000;
    let label = ("maintenance".to_owned(), "tue 00:00-04:00, sat 02:00-06:00".to_owned());
    play.world.edit_site(&site("a"), |record| record.info.labels.extend([label])).unwrap();
    let at = |play: &mut Play, now: Timestamp| {
        play.now = now;
        play.settle();
        play.settle();
    };
    at(&mut play, monday(0, 21, 44));
    assert!(!play.world.sites[&site("a")].draining);
    assert_eq!(play.world.next_deadline(), Some(monday(0, 21, 45)), "with the next minute");
    at(&mut play, monday(0, 21, 45));
    let drain = play.world.sites[&site("a")].drain.clone().unwrap();
    assert!(drain.maintenance && drain.by == "maintenance");
    carry_until(&mut play, &[], |play| ended(play, "a"));
    at(&mut play, monday(1, 1, 59));
    assert!(play.world.sites[&site("a")].draining);
    at(&mut play, monday(1, 2, 0));
    assert!(!play.world.sites[&site("a")].draining);
    carry_until(&mut play, &[], |play| play.world.sites[&site("a")].homecoming.is_none());
    assert!(play.how("p-1").contains("s=ready@a"), "{}", play.how("p-1"));

    // A person who opens it in the middle is minded until the time is over.
    at(&mut play, monday(5, 1, 0));
    assert!(play.world.sites[&site("a")].draining);
    play.step("open a");
    at(&mut play, monday(5, 2, 0));
    assert!(!play.world.sites[&site("a")].draining);
    at(&mut play, monday(5, 4, 1));
    assert!(!play.world.sites[&site("a")].unmaintained);
    // And what a person has closed is not opened by a label.
    play.step("leave a");
    at(&mut play, monday(8, 1, 0));
    at(&mut play, monday(8, 3, 0));
    assert!(play.world.sites[&site("a")].draining);
}

/// Random worlds are drained: no plan exceeds a site's room or leaves what its data are under.
#[test]
fn no_plan_exceeds_room_or_breaks_a_rule() {
    let mut seed = 1u64;
    let mut pick = |most: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % most
    };
    let (mut moved, mut stayed) = (0, 0);
    for _ in 0..150 {
        let sites: Vec<String> = std::iter::once("a cpus=200".to_owned())
            .chain((0..1 + pick(3)).map(|at| format!("{} cpus={}", ["b", "c", "d"][at as usize], 1 + pick(8))))
            .collect();
        let mut play = Play::new(&sites.iter().map(String::as_str).collect::<Vec<_>>());
        play.know("secret", Some("a"), &["a"]);
        play.know("open", None, &["a"]);
        // Something is there already.
        let held: Vec<String> = sites[1..].iter().map(|site| format!("h{0} service site={0}", &site[..1])).collect();
        play.submit("h-1", &held.iter().map(String::as_str).collect::<Vec<_>>());
        let lines: Vec<String> = (0..1 + pick(12))
            .map(|at| {
                let kind = ["", "service", "service single"][pick(3) as usize];
                let input = ["", "in=open", "in=open", "in=secret"][pick(4) as usize];
                format!("w{at} {kind} {input} cpus={} site=a", 1 + pick(4))
            })
            .collect();
        play.submit("p-1", &lines.iter().map(String::as_str).collect::<Vec<_>>());
        let ids: Vec<_> = play.world.workloads.keys().filter(|id| id.run.project().as_str() == "p").cloned().collect();
        for id in &ids {
            play.world.workloads.get_mut(id).unwrap().spec.site = None;
        }
        let plan = play.world.drain_plan(&site("a"), false, play.now).unwrap();
        let placed = ids.iter().filter(|id| play.world.workloads[*id].state.site().is_some()).count();
        assert_eq!(plan.moves.len() + plan.stays.len(), placed);
        for record in play.world.sites.values() {
            let here = plan.moves.iter().filter(|one| one.to == record.info.id);
            let need: u64 = here.map(|one| play.world.workloads[&one.workload].spec.resources.cpus_milli).sum();
            let held = play.world.free(record).cpus_milli;
            assert!(need <= held, "{}: {need} of {held}", record.info.id);
        }
        let read = |record: &WorkloadRecord| record.spec.inputs.values().any(|input| input.as_str() == "secret");
        let secret: Vec<_> = play.world.workloads.values().filter(|one| read(one)).map(|one| one.id.clone()).collect();
        assert!(plan.moves.iter().all(|one| !secret.contains(&one.workload)));
        (moved, stayed) = (moved + plan.moves.len(), stayed + plan.stays.len());
        // And it does as planned.
        play.step("leave a");
        for _ in 0..12 {
            carry(&mut play, &[]);
            for (id, record) in &play.world.workloads {
                assert!(!secret.contains(id) || record.sites().all(|at| *at == site("a")));
            }
        }
    }
    assert!(moved > 100 && stayed > 50, "{moved} {stayed}");
}
