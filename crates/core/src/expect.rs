//! What a dataset is expected to be: the rules, and whether a measure breaks one.
//!
//! The rules come from the project file; a site measures them over a version's bytes ([`Seen`]), and whether a measure
//! breaks its rule is decided here. What leaves the site are columns, rules and counts, never values.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::facts::Breach;
use crate::time::{Millis, Timestamp};

/// Values that one set may have.
pub const SET_VALUES_MAX: usize = 1_000;
/// Values of a set that a rule's words name.
const SET_VALUES_SHOWN: usize = 5;

/// The rules for one dataset or output.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Expect {
    pub rows_min: Option<u64>,
    pub rows_max: Option<u64>,
    /// Every one of them must be there; others may be there too.
    pub columns: BTreeMap<String, ColumnExpect>,
    /// Columns whose values together occur once. Rows with a null in one of them don't count.
    pub unique: Vec<String>,
    pub on_failure: OnFailure,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ColumnExpect {
    pub kind: Option<ColumnKind>,
    /// The largest share of rows that may be null, from 0 to 1; none: any.
    pub nulls_max: Option<f64>,
    pub min: Option<Value>,
    pub max: Option<Value>,
    /// Empty: any value.
    pub one_of: Vec<Value>,
    pub unique: bool,
    /// How old the newest value may be.
    pub fresh: Option<Millis>,
}

/// What becomes of a version that breaks a rule. It is kept and marked in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// No stage gets it.
    #[default]
    Refuse,
    Use,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    Integer,
    /// Integers too.
    Number,
    Text,
    Boolean,
    Date,
    Timestamp,
}

impl ColumnKind {
    pub const ALL: [ColumnKind; 6] = [
        ColumnKind::Integer,
        ColumnKind::Number,
        ColumnKind::Text,
        ColumnKind::Boolean,
        ColumnKind::Date,
        ColumnKind::Timestamp,
    ];

    pub fn word(self) -> &'static str {
        match self {
            ColumnKind::Integer => "integer",
            ColumnKind::Number => "number",
            ColumnKind::Text => "text",
            ColumnKind::Boolean => "boolean",
            ColumnKind::Date => "date",
            ColumnKind::Timestamp => "timestamp",
        }
    }

    /// Whether a column of the kind `found` is what `self` asks for.
    pub fn takes(self, found: ColumnKind) -> bool {
        self == found || (self == ColumnKind::Number && found == ColumnKind::Integer)
    }
}

/// A value in a rule. Dates and timestamps are texts, as ISO 8601 has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Number(value) => write!(f, "{value}"),
            Value::Text(value) => write!(f, "{value:?}"),
        }
    }
}

/// One thing that is measured by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    Rows { min: Option<u64>, max: Option<u64> },
    Present { column: String },
    Kind { column: String, kind: ColumnKind },
    Nulls { column: String, share: f64 },
    Min { column: String, value: Value },
    Max { column: String, value: Value },
    OneOf { column: String, values: Vec<Value> },
    Unique { columns: Vec<String> },
    Fresh { column: String, within: Millis },
}

/// What was measured for a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A column that it is about is not there, which [`Rule::Present`] tells.
    NoColumn,
    /// Rows that break it; of [`Rule::Nulls`], rows that are null.
    Rows(u64),
    /// It can't be measured on such a column: why, in words.
    Unfit(String),
    /// The newest value; none where there is no value at all.
    Newest(Option<Timestamp>),
}

impl Expect {
    /// All that is to be measured; empty where nothing is expected.
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.rows_min.is_some() || self.rows_max.is_some() {
            rules.push(Rule::Rows { min: self.rows_min, max: self.rows_max });
        }
        for (name, expect) in &self.columns {
            expect.rules(name, &mut rules);
        }
        for column in self.unique.iter().filter(|column| !self.columns.contains_key(*column)) {
            rules.push(Rule::Present { column: column.clone() });
        }
        if !self.unique.is_empty() {
            rules.push(Rule::Unique { columns: self.unique.clone() });
        }
        rules
    }
}

