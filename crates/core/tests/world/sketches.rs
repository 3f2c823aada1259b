//! What a plan takes a site to lack of a version, where it has another one of much the same chunks.

use std::collections::BTreeSet;

use crate::chunks::{chunks, sketch};
use crate::play::{Play, name, project, run, site, version};
use tombolo_core::placement::{Placement, plan};
use tombolo_core::residency::Residency;
use tombolo_core::sketch::Sketch;
use tombolo_core::spec::Objective;
use tombolo_core::sync::{Replicas, Report};
use tombolo_core::world::{Submission, VersionRecord};

/// A version of these chunks at these sites; its site says what they are like, or does not.
fn know(play: &mut Play, word: &str, sketch: &Sketch, at: &[&str], says: bool) {
    for place in at {
        let record = VersionRecord {
            bytes: sketch.bytes(),
            files: 1,
            residency: Residency::anywhere(),
            made_by: None,
            given: Default::default(),
            facts: Default::default(),
            at: play.now,
            replicas: BTreeSet::new(),
        };
        play.world.add_version(version(word), record, &site(place)).unwrap();
    }
    if says {
        play.world.learn_sketch(version(word), sketch.clone());
    }
}

/// How the stage `x`, which reads `raw`, is placed if it is submitted now.
fn planned(play: &Play, line: &str) -> Placement {
    let spec = project("q", &[line]);
    let data = spec.data.keys().map(|name| (name.clone(), version(name.as_str()))).collect();
    let submission = Submission { id: run("q-1"), spec, code: version("code"), data, by: "ann".into(), force: false };
    let problem = play.world.clone().what_if(submission, Some(Objective::Time), play.now).unwrap();
    plan(&problem).placement(&name("x")).unwrap().clone()
}

/// The bytes that are moved for `x`, and those of its input where a part is there already.
fn moved(play: &Play, at: &str) -> (u64, u64) {
    let outcome = planned(play, &format!("x in=raw site={at}")).outcome.unwrap();
    let whole = outcome.transfers.iter().map(|transfer| transfer.whole_bytes).sum();
    (outcome.terms.transfer_bytes, whole)
}

#[test]
fn a_site_with_the_version_before_is_charged_for_what_changed() {
    let mut play = Play::new(&["home", "old", "new"]);
    let (before, raw) = (sketch(&chunks(0..20_000)), sketch(&chunks(200..20_200)));
    know(&mut play, "before", &before, &["home", "old"], true);
    know(&mut play, "raw", &raw, &["home"], true);
    // 1% of it changed; the error is at most some 2% of it.
    let (bytes, whole) = moved(&play, "old");
    let percent = bytes as f64 * 100.0 / raw.bytes() as f64;
    assert!((0.2..4.0).contains(&percent), "{percent}%");
    assert_eq!(whole, raw.bytes());
    assert_eq!(moved(&play, "home"), (0, 0));
    assert_eq!(moved(&play, "new"), (raw.bytes(), 0));

    // It is chosen for that, and the other refused for the bytes.
    play.world.edit_site(&site("home"), |home| home.draining = true).unwrap();
    let placement = planned(&play, "x in=raw");
    assert_eq!(placement.site(), Some(&site("old")));
    let text = |place: &str| placement.others.iter().find(|(at, _)| at.as_str() == place).unwrap().1.to_string();
    let whole = tombolo_core::resources::bytes(raw.bytes());
    assert!(text("new").contains(&format!("{whole} to move")), "{}", text("new"));

    // What is no longer there counts no longer.
    let (none, now) = (Report { replicas: Replicas::All(vec![version("code")]), ..Report::default() }, play.now);
    play.world.report(&site("old"), &none, now);
    assert_eq!(moved(&play, "old"), (raw.bytes(), 0));
}

#[test]
fn without_sketches_all_of_a_version_lacks() {
    let (before, raw) = (sketch(&chunks(0..1000)), sketch(&chunks(10..1010)));
    for (says_before, says_raw) in [(false, false), (false, true), (true, false)] {
        let mut play = Play::new(&["home", "old"]);
        know(&mut play, "before", &before, &["old"], says_before);
        know(&mut play, "raw", &raw, &["home"], says_raw);
        assert_eq!(moved(&play, "old"), (raw.bytes(), 0), "{says_before} {says_raw}");
    }
}

#[test]
fn several_versions_count_together_and_something_is_always_fetched() {
    let mut play = Play::new(&["home", "old"]);
    let raw = sketch(&chunks(0..400));
    know(&mut play, "raw", &raw, &["home"], true);
    know(&mut play, "first", &sketch(&chunks(0..150)), &["old"], true);
    // Compared once already, without the other.
    let left: u64 = chunks(150..400).values().map(|bytes| u64::from(*bytes)).sum();
    assert_eq!(moved(&play, "old").0, left);
    know(&mut play, "second", &sketch(&chunks(100..390)), &["old"], true);
    let left: u64 = chunks(390..400).values().map(|bytes| u64::from(*bytes)).sum();
    assert_eq!(moved(&play, "old").0, left);
    // All chunks are there, in another tree: the version itself is not.
    know(&mut play, "third", &sketch(&chunks(380..420)), &["old"], true);
    assert_eq!(moved(&play, "old"), (1, raw.bytes()));
}

#[test]
fn repeated_chunks_are_moved_once() {
    let mut play = Play::new(&["home", "new"]);
    let twice = sketch(&chunks(0..100));
    know(&mut play, "raw", &twice, &["home"], false);
    play.world.versions.get_mut(&version("raw")).unwrap().bytes = 2 * twice.bytes();
    play.world.learn_sketch(version("raw"), twice.clone());
    assert_eq!(moved(&play, "new"), (twice.bytes(), 2 * twice.bytes()));
}

#[test]
fn sketches_come_with_what_stages_make_and_go_with_the_version() {
    let mut play = Play::new(&["a", "b"]);
    let (features, more) = (sketch(&chunks(0..300)), sketch(&chunks(0..301)));
    play.submit("p-1", &["make out=features site=a"]);
    play.made("p-1/make", &features);
    let id = version("features");
    assert_eq!(play.world.sketch(&id), Some(&features));
    assert!(play.sketched.contains(&id), "the edge is told to keep it");
    let kept = &play.world.workloads[&"p-1/make".parse().unwrap()].outputs[&name("features")];
    assert_eq!(kept.sketch, None, "it stands with the version alone");
    // The first word stands, and what claims to be larger than its version is no word.
    play.world.learn_sketch(id, more.clone());
    assert_eq!(play.world.sketch(&id), Some(&features));
    play.know("small", None, &["b"]);
    play.world.learn_sketch(version("small"), more);
    assert_eq!(play.world.sketch(&version("small")), None);
    // As the store has them, of versions that are there.
    let mut world = play.world.clone();
    assert!(play.world.forget_version(&version("small")));
    play.world.retire();
    assert!(play.world.forget_version(&id));
    assert_eq!(play.world.sketch(&id), None);
    world.load_sketches([(version("nothing"), features.clone()), (version("small"), features)]);
    assert_eq!(world.sketch(&version("nothing")), None);
    assert!(world.sketch(&version("small")).is_some());
}
