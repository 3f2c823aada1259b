//! Rules of retention: how they are written, what they keep, and what holds of any rules and any versions.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tombolo_core::retention::{Candidate, Period, Reason, Rule, Rules, Span, retained};
use tombolo_core::{Tag, Timestamp};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// 2026-11-20T12:00:00Z, a Friday.
const NOON: i64 = 1_795_176_000_000;

fn rules(text: &str) -> Rules {
    text.parse().unwrap_or_else(|bad| panic!("{text}: {bad}"))
}

#[test]
fn rules_are_read_and_written() {
    let check = |text: &str, again: &str| assert_eq!(rules(text).to_string(), again, "{text}");
    check("last 10", "last 10");
    check("keep last 10, daily for 30 days", "last 10, daily for 30 days");
    check("Keep Last 10,keep DAILY for 30days", "last 10, daily for 30 days");
    check("hourly for 1 hour, weekly for 4w, daily for 2d", "hourly for 1 hour, weekly for 4 weeks, daily for 2 days");
    check("monthly for 12 months, yearly for 1 year", "monthly for 12 months, yearly for 1 year");
    check("all for 36h ,tagged", "all for 36 hours, tagged");
    for text in ["last 10, daily for 30 days", "all for 1 day, tagged, yearly for 100 years"] {
        assert_eq!(rules(&rules(text).to_string()), rules(text));
    }
    assert!(rules("last 1, last 2").and(rules("tagged")).is_some());
    let many = vec!["last 1"; 16].join(", ");
    assert!(rules(&many).and(rules("tagged")).is_none());
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let check = |text: &str, at: usize, width: usize, what: &str| {
        let bad = text.parse::<Rules>().unwrap_err();
        assert_eq!((bad.at, bad.width, bad.what.as_str()), (at, width, what), "{text}");
    };
    check("", 0, 1, "expected a rule, found the end");
    check("last 10, dayly for 30 days", 9, 5, "expected a rule, found `dayly`");
    check("last ten", 5, 3, "expected how many, found `ten`");
    check("last 0", 5, 1, "0 is not from 1 to 100000");
    check("last 99999999999", 5, 11, "99999999999 is not from 1 to 100000");
    check("last 3 daily for 2 weeks", 7, 5, "expected `,`, found `daily`");
    check("last 3,", 7, 1, "expected a rule, found the end");
    check("daily", 5, 1, "expected `for`, found the end");
    check("daily for 3", 11, 1, "expected hours, days, weeks, months or years, found the end");
    check("daily for 3 m", 12, 1, "expected hours, days, weeks, months or years, found `m`");
    check("daily for 101 years", 10, 3, "101 years are more than 100 years");
    check("all for 3.5 days", 9, 1, "expected hours, days, weeks, months or years, found `.`");
    check("é last 3", 0, 1, "expected a rule, found `é`");
    check(&vec!["last 1"; 17].join(", "), 134, 1, "there are more than 16 rules");
    assert!("x".repeat(2_000).parse::<Rules>().is_err());
}

/// Versions numbered from one, each so many milliseconds before noon.
fn versions(ages: &[i64]) -> Vec<Candidate> {
    let one =
        |(number, age): (u64, &i64)| Candidate { number, at: Timestamp(NOON - age), failed: false, holds: vec![] };
    (1..).zip(ages).map(one).collect()
}

fn kept(versions: &[Candidate], text: &str) -> Vec<u64> {
    retained(versions, rules(text).iter(), Timestamp(NOON)).into_keys().collect()
}

#[test]
fn the_newest_of_each_period_stays() {
    let check = |text: &str, ages: &[i64], numbers: &[u64]| {
        assert_eq!(kept(&versions(ages), text), numbers, "{text}");
    };
    let daily = [3 * DAY, 2 * DAY + HOUR, 2 * DAY, DAY, 2 * HOUR, HOUR, 0];
    check("last 1", &daily, &[7]);
    check("last 3", &daily, &[5, 6, 7]);
    check("last 100", &daily, &[1, 2, 3, 4, 5, 6, 7]);
    check("tagged", &daily, &[7]);
    check("daily for 30 days", &daily, &[1, 3, 4, 7]);
    check("daily for 2 days", &daily, &[3, 4, 7]);
    check("hourly for 1 hour", &daily, &[6, 7]);
    check("all for 2 hours", &daily, &[5, 6, 7]);
    check("last 2, daily for 1 day", &daily, &[4, 6, 7]);
    // The day turns at midnight UTC, the week with Monday, the month and the year with their first.
    check("daily for 3 days", &[12 * HOUR + 1, 12 * HOUR, 0], &[1, 3]);
    check("weekly for 9 weeks", &[4 * DAY + 12 * HOUR + 1, 4 * DAY + 12 * HOUR, 0], &[1, 3]);
    check("monthly for 12 months", &[19 * DAY + 12 * HOUR + 1, 19 * DAY + 12 * HOUR, 0], &[1, 3]);
    check("yearly for 3 years", &[323 * DAY + 12 * HOUR + 1, 323 * DAY + 12 * HOUR, 0], &[1, 3]);
    check("monthly for 1 month", &[40 * DAY, 25 * DAY, 0], &[2, 3]);
    check("last 3", &[], &[]);
}

