//! Names that versions have, the numbers under them, and the tags on them.

use crate::play::{Play, name, version};
use tombolo_core::Tag;
use tombolo_core::world::{By, Refusal, TAGS_MAX, Which};

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
