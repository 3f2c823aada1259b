//! What is not as it is expected to be is kept and marked, and no stage gets it unless that is asked for.

use tombolo_core::expect::{Expect, OnFailure};
use tombolo_core::facts::{Breach, Checked, Facts};
use tombolo_core::spec::Kind;
use tombolo_core::sync::{Finish, Made, Observed, Outcome, Phase, Report};
use tombolo_core::world::{Refusal, Submission};

use crate::play::{Play, id, name, project, run, site, version};

fn facts(failed: bool) -> Facts {
    let breach = Breach { column: Some("delay".into()), rule: "at least 0".into(), count: 2, rows: 9 };
    let breaches = if failed { vec![breach] } else { Vec::new() };
    Facts { table: None, checked: Some(Checked { rules: 1, breaches, ..Checked::default() }) }
}

fn mark(play: &mut Play, word: &str, failed: bool) {
    let record = play.world.versions[&version(word)].clone();
    let record = tombolo_core::world::VersionRecord { facts: facts(failed), ..record };
    play.world.add_version(version(word), record, &site("a")).unwrap();
}

#[test]
fn a_dataset_that_failed_is_refused_until_it_is_added_anew_or_asked_for() {
    let mut play = Play::new(&["a"]);
    play.know("raw", None, &["a"]);
    mark(&mut play, "raw", true);
    // That it is known again, by somebody who expects nothing, does not take the mark away.
    play.know("raw", None, &["a"]);
    let refusal = play.try_submit("p-1", &["x in=raw out=o"], false).unwrap_err();
    let said = "raw failed its expectations: column delay must be at least 0: 2 of 9 rows (version ";
    assert!(refusal.to_string().starts_with(said), "{refusal}");
    assert!(matches!(refusal, Refusal::Unexpected { .. }) && !play.world.runs.contains_key(&run("p-1")));

    let mut spec = project("p", &["x in=raw out=o"]);
    spec.allow_failed();
    let data = [(name("raw"), version("raw"))].into();
    let submission = Submission { id: run("p-1"), spec, code: version("code"), data, by: "ann".into(), force: false };
    assert_eq!(play.world.submit(submission, play.now), Ok(()));

    mark(&mut play, "raw", false);
    assert_eq!(play.try_submit("p-2", &["x in=raw out=o"], false), Ok(()));
}

/// A stage `x` that releases its output, about which something is expected, and a stage behind it.
fn submitted(on_failure: OnFailure, known_by: &str) -> Play {
    let mut play = Play::new(&["a", "b"]);
    play.know("raw", Some("a"), &["a"]);
    let mut spec = project("p", &["x in=raw out=o release=o", "y in=o out=q"]);
    let Kind::Job(job) = &mut spec.workloads.get_mut(&name("x")).unwrap().kind else { panic!("x is a job") };
    job.expect = [(name("o"), Expect { rows_min: Some(1), on_failure, ..Expect::default() })].into();
    let data = [(name("raw"), version("raw"))].into();
    let (code, by) = (version("code"), known_by.to_owned());
    play.world.submit(Submission { id: run("p-1"), spec, code, data, by, force: false }, play.now).unwrap();
    play.settle();
    play
}

fn end(play: &mut Play, outcome: Outcome, failed: bool) {
    let mut finish = Finish::without_running(outcome, play.now);
    let made = Made { version: version("o"), bytes: 10, files: 1, facts: facts(failed), sketch: None };
    finish.outputs.insert(name("o"), made);
    let epoch = play.world.workloads[&id("p-1/x")].epoch;
    let observed = Observed { workload: id("p-1/x"), epoch, phase: Phase::Finished(Box::new(finish)) };
    let report = Report { observed: vec![observed], ..Report::default() };
    play.world.report(&site("a"), &report, play.now);
    play.settle();
}

#[test]
fn an_output_that_failed_ends_its_stage_and_is_kept_where_its_inputs_must_be() {
    // Also where the site reports a success: what was expected is the control plane's to hold it to.
    let failed = Outcome::ExpectationsFailed { output: name("o"), checked: facts(true).checked.unwrap() };
    for outcome in [failed, Outcome::Succeeded] {
        let mut play = submitted(OnFailure::Refuse, "ann");
        end(&mut play, outcome, true);
        play.table("p-1", &[("", "failed: x=failed y=skipped")]);
        let said = play.events.iter().find(|event| event.state == "failed" && event.workload.is_some()).unwrap();
        let expected = "expectations failed: o: column delay must be at least 0: 2 of 9 rows";
        assert_eq!(said.text.as_deref(), Some(expected));
        assert!(play.world.versions[&version("o")].facts.failed());
        assert_eq!((play.residency("o").as_str(), play.released.len()), ("a", 0));
        assert!(!play.world.forget_version(&version("o")), "it is kept as long as the run is known");
    }
}

#[test]
fn an_output_that_failed_is_used_where_that_is_asked_for() {
    let mut play = submitted(OnFailure::Use, "ann");
    end(&mut play, Outcome::Succeeded, true);
    play.table("p-1", &[("", "active: x=succeeded y=placed@a#1")]);
    assert!(play.world.versions[&version("o")].facts.failed());
    // The mark stands with the version alone.
    assert_eq!(play.world.workloads[&id("p-1/x")].outputs[&name("o")].facts, Facts::default());
}

#[test]
fn a_stage_that_is_tried_again_has_nothing_of_before() {
    let mut play = submitted(OnFailure::Refuse, "ann");
    end(&mut play, Outcome::Succeeded, true);
    play.step("retry p-1");
    assert!(play.world.workloads[&id("p-1/x")].outputs.is_empty());
    end(&mut play, Outcome::Succeeded, false);
    play.table("p-1", &[("", "active: x=succeeded y=placed@a#1")]);
    assert!(!play.world.versions[&version("o")].facts.failed());
}

#[test]
fn what_is_expected_is_a_part_of_what_a_stage_is() {
    let (strict, lax) = (submitted(OnFailure::Refuse, "ann"), submitted(OnFailure::Use, "ann"));
    let key = |play: &Play| play.world.cache_key(&id("p-1/x")).unwrap();
    assert_ne!(key(&strict), key(&lax));
    assert!(!strict.world.cache_key(&id("p-1/y")).is_some_and(|key| key.contains("Expect")));
}

#[test]
fn bytes_that_are_a_dataset_too_are_not_marked_for_what_an_output_should_be() {
    let mut play = submitted(OnFailure::Refuse, "ann");
    play.know("o", None, &["a"]);
    mark(&mut play, "o", false);
    end(&mut play, Outcome::Succeeded, true);
    play.table("p-1", &[("", "failed: x=failed y=skipped")]);
    assert!(!play.world.versions[&version("o")].facts.failed());
}