#[test]
fn leap_days_belong_to_february() {
    // 2024-02-28, -29, 2024-03-01, and 1969-12-31, 1970-01-01.
    let at = |day: i64| Candidate { number: (day + 10) as u64, at: Timestamp(day * DAY), failed: false, holds: vec![] };
    let months = |days: &[i64]| {
        let all: Vec<_> = days.iter().copied().map(at).collect();
        let kept = retained(&all, rules("monthly for 100 years").iter(), Timestamp(days[days.len() - 1] * DAY));
        kept.into_keys().map(|number| number as i64 - 10).collect::<Vec<_>>()
    };
    assert_eq!(months(&[19_781, 19_782, 19_783]), [19_782, 19_783]);
    assert_eq!(months(&[-1, 0]), [-1, 0]);
}

#[test]
fn every_reason_is_told() {
    let mut all = versions(&[9 * DAY, DAY, 0]);
    all[0].holds = vec![Reason::Tag(Tag::new("prod").unwrap()), Reason::Run("flights-7".parse().unwrap())];
    let kept = retained(&all, rules("last 2, daily for 3 days, last 2").iter(), Timestamp(NOON));
    let words = |number: u64| kept[&number].iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    assert_eq!(words(1), "tag prod, run flights-7");
    assert_eq!(words(2), "last 2, daily for 3 days");
    assert_eq!(words(3), "the newest, last 2, daily for 3 days");
    let mut all = versions(&[9 * DAY, 5 * DAY, DAY, 0]);
    (all[2].failed, all[3].failed) = (true, true);
    let kept = retained(&all, rules("last 1").iter(), Timestamp(NOON));
    let words = |number: u64| kept[&number].iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    assert_eq!(
        (kept.len(), words(2).as_str(), words(4).as_str()),
        (2, "the newest that is as expected", "the newest, last 1")
    );
}

fn any_period() -> impl Strategy<Value = Period> {
    prop_oneof![Just(Period::Hour), Just(Period::Day), Just(Period::Week), Just(Period::Month), Just(Period::Year)]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let span = || (1u32..40, any_period()).prop_map(|(count, unit)| Span { count, unit });
    prop_oneof![
        (1u32..12).prop_map(Rule::Last),
        (any_period(), span()).prop_map(|(period, span)| Rule::Each(period, span)),
        span().prop_map(Rule::All),
        Just(Rule::Tagged),
    ]
}

/// Mostly in order of time, as clocks may be set back.
fn any_versions() -> impl Strategy<Value = Vec<Candidate>> {
    let hold = prop_oneof![
        8 => Just(vec![]),
        1 => Just(vec![Reason::Run("p-1".parse().unwrap())]),
        1 => Just(vec![Reason::Tag(Tag::new("prod").unwrap())]),
    ];
    proptest::collection::vec((0i64..60 * DAY, any::<bool>(), hold), 0..30).prop_map(|mut all| {
        all.sort_by_key(|(age, ..)| std::cmp::Reverse(*age / (3 * HOUR)));
        let one = |(number, (age, failed, holds))| Candidate { number, at: Timestamp(NOON - age), failed, holds };
        (1..).zip(all).map(one).collect()
    })
}

fn keep(versions: &[Candidate], rules: &[Rule]) -> BTreeMap<u64, Vec<Reason>> {
    retained(versions, rules.iter(), Timestamp(NOON))
}

proptest! {
    #[test]
    fn the_newest_and_what_is_held_stay(all in any_versions(), rules in proptest::collection::vec(any_rule(), 1..5)) {
        let kept = keep(&all, &rules);
        if let Some(newest) = all.last() {
            prop_assert!(kept[&newest.number].contains(&Reason::Newest));
        }
        // Stages are never left without what they could have had.
        if let Some(good) = all.iter().rev().find(|version| !version.failed) {
            prop_assert!(kept.contains_key(&good.number));
        }
        for version in all.iter().filter(|version| !version.holds.is_empty()) {
            prop_assert!(version.holds.iter().all(|hold| kept[&version.number].contains(hold)));
        }
        let known: BTreeSet<u64> = all.iter().map(|version| version.number).collect();
        prop_assert!(kept.keys().all(|number| known.contains(number)), "nothing is kept that is not there");
        prop_assert!(kept.values().all(|reasons| !reasons.is_empty()));
    }

    #[test]
    fn more_rules_never_keep_less(
        all in any_versions(),
        some in proptest::collection::vec(any_rule(), 1..4),
        more in proptest::collection::vec(any_rule(), 0..4),
    ) {
        let few: BTreeSet<u64> = keep(&all, &some).into_keys().collect();
        let many: BTreeSet<u64> = keep(&all, &[some, more].concat()).into_keys().collect();
        prop_assert!(few.is_subset(&many));
    }

    #[test]
    fn a_second_time_changes_nothing(all in any_versions(), rules in proptest::collection::vec(any_rule(), 1..5)) {
        let once = keep(&all, &rules);
        let left: Vec<Candidate> = all.into_iter().filter(|version| once.contains_key(&version.number)).collect();
        prop_assert_eq!(keep(&left, &rules), once);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(keep|last|daily|weekly|for|all|tagged|days|w|,| |[0-9]){0,14}|\\PC{0,40}") {
        match text.parse::<Rules>() {
            Ok(rules) => prop_assert_eq!(rules.to_string().parse::<Rules>(), Ok(rules)),
            Err(bad) => prop_assert!(bad.at <= text.chars().count() && bad.width > 0),
        }
    }
}
