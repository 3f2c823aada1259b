//! Names that versions have, the numbers under them, and the tags on them.

use crate::play::{Play, name, site, version};
use tombolo_core::retention::Rules;
use tombolo_core::world::{By, PRUNED_MAX, Refusal, Submission, TAGS_MAX, Which, YOUNG};
use tombolo_core::{Millis, Tag};

fn tag(text: &str) -> Tag {
    Tag::new(text).unwrap()
}

impl Play {
    fn by(&self) -> By<'static> {
        By { who: "ann", at: self.now }
    }

    /// Gives `raw` to a version that is known.
    pub fn name_raw(&mut self, word: &str) -> u64 {
        let by = self.by();
        self.world.name_version(&name("raw"), version(word), None, by).unwrap()
    }

    fn unname_raw(&mut self, which: Which, with_tags: bool) -> Result<(), Refusal> {
        let by = self.by();
        self.world.unname(&name("raw"), which, with_tags, "by hand", by).map(drop)
    }

    fn tag_raw(&mut self, word: &str, on: &str, may_move: bool) -> Result<(), Refusal> {
        let by = self.by();
        self.world.tag(&name("raw"), &tag(word), version(on), may_move, by)
    }

    /// `1:one 3:two`.
    pub fn raw(&self) -> String {
        let word = |digest: [u8; 32]| String::from_utf8_lossy(&digest).trim_end_matches('\0').to_owned();
        let known = self.world.datasets.get(&name("raw"));
        let versions = known.into_iter().flat_map(|dataset| &dataset.versions);
        versions.map(|(number, named)| format!("{number}:{}", word(named.version.0.0))).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_number_is_given_once() {
    let mut play = Play::new(&["a"]);
    for word in ["one", "two"] {
        play.know(word, None, &["a"]);
    }
    assert_eq!((play.name_raw("one"), play.name_raw("two"), play.name_raw("two"), play.name_raw("one")), (1, 2, 2, 3));
    assert_eq!(play.raw(), "1:one 2:two 3:one");
    assert_eq!(play.world.newest(&name("raw")), Some(version("one")));
    play.unname_raw(Which::Number(3), false).unwrap();
    assert_eq!(play.name_raw("one"), 4);
    play.unname_raw(Which::Version(version("one")), false).unwrap();
    assert_eq!(play.raw(), "2:two");
    assert!(!play.world.is_named(version("one")) && play.world.is_named(version("two")));
    play.unname_raw(Which::Number(2), false).unwrap();
    assert_eq!(play.unname_raw(Which::Number(2), false).unwrap_err(), Refusal::NoDataset(name("raw")));
    // A dataset that is empty has not forgotten what it gave out.
    assert_eq!(play.name_raw("two"), 5);
    let by = play.by();
    let unknown = play.world.name_version(&name("raw"), version("three"), None, by);
    assert_eq!(unknown.unwrap_err(), Refusal::NoVersion(version("three")));
}

#[test]
fn a_tag_is_on_one_version_and_keeps_it() {
    let mut play = Play::new(&["a"]);
    for word in ["one", "two"] {
        play.know(word, None, &["a"]);
        play.name_raw(word);
    }
    play.tag_raw("prod", "one", false).unwrap();
    play.tag_raw("prod", "one", false).unwrap();
    let elsewhere = play.tag_raw("prod", "two", false).unwrap_err().to_string();
    assert!(elsewhere.starts_with("the tag prod of raw is on version 6f6e65"), "{elsewhere}");
    let refused = play.unname_raw(Which::Number(1), false).unwrap_err();
    assert!(matches!(refused, Refusal::Tagged { .. }), "{refused}");
    play.tag_raw("prod", "two", true).unwrap();
    play.unname_raw(Which::Number(1), false).unwrap();
    assert!(matches!(play.tag_raw("prod", "one", true).unwrap_err(), Refusal::NotNamed { .. }));
    play.unname_raw(Which::Number(2), true).unwrap();
    play.name_raw("two");
    assert!(matches!(play.world.untag(&name("raw"), &tag("prod")).unwrap_err(), Refusal::NoTag { .. }));
}

#[test]
fn tags_are_bounded() {
    let mut play = Play::new(&["a"]);
    play.know("one", None, &["a"]);
    play.name_raw("one");
    for number in 0..TAGS_MAX {
        play.tag_raw(&format!("t{number}x"), "one", false).unwrap();
    }
    assert_eq!(play.tag_raw("more", "one", false).unwrap_err(), Refusal::TooManyTags(name("raw")));
    // Those that are there can still move.
    play.tag_raw("t1x", "one", true).unwrap();
}

#[test]
fn what_a_live_run_reads_keeps_its_name() {
    let mut play = Play::new(&["a"]);
    play.know("raw", None, &["a"]);
    play.name_raw("raw");
    play.submit("p-1", &["x in=raw out=o"]);
    let refused = play.unname_raw(Which::Number(1), true).unwrap_err();
    assert!(matches!(refused, Refusal::InUse { .. }), "{refused}");
    play.know("other", None, &["a"]);
    play.name_raw("other");
    play.name_raw("raw");
    // It has the name by another number too.
    play.unname_raw(Which::Number(1), false).unwrap();
    assert!(play.unname_raw(Which::Number(3), false).is_err());
    play.step("end p-1/x ok");
    play.step("retire");
    play.unname_raw(Which::Number(3), false).unwrap();
}

#[test]
fn what_is_brought_back_is_under_every_rule_that_it_was_under() {
    let mut play = Play::new(&["a", "b"]);
    play.know("secret", Some("a"), &["a"]);
    play.name_raw("secret");
    let record = play.world.versions[&version("secret")].clone();
    play.unname_raw(Which::Number(1), false).unwrap();
    assert!(play.world.forget_version(&version("secret")));
    // A site that has the bytes though it may not is none that brings them back.
    let refused = play.world.bring_back(version("secret"), &record, &[site("b")]).unwrap_err();
    assert!(matches!(refused, Refusal::Residency { .. }), "{refused}");
    assert!(!play.world.versions.contains_key(&version("secret")));
    play.world.bring_back(version("secret"), &record, &[site("b"), site("a")]).unwrap();
    assert_eq!(play.residency("secret"), "a");
    assert_eq!(play.world.versions[&version("secret")].replicas, [site("a")].into());
    assert_eq!(play.name_raw("secret"), 2);
    assert!(play.world.sources(&version("secret"), &site("b")).is_err());
}

#[test]
fn a_rule_that_came_after_the_name_went_holds_for_what_is_brought_back() {
    let mut play = Play::new(&["a", "b"]);
    play.know("data", None, &["a", "b"]);
    // As it was known when it lost its name: under no rule.
    let record = play.world.versions[&version("data")].clone();
    assert!(play.world.forget_version(&version("data")));
    play.know("data", Some("a"), &["a"]);
    assert!(play.world.forget_version(&version("data")));
    play.world.bring_back(version("data"), &record, &[site("a"), site("b")]).unwrap();
    assert_eq!(play.residency("data"), "a");
    assert_eq!(play.world.versions[&version("data")].replicas, [site("a")].into());
    // A stage that makes the same from something open lifts nothing either.
    play.know("open", None, &["a"]);
    play.submit("p-1", &["x in=open out=o release=o site=a"]);
    play.step("end p-1/x ok o=data");
    assert_eq!(play.residency("data"), "a");
}

/// `raw` with versions `one` to `six`, a day between two.
fn six_days() -> Play {
    let mut play = Play::new(&["a"]);
    for word in ["one", "two", "three", "four", "five", "six"] {
        play.now = play.now + Millis::from_secs(24 * 3_600);
        play.know(word, None, &["a"]);
        play.name_raw(word);
    }
    play.now = play.now + YOUNG;
    play
}

fn rules(text: &str) -> Rules {
    text.parse().unwrap()
}

/// A run of a project that says which versions of `raw` stay.
fn say(play: &mut Play, id: &str, reads: &str, retain: Option<&str>) {
    let mut spec = crate::play::project(id.rsplit_once('-').unwrap().0, &["x in=raw out=o"]);
    spec.data.get_mut(&name("raw")).unwrap().retain = retain.map(rules);
    let data = [(name("raw"), version(reads))].into();
    let id = id.parse().unwrap();
    let submission = Submission { id, spec, code: version("code"), data, by: "ann".into(), force: true };
    play.world.submit(submission, play.now).unwrap();
    play.settle();
}

#[test]
fn what_no_rule_keeps_loses_its_name_when_the_rule_is_said() {
    let mut play = six_days();
    let by = play.by();
    play.world.tag(&name("raw"), &tag("prod"), version("two"), false, by).unwrap();
    // The run reads an old version, which stays as long as it lives.
    say(&mut play, "p-1", "one", Some("last 2"));
    assert_eq!(play.raw(), "1:one 2:two 5:five 6:six");
    let told: Vec<_> =
        play.pruned.iter().map(|pruned| (pruned.number, pruned.by.as_str(), pruned.rules.as_str())).collect();
    assert_eq!(told, [(3, "ann", "last 2 (project p)"), (4, "ann", "last 2 (project p)")]);
    assert!(play.unnamed.contains(&version("three")) && !play.unnamed.contains(&version("one")));
    play.step("end p-1/x ok");
    play.step("retire");
    play.pruned.clear();
    // And then when a version comes.
    play.know("seven", None, &["a"]);
    play.name_raw("seven");
    play.settle();
    assert_eq!(play.raw(), "2:two 6:six 7:seven");
    assert_eq!(play.pruned.len(), 2);
    // Saying the same again changes nothing, saying nothing lets all stay.
    say(&mut play, "p-2", "seven", None);
    play.know("eight", None, &["a"]);
    play.name_raw("eight");
    assert_eq!(play.raw(), "2:two 6:six 7:seven 8:eight");
}

#[test]
fn a_version_stays_if_one_of_several_projects_keeps_it() {
    let mut play = six_days();
    say(&mut play, "p-1", "six", Some("last 4"));
    say(&mut play, "q-1", "six", Some("last 1"));
    assert_eq!(play.raw(), "3:three 4:four 5:five 6:six");
    // A project that reads it without a rule of its own asks for nothing.
    say(&mut play, "r-1", "six", None);
    say(&mut play, "p-2", "six", Some("last 2"));
    assert_eq!(play.raw(), "5:five 6:six");
    let record = &play.world.datasets[&name("raw")];
    assert_eq!(record.rules_in_words(), "last 2 (project p); last 1 (project q)");
}

#[test]
fn what_was_added_just_now_stays_until_whoever_added_it_can_have_submitted() {
    let mut play = six_days();
    say(&mut play, "p-1", "six", Some("last 1"));
    assert_eq!(play.raw(), "6:six");
    // Two people add, and only then submit; the first of them adds what was there already.
    play.name_raw("six");
    play.know("seven", None, &["a"]);
    play.name_raw("seven");
    assert_eq!(play.raw(), "6:six 7:seven");
    say(&mut play, "q-1", "six", None);
    play.now = play.now + YOUNG;
    play.know("eight", None, &["a"]);
    play.name_raw("eight");
    assert_eq!(play.raw(), "6:six 8:eight", "six is read by live runs");
    // A person who says what stays means that too.
    play.know("nine", None, &["a"]);
    play.name_raw("nine");
    let by = play.by();
    let retained = play.world.prune(&name("raw"), Some(&rules("tagged")), by).unwrap();
    assert_eq!((retained.goes, play.raw()), (vec![8], "6:six 9:nine".to_owned()));
}

#[test]
fn a_version_with_two_numbers_needs_one() {
    let mut play = six_days();
    let by = play.by();
    play.world.tag(&name("raw"), &tag("prod"), version("one"), false, by).unwrap();
    play.name_raw("one");
    play.name_raw("six");
    assert_eq!(play.raw(), "1:one 2:two 3:three 4:four 5:five 6:six 7:one 8:six");
    let by = play.by();
    play.world.prune(&name("raw"), Some(&rules("last 1")), by).unwrap();
    assert_eq!(play.raw(), "7:one 8:six");
    assert!(play.world.datasets[&name("raw")].tags.contains_key(&tag("prod")));
}

#[test]
fn another_name_keeps_a_version_whatever_one_dataset_lets_go() {
    let mut play = six_days();
    let by = play.by();
    play.world.name_version(&name("other"), version("one"), None, by).unwrap();
    play.world.prune(&name("raw"), Some(&rules("last 1")), by).unwrap();
    play.settle();
    assert!(play.unnamed.contains(&version("one")), "it is looked at");
    assert!(play.world.is_named(version("one")) && !play.world.is_named(version("two")));
}

#[test]
fn one_act_takes_so_many_names_and_no_more() {
    let mut play = Play::new(&["a"]);
    play.know("x", None, &["a"]);
    play.know("y", None, &["a"]);
    for _ in 0..=PRUNED_MAX / 2 {
        play.name_raw("x");
        play.name_raw("y");
    }
    let by = play.by();
    let left = |play: &Play| play.world.datasets[&name("raw")].versions.len();
    assert_eq!(left(&play), PRUNED_MAX + 2);
    play.world.prune(&name("raw"), Some(&rules("last 1")), by).unwrap();
    assert_eq!(left(&play), 2);
    play.world.prune(&name("raw"), Some(&rules("last 1")), by).unwrap();
    assert_eq!(left(&play), 1);
    assert_eq!(play.world.prune(&name("nope"), None, by).unwrap_err(), Refusal::NoDataset(name("nope")));
}