impl ColumnExpect {
    fn rules(&self, name: &str, rules: &mut Vec<Rule>) {
        let column = || name.to_owned();
        rules.push(Rule::Present { column: column() });
        rules.extend(self.kind.map(|kind| Rule::Kind { column: column(), kind }));
        rules.extend(self.nulls_max.map(|share| Rule::Nulls { column: column(), share }));
        rules.extend(self.min.clone().map(|value| Rule::Min { column: column(), value }));
        rules.extend(self.max.clone().map(|value| Rule::Max { column: column(), value }));
        if !self.one_of.is_empty() {
            rules.push(Rule::OneOf { column: column(), values: self.one_of.clone() });
        }
        if self.unique {
            rules.push(Rule::Unique { columns: vec![column()] });
        }
        rules.extend(self.fresh.map(|within| Rule::Fresh { column: column(), within }));
    }
}

impl Rule {
    /// The columns that it is about.
    pub fn columns(&self) -> &[String] {
        match self {
            Rule::Rows { .. } => &[],
            Rule::Unique { columns } => columns,
            Rule::Present { column }
            | Rule::Kind { column, .. }
            | Rule::Nulls { column, .. }
            | Rule::Min { column, .. }
            | Rule::Max { column, .. }
            | Rule::OneOf { column, .. }
            | Rule::Fresh { column, .. } => std::slice::from_ref(column),
        }
    }

    /// Whether what was measured in a table of so many rows breaks the rule.
    pub fn judge(&self, rows: u64, seen: &Seen, now: Timestamp) -> Option<Breach> {
        let breach = |rule: String, count: u64| {
            let column = (!self.columns().is_empty()).then(|| self.columns().join(", "));
            Some(Breach { column, rule, count, rows })
        };
        match (self, seen) {
            (Rule::Rows { min, max }, _) => {
                let fits = min.is_none_or(|min| rows >= min) && max.is_none_or(|max| rows <= max);
                if fits { None } else { breach(format!("{self}, and has {rows}"), rows) }
            }
            (Rule::Present { .. }, Seen::NoColumn) => breach(self.to_string(), rows),
            (_, Seen::NoColumn) => None,
            (_, Seen::Unfit(why)) => breach(format!("{self}, and {why}"), rows),
            (Rule::Nulls { share, .. }, Seen::Rows(nulls)) => {
                let most = share * rows as f64;
                if *nulls as f64 <= most { None } else { breach(self.to_string(), *nulls) }
            }
            (Rule::Fresh { within, .. }, Seen::Newest(newest)) => {
                // A value of the time to come is new.
                let fresh = newest.is_some_and(|newest| newest >= now || now.since(newest) <= *within);
                if fresh { None } else { breach(self.to_string(), rows) }
            }
            (_, Seen::Rows(0) | Seen::Newest(_)) => None,
            (_, Seen::Rows(count)) => breach(self.to_string(), *count),
        }
    }
}

