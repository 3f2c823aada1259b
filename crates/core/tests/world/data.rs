//! Which rules bytes are under, by whatever way they came.

use crate::play::{Play, run, site, version};
use tombolo_core::residency::{Residency, Selector, Term};
use tombolo_core::world::{Refusal, VersionRecord};

#[test]
fn outputs_are_where_all_inputs_may_be() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    play.know("open", None, &["b"]);
    play.submit("p-1", &["x in=secret in=open out=o", "y in=o out=q", "z in=open out=r site=b"]);
    play.table("p-1", &[("", "active: x=placed@a#1 y=waiting z=placed@b#1")]);
    play.step("end p-1/x ok left=state-x");
    play.table("p-1", &[("", "active: x=succeeded y=placed@a#1 z=placed@b#1")]);
    play.step("end p-1/y ok");
    play.step("end p-1/z ok left=state-z");
    let rules = ["o", "q", "r", "state-x", "state-z"].map(|word| play.residency(word));
    assert_eq!(rules, ["a", "a", "anywhere", "a", "anywhere"]);
    assert_eq!(play.world.may_be_at(&version("q"), &site("a")), Ok(()));
    assert!(play.world.may_be_at(&version("q"), &site("b")).unwrap_err().ends_with("may only be at a, not at b"));
    assert!(play.world.sources(&version("q"), &site("b")).is_err());
}

#[test]
fn rules_that_no_site_meets_keep_the_stage_from_every_site() {
    let mut play = Play::new(&["a", "b"]);
    play.know("mine", Some("a"), &["a"]);
    play.know("yours", Some("b"), &["b"]);
    play.submit("p-1", &["x in=mine in=yours out=o"]);
    play.table("p-1", &[("", "active: x=queued")]);
    assert_eq!(play.why("p-1/x"), "no site can have it (a: yours may only be at b; b: mine may only be at a)");
}

#[test]
fn a_release_lets_one_output_go_and_is_recorded() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret out=o out=kept release=o", "y in=o out=q site=b"]);
    play.step("end p-1/x ok left=s");
    assert_eq!(["o", "kept", "s"].map(|word| play.residency(word)), ["anywhere", "a", "a"]);
    play.table(
        "p-1",
        &[("", "active: x=succeeded y=placed@b#1"), ("end p-1/y ok", "succeeded: x=succeeded y=succeeded")],
    );
    assert_eq!(play.residency("q"), "anywhere");
    let acts: Vec<_> =
        play.released.iter().map(|act| format!("{} {} by {}", act.workload, act.output, act.by)).collect();
    assert_eq!(acts, ["p-1/x o by ann"]);
    // Where there is nothing to release, nothing is recorded.
    play.know("open", None, &["b"]);
    play.submit("q-1", &["x in=open out=r release=r"]);
    play.step("end q-1/x ok");
    assert_eq!(play.released.len(), 1);
}

