//! Which versions of a dataset are kept: rules as people write them, and what follows from them.
//!
//! ```text
//! rules = rule { "," rule }
//! rule  = [ "keep" ] ( "last" COUNT | PERIOD "for" SPAN | "all" "for" SPAN | "tagged" )
//! PERIOD = "hourly" | "daily" | "weekly" | "monthly" | "yearly"
//! SPAN  = COUNT ( "hours" | "days" | "weeks" | "months" | "years" )
//! ```
//!
//! A version stays if any rule keeps it. Periods are those of UTC, weeks begin on Monday; of each the newest version stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::RunId;
use crate::tag::Tag;
use crate::time::{Millis, Timestamp};

/// Rules in one text.
pub const RULES_MAX: usize = 16;
/// Versions that `last` may keep.
pub const LAST_MAX: u32 = 100_000;
/// The longest span, in years.
const YEARS_MAX: u32 = 100;
/// Longest text of rules, in bytes.
const TEXT_BYTES_MAX: usize = 1_000;

/// `last 10, daily for 30 days`: at least one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rules(Vec<Rule>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// So many of the newest.
    Last(u32),
    /// Of each period the newest, for so long.
    Each(Period, Span),
    /// Every version, for so long.
    All(Span),
    /// Nothing but what is kept in any case: what has a tag, is in use, or is the newest.
    Tagged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub count: u32,
    pub unit: Period,
}

/// Why a text is no rules, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRules {
    pub what: String,
    pub hint: &'static str,
    /// How far in the fault begins, and how much of the text it is, in characters.
    pub at: usize,
    pub width: usize,
}

impl std::error::Error for BadRules {}

impl fmt::Display for BadRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at character {}; {}", self.what, self.at + 1, self.hint)
    }
}

impl Rules {
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// What either keeps; none where that are too many rules.
    pub fn and(mut self, more: Rules) -> Option<Rules> {
        self.0.extend(more.0);
        (self.0.len() <= RULES_MAX).then_some(self)
    }
}

/// One version of a dataset, as a decision about it needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Higher is newer.
    pub number: u64,
    pub at: Timestamp,
    /// Whether it failed its expectations, so that stages don't get it.
    pub failed: bool,
    /// What keeps it whatever the rules say.
    pub holds: Vec<Reason>,
}

/// Why a version stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Newest,
    /// Newer ones failed their expectations.
    NewestAsExpected,
    Rule(Rule),
    Tag(Tag),
    /// The run, or a service of it, is not over.
    Run(RunId),
    /// It came under its name just now: whoever brought it may be about to name it in a run.
    Young,
}

/// The versions that stay, by number, each with every reason; the others may go.
pub fn retained<'r>(
    versions: &[Candidate],
    rules: impl Iterator<Item = &'r Rule>,
    now: Timestamp,
) -> BTreeMap<u64, Vec<Reason>> {
    let mut newest_first: Vec<&Candidate> = versions.iter().collect();
    newest_first.sort_by_key(|version| std::cmp::Reverse(version.number));
    let mut kept: BTreeMap<u64, Vec<Reason>> = BTreeMap::new();
    if let Some(newest) = newest_first.first() {
        kept.entry(newest.number).or_default().push(Reason::Newest);
    }
    if let Some(good) = newest_first.iter().find(|version| !version.failed).filter(|_| newest_first[0].failed) {
        kept.entry(good.number).or_default().push(Reason::NewestAsExpected);
    }
    for version in &newest_first {
        for hold in &version.holds {
            kept.entry(version.number).or_default().push(hold.clone());
        }
    }
    // What several projects say alike is one reason.
    for rule in rules.copied().collect::<BTreeSet<Rule>>() {
        for number in kept_by(rule, &newest_first, now) {
            kept.entry(number).or_default().push(Reason::Rule(rule));
        }
    }
    kept
}

