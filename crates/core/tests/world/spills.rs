//! Work that would rather be somewhere: it spills over when it waits too long there, and goes back when there is room.

use tombolo_core::draining::Cause;
use tombolo_core::world::SiteRecord;

use crate::play::{Play, id, site};

#[test]
fn queued_work_spills_over_when_it_has_waited() {
    let mut play = Play::new(&["a cpus=2", "b cpus=20", "c cpus=20"]);
    play.submit("h-1", &["hold service cpus=2 site=a"]);
    play.step("ready h-1/hold");
    play.submit("p-1", &["x prefer=a burst=b after=60"]);
    play.step("wait 59");
    assert_eq!(play.how("p-1"), "p-1 active: x=queued");
    let why = play.why("p-1/x");
    assert!(why.contains("b: is for when it has to wait more than 1 min 0 s elsewhere"), "{why}");
    assert!(why.contains("c: `site` asks for a or b"), "{why}");
    play.step("wait 12");
    assert_eq!(play.how("p-1"), "p-1 active: x=placed@b#1");

    // Without a word of where it may go it goes wherever it may be; and where there is room it never waits.
    let mut play = Play::new(&["a cpus=2 price=9", "b cpus=20"]);
    play.submit("p-1", &["x prefer=a after=60 cpus=2"]);
    assert_eq!(play.how("p-1"), "p-1 active: x=placed@a#1");
    play.submit("q-1", &["y prefer=a after=60"]);
    play.step("wait 30");
    assert_eq!(play.how("q-1"), "q-1 active: y=queued");
}

#[test]
fn a_long_queue_is_not_waited_for() {
    let mut play = Play::new(&["a cpus=2", "b cpus=20"]);
    play.submit("h-1", &["hold cpus=2 site=a takes=9000"]);
    play.step("start h-1/hold");
    play.submit("p-1", &["x prefer=a burst=b after=600"]);
    play.step("wait 11");
    assert_eq!(play.how("p-1"), "p-1 active: x=placed@b#1", "it would wait for hours");
    // One that is about to end is waited for.
    let mut play = Play::new(&["a cpus=2", "b cpus=20"]);
    play.submit("h-1", &["hold cpus=2 site=a takes=300"]);
    play.step("start h-1/hold");
    play.submit("p-1", &["x prefer=a burst=b after=600"]);
    play.step("wait 60");
    assert_eq!(play.how("p-1"), "p-1 active: x=queued");
    play.step("end h-1/hold ok");
    assert_eq!(play.how("p-1"), "p-1 active: x=placed@a#1");
}

/// A service that had spilled over to b, as a was full.
fn spilled(sites: &[&str], words: &str) -> Play {
    let mut play = Play::new(sites);
    play.submit("h-1", &["hold service cpus=2 site=a"]);
    play.step("ready h-1/hold");
    play.submit("p-1", &[&format!("x service prefer=a burst=b after=60 {words}")]);
    play.step("wait 71");
    play.step("ready p-1/x");
    assert_eq!(play.how("p-1"), "p-1 serving: x=ready@b#1");
    play
}

/// Brings the move that is under way, if there is one, to its end.
fn arrive(play: &mut Play) {
    let record = play.world.workloads[&id("p-1/x")].clone();
    let Some(moving) = record.moving else { return };
    play.step(&format!("copied p-1/x#{}@{} 1", record.epoch, moving.from));
    play.step(&format!("prepared p-1/x#{}@{}", moving.epoch, moving.to));
    play.step(&format!("ready p-1/x#{}@{}", moving.epoch, moving.to));
    play.see_end(&format!("p-1/x#{}@{}", record.epoch, moving.from));
    play.settle();
}

#[test]
fn a_service_goes_back_when_there_is_room() {
    let mut play = spilled(&["a cpus=2", "b cpus=20 price=1"], "back=600");
    play.step("wait 700");
    assert_eq!(play.world.moves().count(), 0, "there is no room");
    play.step("stop h-1");
    play.step("end h-1/hold stopped");
    play.step("wait 11");
    assert_eq!(play.how("p-1"), "p-1 serving: x=ready@b#1>a#2 copying ahead");
    arrive(&mut play);
    assert_eq!(play.how("p-1"), "p-1 serving: x=ready@a#2");
    let moved = play.world.workloads[&id("p-1/x")].moves[0].clone();
    assert_eq!((moved.cause, moved.by.as_str()), (Cause::Back, "placement"));
    assert_eq!(moved.why.unwrap(), "a has room again: saves $24.00 in 24 h 0 min, and the move costs $0.00");
}

