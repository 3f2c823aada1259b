//! Which rules keep a version away from a site, and by which way they came.

use crate::play::{Play, site, version};
use tombolo_core::world::{Provenance, why};

/// One line for each rule and each release, as they read.
fn tell(play: &Play, word: &str, at: &str) -> Vec<String> {
    let run = |record: &tombolo_core::world::RunRecord| {
        (record.id.clone(), (record.clone(), play.world.workloads_of(&record.id).cloned().collect()))
    };
    let runs = play.world.runs.values().map(run).collect();
    let known = Provenance { versions: play.world.versions.clone(), runs };
    let found = why(&known, version(word), &site(at), &play.world.sites[&site(at)].info.labels);
    let rules = found.rules.iter().map(|rule| {
        let step = |step: &tombolo_core::world::Derived| match (&step.name, &step.made_by) {
            (Some(name), Some(made_by)) => format!("{name} by {made_by}"),
            (Some(name), None) => name.to_string(),
            (None, _) => "itself".to_owned(),
        };
        let chain: Vec<_> = rule.chain.iter().map(step).collect();
        let verb = if rule.allows { "allows" } else { "forbids" };
        format!("{} {verb}: {}{}", rule.keep_at, chain.join(" < "), if rule.whole { "" } else { " ..." })
    });
    let lifted = found
        .lifted
        .iter()
        .map(|act| format!("{} released {} from {} by {}", act.workload, act.output, act.rules, act.by));
    rules.chain(lifted).collect()
}

#[test]
fn each_rule_is_told_with_the_way_that_it_came_by() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    play.know("open", None, &["a"]);
    play.submit("p-1", &["x in=secret in=open out=o", "y in=o in=open out=q"]);
    play.step("end p-1/x ok");
    play.step("end p-1/y ok");
    assert_eq!(tell(&play, "secret", "b"), ["a forbids: itself"]);
    assert_eq!(tell(&play, "q", "b"), ["a forbids: q by p-1/y < o by p-1/x < secret"]);
    assert_eq!(tell(&play, "q", "a"), ["a allows: q by p-1/y < o by p-1/x < secret"]);
    assert!(tell(&play, "open", "b").is_empty());
}

#[test]
fn a_stages_own_rule_and_one_given_on_the_way_end_the_chain() {
    let mut play = Play::new(&["a", "b"]);
    play.know("open", None, &["a"]);
    play.submit("p-1", &["x in=open out=o keep=a", "y in=o out=q"]);
    play.step("end p-1/x ok");
    play.step("end p-1/y ok");
    assert_eq!(tell(&play, "q", "b"), ["a forbids: q by p-1/y < o by p-1/x"]);
    play.know("q", Some("a"), &["a"]);
    assert_eq!(tell(&play, "q", "b"), ["a forbids: q by p-1/y"]);
}

#[test]
fn releases_on_the_way_are_named_with_what_they_lifted() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret out=o release=o", "y in=o out=q"]);
    play.step("end p-1/x ok");
    play.step("end p-1/y ok");
    assert_eq!(tell(&play, "q", "b"), ["p-1/x released o from a by ann"]);
}

#[test]
fn what_is_forgotten_ends_the_chain_and_is_said_to() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    play.submit("p-1", &["x in=secret out=o"]);
    play.step("end p-1/x ok");
    play.world.versions.remove(&version("secret"));
    assert_eq!(tell(&play, "o", "b"), ["a forbids: o by p-1/x ..."]);
}