fn kept_by(rule: Rule, newest_first: &[&Candidate], now: Timestamp) -> Vec<u64> {
    let within = |span: Span| newest_first.iter().filter(move |version| now.since(version.at) <= span.longest());
    match rule {
        Rule::Last(count) => newest_first.iter().take(count as usize).map(|version| version.number).collect(),
        Rule::All(span) => within(span).map(|version| version.number).collect(),
        Rule::Each(period, span) => {
            let mut seen = BTreeSet::new();
            within(span).filter(|version| seen.insert(period.of(version.at))).map(|version| version.number).collect()
        }
        Rule::Tagged => Vec::new(),
    }
}

impl Period {
    const ALL: [Period; 5] = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

    /// As in `daily for 30 days`.
    fn adverb(self) -> &'static str {
        match self {
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
            Period::Year => "year",
        }
    }

    /// The longest that it takes, in hours, so that nothing goes too early.
    fn hours_most(self) -> u64 {
        match self {
            Period::Hour => 1,
            Period::Day => 24,
            Period::Week => 7 * 24,
            Period::Month => 31 * 24,
            Period::Year => 366 * 24,
        }
    }

    /// Which one a moment is in, counted from some moment.
    fn of(self, at: Timestamp) -> i64 {
        const HOUR_MS: i64 = 3_600_000;
        let day = at.0.div_euclid(24 * HOUR_MS);
        match self {
            Period::Hour => at.0.div_euclid(HOUR_MS),
            Period::Day => day,
            // 1970 began on a Thursday.
            Period::Week => (day + 3).div_euclid(7),
            Period::Month => month_of(day),
            Period::Year => month_of(day).div_euclid(12),
        }
    }
}

/// The month of a day since 1970-01-01, as years * 12 + months. Years are counted from March for the while, so that the
/// leap day ends one (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
fn month_of(day: i64) -> i64 {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    (year_of_era + era * 400) * 12 + month_from_march + 2
}

impl Span {
    fn longest(self) -> Millis {
        Millis::from_secs(u64::from(self.count) * self.unit.hours_most() * 3_600)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.count, self.unit.unit())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Last(count) => write!(f, "last {count}"),
            Rule::Each(period, span) => write!(f, "{} for {span}", period.adverb()),
            Rule::All(span) => write!(f, "all for {span}"),
            Rule::Tagged => f.write_str("tagged"),
        }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, rule) in self.0.iter().enumerate() {
            write!(f, "{}{rule}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Newest => f.write_str("the newest"),
            Reason::NewestAsExpected => f.write_str("the newest that is as expected"),
            Reason::Rule(rule) => write!(f, "{rule}"),
            Reason::Tag(tag) => write!(f, "tag {tag}"),
            Reason::Run(run) => write!(f, "run {run}"),
            Reason::Young => f.write_str("added just now"),
        }
    }
}

impl FromStr for Rules {
    type Err = BadRules;

    fn from_str(text: &str) -> Result<Rules, BadRules> {
        if text.len() > TEXT_BYTES_MAX {
            let what = format!("the rules are longer than {TEXT_BYTES_MAX} bytes");
            return Err(BadRules { what, hint: "a few rules are enough", at: 0, width: 1 });
        }
        let mut parser = Parser { words: words(text), next: 0, end: text.chars().count() };
        let mut rules = vec![parser.rule()?];
        while parser.next < parser.words.len() {
            parser.expect(",", "put a comma between two rules")?;
            rules.push(parser.rule()?);
        }
        match rules.len() > RULES_MAX {
            true => Err(parser.fault(format!("there are more than {RULES_MAX} rules"), "a few rules are enough")),
            false => Ok(Rules(rules)),
        }
    }
}

impl TryFrom<String> for Rules {
    type Error = BadRules;
    fn try_from(text: String) -> Result<Rules, BadRules> {
        text.parse()
    }
}

impl From<Rules> for String {
    fn from(rules: Rules) -> String {
        rules.to_string()
    }
}

/// A run of letters, a run of digits, or any other character by itself; and where it is, in characters.
struct Word {
    text: String,
    at: usize,
}