/// What must hold of the column, or of the table where it is about no column.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Rows { min: Some(min), max: Some(max) } => {
                write!(f, "the table must have {min} to {max} rows")
            }
            Rule::Rows { min: Some(min), max: None } => write!(f, "the table must have at least {min} rows"),
            Rule::Rows { min: None, max: Some(max) } => write!(f, "the table must have at most {max} rows"),
            Rule::Rows { min: None, max: None } => f.write_str("the table may have any number of rows"),
            Rule::Present { .. } => f.write_str("there"),
            Rule::Kind { kind, .. } => f.write_str(kind.word()),
            Rule::Nulls { share: 0.0, .. } => f.write_str("not null"),
            Rule::Nulls { share, .. } => write!(f, "null in at most {}% of the rows", share * 100.0),
            Rule::Min { value, .. } => write!(f, "at least {value}"),
            Rule::Max { value, .. } => write!(f, "at most {value}"),
            Rule::OneOf { values, .. } => {
                let shown: Vec<String> = values.iter().take(SET_VALUES_SHOWN).map(Value::to_string).collect();
                write!(f, "one of {}", shown.join(", "))?;
                match values.len().saturating_sub(SET_VALUES_SHOWN) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Rule::Unique { columns } if columns.len() > 1 => f.write_str("unique together"),
            Rule::Unique { .. } => f.write_str("unique"),
            Rule::Fresh { within, .. } => write!(f, "new: its newest value at most {within} old"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn column() -> String {
        "delay".to_owned()
    }

    #[test]
    fn a_measure_breaks_a_rule_or_holds() {
        let check = |rule: Rule, rows: u64, seen: Seen, expected: &str| {
            let breach = rule.judge(rows, &seen, NOW).map(|breach| breach.to_string());
            assert_eq!(breach.unwrap_or_default(), expected, "{rule:?} {seen:?}");
        };
        let rows = |min, max| Rule::Rows { min, max };
        check(rows(Some(3), None), 3, Seen::Rows(0), "");
        check(rows(Some(4), None), 3, Seen::Rows(0), "the table must have at least 4 rows, and has 3");
        check(rows(Some(1), Some(2)), 3, Seen::Rows(0), "the table must have 1 to 2 rows, and has 3");
        check(rows(None, Some(2)), 0, Seen::Rows(0), "");

        check(Rule::Present { column: column() }, 9, Seen::NoColumn, "column delay must be there");
        check(Rule::Present { column: column() }, 9, Seen::Rows(0), "");
        // Its absence is told once.
        check(Rule::Min { column: column(), value: Value::Integer(0) }, 9, Seen::NoColumn, "");

        let min = Rule::Min { column: column(), value: Value::Integer(0) };
        check(min.clone(), 9, Seen::Rows(2), "column delay must be at least 0: 2 of 9 rows");
        check(min.clone(), 9, Seen::Rows(9), "column delay must be at least 0");
        check(min, 9, Seen::Unfit("is Utf8".into()), "column delay must be at least 0, and is Utf8");

        let nulls = |share| Rule::Nulls { column: column(), share };
        check(nulls(0.0), 9, Seen::Rows(0), "");
        check(nulls(0.0), 9, Seen::Rows(1), "column delay must be not null: 1 of 9 rows");
        check(nulls(0.25), 8, Seen::Rows(2), "");
        check(nulls(0.25), 8, Seen::Rows(3), "column delay must be null in at most 25% of the rows: 3 of 8 rows");
        check(nulls(0.0), 0, Seen::Rows(0), "");

        let fresh = Rule::Fresh { column: column(), within: Millis(1_000) };
        check(fresh.clone(), 9, Seen::Newest(Some(Timestamp(NOW.0 - 1_000))), "");
        check(fresh.clone(), 9, Seen::Newest(Some(Timestamp(NOW.0 + 5))), "");
        let stale = "column delay must be new: its newest value at most 1.0 s old";
        check(fresh.clone(), 9, Seen::Newest(Some(Timestamp(NOW.0 - 1_001))), stale);
        check(fresh, 9, Seen::Newest(None), stale);

        let unique = Rule::Unique { columns: vec!["a".into(), "b".into()] };
        check(unique, 9, Seen::Rows(4), "column a, b must be unique together: 4 of 9 rows");
    }

    #[test]
    fn every_key_becomes_a_rule() {
        let column = ColumnExpect {
            kind: Some(ColumnKind::Number),
            nulls_max: Some(0.0),
            min: Some(Value::Integer(0)),
            max: Some(Value::Number(1.5)),
            one_of: vec![Value::Text("a".into())],
            unique: true,
            fresh: Some(Millis(1)),
        };
        let expect = Expect {
            rows_min: Some(1),
            rows_max: None,
            columns: BTreeMap::from([("a".to_owned(), column)]),
            unique: vec!["a".into(), "b".into()],
            on_failure: OnFailure::Refuse,
        };
        let words: Vec<String> = expect.rules().iter().map(Rule::to_string).collect();
        let expected = [
            "the table must have at least 1 rows",
            "there",
            "number",
            "not null",
            "at least 0",
            "at most 1.5",
            "one of \"a\"",
            "unique",
            "new: its newest value at most 1 ms old",
            "there",
            "unique together",
        ];
        assert_eq!(words, expected);
        assert!(Expect::default().rules().is_empty());
    }
}