#[test]
fn a_failed_stage_releases_nothing() {
    let mut play = Play::new(&["a"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret out=o release=o"]);
    play.step("end p-1/x gate o=o");
    assert!(play.released.is_empty() && !play.world.versions.contains_key(&version("o")));
}

#[test]
fn a_second_name_gets_bytes_under_no_fewer_rules() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    let open = play.world.versions[&version("code")].clone();
    let refused = play.world.add_version(version("secret"), open.clone(), &site("b")).unwrap_err();
    assert!(matches!(refused, Refusal::Residency { .. }), "{refused}");
    play.world.add_version(version("secret"), open, &site("a")).unwrap();
    assert_eq!(play.residency("secret"), "a");
    // A stage that makes the very bytes, from something open and with a release, frees them as little.
    play.know("open", None, &["a"]);
    play.submit("p-1", &["x in=open out=o release=o site=a"]);
    play.step("end p-1/x ok o=secret");
    assert_eq!(play.residency("secret"), "a");
    play.submit("p-2", &["y in=secret out=q release=q do=cp"]);
    play.step("end p-2/y ok q=secret");
    assert_eq!(play.residency("secret"), "a");
}

#[test]
fn what_is_made_again_with_a_release_goes_and_without_it_stays() {
    let mut play = Play::new(&["a"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret out=o"]);
    play.step("end p-1/x ok");
    assert_eq!(play.residency("o"), "a");
    play.submit("p-2", &["x in=secret out=o release=o"]);
    play.step("end p-2/x ok");
    assert_eq!(play.residency("o"), "anywhere");
}

#[test]
fn versions_that_a_live_run_needs_are_not_forgotten() {
    let mut play = Play::new(&["a"]);
    play.know("raw", None, &["a"]);
    play.submit("p-1", &["x in=raw out=o retries=1", "y in=o"]);
    play.step("end p-1/x failed left=s");
    for word in ["raw", "code", "s"] {
        assert!(!play.world.forget_version(&version(word)), "{word}");
    }
    play.step("wait 1");
    play.step("end p-1/x ok");
    assert!(!play.world.forget_version(&version("o")));
    play.step("end p-1/y ok");
    play.step("retire");
    for word in ["raw", "code", "s", "o"] {
        assert!(play.world.forget_version(&version(word)), "{word}");
    }
}

#[test]
fn a_submission_needs_its_versions() {
    let mut play = Play::new(&["a"]);
    assert!(matches!(play.try_submit("p-1", &["x in=raw"], false).unwrap_err(), Refusal::NoVersion(_)));
    assert!(play.world.runs.is_empty() && play.world.workloads.is_empty());
    play.know("raw", None, &["a"]);
    play.submit("p-1", &["x in=raw"]);
    assert!(matches!(play.try_submit("p-1", &["x in=raw"], false).unwrap_err(), Refusal::RunExists(_)));
}

#[test]
fn a_removed_input_takes_no_rule_with_it() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret out=o site=a"]);
    play.step("end p-1/x failed");
    let record = play.world.runs[&run("p-1")].clone();
    let workloads: Vec<_> = play.world.workloads_of(&run("p-1")).cloned().collect();
    play.step("retire");
    // `data rm`: the name goes at once, the bytes with the site's next garbage collection.
    assert!(play.world.forget_version(&version("secret")));
    play.world.revive(record, workloads);
    if play.world.retry(&run("p-1"), play.now).is_err() {
        return;
    }
    play.settle();
    if play.how("p-1").contains("placed") {
        play.step("end p-1/x ok");
        assert_ne!(play.residency("o"), "anywhere");
    }
}

#[test]
fn cached_outputs_are_under_the_rules_of_their_inputs_now() {
    let mut play = Play::new(&["a", "b"]);
    play.know("raw", None, &["a"]);
    play.submit("p-1", &["x in=raw out=o"]);
    play.step("end p-1/x ok");
    // Somebody finds out that it must not leave.
    play.know("raw", Some("a"), &["a"]);
    play.submit("p-2", &["x in=raw out=o", "y in=o site=b"]);
    assert_eq!(play.residency("o"), "a");
    play.table("p-2", &[("", "active: x=cached y=queued")]);
}

#[test]
fn running_again_takes_no_rule_of_another_name_away() {
    let mut play = Play::new(&["a", "b"]);
    play.know("open", None, &["a"]);
    play.submit("p-1", &["x in=open out=o site=a"]);
    play.step("end p-1/x ok");
    assert_eq!(play.residency("o"), "anywhere");
    play.know("o", Some("a"), &["a"]);
    assert_eq!(play.residency("o"), "a");
    play.try_submit("p-2", &["x in=open out=o site=a"], true).unwrap();
    play.step("end p-2/x ok");
    assert_eq!(play.residency("o"), "a");
}

#[test]
fn running_again_takes_no_rule_of_another_stage_away() {
    let mut play = Play::new(&["a", "b"]);
    play.know("open", None, &["a"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=open out=o site=a"]);
    play.step("end p-1/x ok");
    play.submit("q-1", &["y in=secret out=o site=a"]);
    play.step("end q-1/y ok");
    assert_eq!(play.residency("o"), "a");
    play.try_submit("p-2", &["x in=open out=o site=a"], true).unwrap();
    play.step("end p-2/x ok");
    assert_eq!(play.residency("o"), "a");
}

#[test]
fn a_cached_release_of_an_input_that_was_tightened_is_recorded_anew() {
    let mut play = Play::new(&["a", "b"]);
    play.know("raw", None, &["a"]);
    play.submit("p-1", &["x in=raw out=o release=o"]);
    play.step("end p-1/x ok");
    assert!(play.released.is_empty());
    play.know("raw", Some("a"), &["a"]);
    play.submit("p-2", &["x in=raw out=o release=o"]);
    play.table("p-2", &[("", "succeeded: x=cached")]);
    assert_eq!(play.residency("o"), "anywhere");
    assert_eq!(play.released.iter().map(|act| act.workload.to_string()).collect::<Vec<_>>(), ["p-2/x"]);
}

#[test]
fn a_run_whose_input_is_forgotten_is_not_retried() {
    let mut play = Play::new(&["a"]);
    play.know("raw", None, &["a"]);
    play.submit("p-1", &["x in=raw"]);
    play.step("end p-1/x failed");
    play.world.versions.remove(&version("raw"));
    let refused = play.world.retry(&run("p-1"), play.now).unwrap_err().to_string();
    assert!(refused.starts_with("run p-1 can't be retried: raw, which it reads, is known no more"), "{refused}");
    play.table("p-1", &[("", "failed: x=failed")]);
}

#[test]
fn an_import_that_goes_on_is_under_the_rules_of_what_it_goes_on_from() {
    let mut play = Play::new(&["a price=9", "b price=1"]);
    play.submit("p-1", &["clicks kafka out=clicks keep=a"]);
    play.step("end p-1/clicks ok clicks=old left=offsets");
    assert_eq!(["old", "offsets"].map(|word| play.residency(word)), ["a", "a"]);
    // The rule is taken out of the project; the records that it was for are still in the next version.
    play.submit("p-2", &["clicks kafka out=clicks"]);
    play.table("p-2", &[("", "active: clicks=placed@a#1")]);
    play.step("end p-2/clicks ok clicks=more left=more-offsets");
    assert_eq!(["more", "more-offsets"].map(|word| play.residency(word)), ["a", "a"]);
    assert!(play.released.is_empty());
    // Begun anew it is under its own rules alone.
    play.try_submit("p-3", &["clicks kafka out=clicks"], true).unwrap();
    play.table("p-3", &[("", "active: clicks=placed@b#1")]);
    play.step("end p-3/clicks ok clicks=new");
    assert_eq!(play.residency("new"), "anywhere");
}

#[test]
fn a_release_lifts_no_rule_that_came_after_its_run_was_submitted() {
    let mut play = Play::new(&["a", "b"]);
    play.know("raw", Some("a"), &["a"]);
    play.submit("p-1", &["x in=raw out=o release=o"]);
    // While it runs, a second rule comes, of which whoever released the output knew nothing.
    let record = play.world.versions[&version("raw")].clone();
    let later = Selector(["a", "b"].map(|name| Term::Site(site(name))).into());
    let tightened = VersionRecord { residency: Residency::keep_at(later), ..record };
    play.world.add_version(version("raw"), tightened, &site("a")).unwrap();
    play.step("end p-1/x ok");
    assert_eq!(play.residency("o"), "a or b");
    assert_eq!(play.released.iter().map(|act| act.from.to_string()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn bytes_that_were_forgotten_come_back_under_their_rules() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    let open = play.world.versions[&version("code")].clone();
    assert!(play.world.forget_version(&version("secret")));
    // `data rm`, and then the very bytes made known as if nobody had minded them.
    let refused = play.world.add_version(version("secret"), open.clone(), &site("b")).unwrap_err();
    assert!(matches!(refused, Refusal::Residency { .. }), "{refused}");
    play.world.add_version(version("secret"), open, &site("a")).unwrap();
    assert_eq!(play.residency("secret"), "a");
    assert!(play.world.sources(&version("secret"), &site("b")).is_err());
    // A stage that says it made them is no way round either.
    assert!(play.world.forget_version(&version("secret")));
    play.know("open", None, &["a"]);
    play.submit("p-1", &["x in=open out=o release=o site=a"]);
    play.step("end p-1/x ok o=secret");
    assert_eq!(play.residency("secret"), "a");
}

#[test]
fn what_was_released_by_hand_and_forgotten_comes_back_free() {
    let mut play = Play::new(&["a"]);
    play.know("secret", Some("a"), &["a"]);
    assert_eq!(play.world.release_version(&version("secret")).unwrap().to_string(), "a");
    assert_eq!(play.residency("secret"), "anywhere");
    assert!(play.world.forget_version(&version("secret")));
    assert!(play.world.forgotten.is_empty());
    assert!(matches!(play.world.release_version(&version("secret")).unwrap_err(), Refusal::NoVersion(_)));
}