fn words(text: &str) -> Vec<Word> {
    let kind = |c: char| match c {
        c if c.is_ascii_digit() => 0,
        c if c.is_alphabetic() => 1,
        _ => 2,
    };
    let mut words: Vec<Word> = Vec::new();
    let mut before = None;
    for (at, c) in text.chars().enumerate() {
        let joins = kind(c) != 2 && before == Some(kind(c));
        before = (!c.is_whitespace()).then_some(kind(c));
        match words.last_mut().filter(|_| joins) {
            _ if c.is_whitespace() => {}
            Some(word) => word.text.extend(c.to_lowercase()),
            None => words.push(Word { text: c.to_lowercase().collect(), at }),
        }
    }
    words
}

struct Parser {
    words: Vec<Word>,
    next: usize,
    /// The text's length in characters.
    end: usize,
}

const RULE: &str = "such as `last 10`, `daily for 30 days`, `all for 7 days` or `tagged`";
const SPAN: &str = "such as `for 30 days`: hours, days, weeks, months or years";

impl Parser {
    fn peek(&self) -> &str {
        self.words.get(self.next).map_or("", |word| word.text.as_str())
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.peek() == text;
        self.next += usize::from(found);
        found
    }

    /// About the next word.
    fn fault(&self, what: String, hint: &'static str) -> BadRules {
        let word = self.words.get(self.next);
        let (at, width) = word.map_or((self.end, 1), |word| (word.at, word.text.chars().count()));
        BadRules { what, hint, at, width }
    }

    fn unexpected(&self, expected: &str, hint: &'static str) -> BadRules {
        let found = match self.peek() {
            "" => "the end".to_owned(),
            word => format!("`{word}`"),
        };
        self.fault(format!("expected {expected}, found {found}"), hint)
    }

    fn expect(&mut self, text: &str, hint: &'static str) -> Result<(), BadRules> {
        match self.take(text) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("`{text}`"), hint)),
        }
    }

    fn rule(&mut self) -> Result<Rule, BadRules> {
        self.take("keep");
        if self.take("last") {
            return self.count(LAST_MAX, "how many").map(Rule::Last);
        }
        if self.take("tagged") {
            return Ok(Rule::Tagged);
        }
        if self.take("all") {
            return self.span().map(Rule::All);
        }
        match Period::ALL.into_iter().find(|period| period.adverb() == self.peek()) {
            Some(period) => {
                self.next += 1;
                Ok(Rule::Each(period, self.span()?))
            }
            None => Err(self.unexpected("a rule", RULE)),
        }
    }

    fn count(&mut self, most: u32, of: &str) -> Result<u32, BadRules> {
        let text = self.peek();
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.unexpected(of, "give a whole number"));
        }
        match text.parse().ok().filter(|count| (1..=most).contains(count)) {
            Some(count) => {
                self.next += 1;
                Ok(count)
            }
            None => Err(self.fault(format!("{text} is not from 1 to {most}"), "the newest is kept in any case")),
        }
    }

    fn span(&mut self) -> Result<Span, BadRules> {
        self.expect("for", SPAN)?;
        let start = self.next;
        let count = self.count(u32::MAX, "how long")?;
        let text = self.peek();
        let is = |unit: &Period| {
            let word = unit.unit();
            text == word || text.strip_suffix('s') == Some(word) || (*unit <= Period::Week && text == &word[..1])
        };
        let Some(unit) = Period::ALL.into_iter().find(is) else {
            return Err(self.unexpected("hours, days, weeks, months or years", SPAN));
        };
        self.next += 1;
        let span = Span { count, unit };
        if u64::from(count) * unit.hours_most() > u64::from(YEARS_MAX) * Period::Year.hours_most() {
            self.next = start;
            return Err(self.fault(format!("{span} are more than {YEARS_MAX} years"), "leave the rule out to keep all"));
        }
        Ok(span)
    }
}