#[test]
fn what_saves_nothing_or_is_waited_for_stays() {
    let free = |play: &mut Play| {
        play.step("stop h-1");
        play.step("end h-1/hold stopped");
    };
    // It is dearer at home.
    let mut play = spilled(&["a cpus=2 price=3", "b cpus=20 price=1"], "back=60");
    free(&mut play);
    play.step("wait 120");
    assert_eq!(play.world.moves().count(), 0);
    // Nobody has asked for it.
    let mut play = spilled(&["a cpus=2", "b cpus=20 price=1"], "");
    free(&mut play);
    play.step("wait 4000");
    assert_eq!(play.world.moves().count(), 0);
    // What is queued there goes first: it has no other place.
    let mut play = spilled(&["a cpus=2", "b cpus=20 price=1"], "back=60");
    play.submit("q-1", &["big cpus=2 site=a"]);
    play.submit("q-2", &["more cpus=2 site=a"]);
    free(&mut play);
    play.step("wait 120");
    assert_eq!(play.how("q-1"), "q-1 active: big=placed@a#1");
    assert_eq!(play.world.moves().count(), 0);
}

/// For half a day something comes to a and goes again, every few minutes. What had spilled over goes back at most once in
/// the hour that was said, and in all once: nothing drives it out again.
#[test]
fn an_oscillating_load_moves_nothing_to_and_fro() {
    for period in [2, 7, 20, 45, 90] {
        let mut play = spilled(&["a cpus=2", "b cpus=20 price=1"], "back=3600");
        play.step("stop h-1");
        play.step("end h-1/hold stopped");
        let (mut run, mut at_a) = (0, 0);
        for minute in 0..12 * 60 {
            if minute % period == 0 {
                run += 1;
                play.submit(&format!("l-{run}"), &["hold cpus=2 prefer=a burst=b after=600 takes=60"]);
            }
            let load = format!("l-{run}/hold");
            match play.how(&format!("l-{run}")) {
                how if how.contains("placed") => play.step(&format!("start {load}")),
                how if how.contains("running") && minute % period >= period / 2 => play.step(&format!("end {load} ok")),
                _ => {}
            }
            play.now = play.now + tombolo_core::Millis::from_secs(60);
            play.settle();
            arrive(&mut play);
            play.within_capacity();
            at_a += u32::from(play.world.workloads[&id("p-1/x")].state.site() == Some(&site("a")));
        }
        let moves = &play.world.workloads[&id("p-1/x")].moves;
        assert_eq!(moves.len(), 1, "every {period} min: {moves:#?}");
        assert!(at_a > 9 * 60, "every {period} min: at home for {at_a} min");
    }
}

/// The same where something drives it out at each turn: a drain. It goes back no more often than once in an hour.
#[test]
fn a_flapping_site_is_left_alone_for_the_interval() {
    let mut play = spilled(&["a cpus=2", "b cpus=20 price=1"], "back=3600");
    play.step("stop h-1");
    play.step("end h-1/hold stopped");
    for minute in 0..12 * 60 {
        match minute % 10 {
            0 => play.step("leave a"),
            // So that nothing is brought home by its being opened.
            5 => {
                let open = |record: &mut SiteRecord| (record.draining, record.drain) = (false, None);
                play.world.edit_site(&site("a"), open).unwrap();
            }
            _ => {}
        }
        play.now = play.now + tombolo_core::Millis::from_secs(60);
        play.settle();
        arrive(&mut play);
    }
    let moves = &play.world.workloads[&id("p-1/x")].moves;
    let back: Vec<_> = moves.iter().filter(|moved| moved.cause == Cause::Back).collect();
    assert!((5..=12).contains(&back.len()), "{moves:#?}");
    assert!(back.windows(2).all(|two| two[1].at.since(two[0].ended).0 >= 3_600_000));
}
