//! What a site found in a version's bytes where they were made, and which of its rules do not hold. It holds no value of
//! the data, as it goes where the data may not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::expect::Expect;
use crate::time::Timestamp;

/// Columns that are kept of a table's schema, and columns that rules may be given for.
pub const COLUMNS_MAX: usize = 500;
/// Longest name of a column, and longest words for a type, in bytes.
pub const COLUMN_NAME_BYTES_MAX: usize = 200;
/// Breaches that are kept of one version; further ones are counted.
pub const BREACHES_MAX: usize = 100;
/// Longest words for one rule, in bytes.
pub const RULE_BYTES_MAX: usize = 500;
/// Breaches that an outcome names; further ones are counted.
const BREACHES_SHOWN: usize = 5;

/// A rule that does not hold. It holds no value of the data, as it may go where the data may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breach {
    /// None where it is about the whole table.
    #[serde(default)]
    pub column: Option<String>,
    /// What must hold, in words: `at least 0`.
    pub rule: String,
    /// Rows that break it.
    pub count: u64,
    /// Rows in all.
    pub rows: u64,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Breach { column, rule, count, rows } = self;
        if let Some(column) = column {
            write!(f, "column {column} ")?;
        }
        match column {
            Some(_) if count < rows => write!(f, "must be {rule}: {count} of {rows} rows"),
            Some(_) => write!(f, "must be {rule}"),
            None => f.write_str(rule),
        }
    }
}

/// The outcome of checking a version's rules, when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Checked {
    pub at: Timestamp,
    /// How many rules there were.
    pub rules: u64,
    /// At most [`BREACHES_MAX`].
    pub breaches: Vec<Breach>,
    pub more: u64,
}

impl Checked {
    pub fn new(at: Timestamp, rules: u64, mut breaches: Vec<Breach>) -> Checked {
        let more = breaches.len().saturating_sub(BREACHES_MAX) as u64;
        breaches.truncate(BREACHES_MAX);
        Checked { at, rules, breaches, more }
    }

    pub fn failed(&self) -> bool {
        !self.breaches.is_empty()
    }

    /// The same within the limits, as it comes from elsewhere.
    pub fn bounded(mut self) -> Checked {
        self.keep(BREACHES_MAX);
        for breach in &mut self.breaches {
            breach.column.iter_mut().for_each(|column| shorten(column, COLUMN_NAME_BYTES_MAX));
            shorten(&mut breach.rule, RULE_BYTES_MAX);
        }
        self
    }

    /// Counts the breaches beyond so many instead of telling them.
    pub fn keep(&mut self, breaches_max: usize) {
        let cut = self.breaches.len().saturating_sub(breaches_max) as u64;
        self.breaches.truncate(breaches_max);
        self.more = self.more.saturating_add(cut);
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.failed() {
            let plural = if self.rules == 1 { "rule holds" } else { "rules hold" };
            return write!(f, "{} {plural}", self.rules);
        }
        for (i, breach) in self.breaches.iter().take(BREACHES_SHOWN).enumerate() {
            write!(f, "{}{breach}", if i == 0 { "" } else { "; " })?;
        }
        match self.breaches.len().saturating_sub(BREACHES_SHOWN) as u64 + self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// What a site found in a version's bytes where they were made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// None where its files are no table.
    pub table: Option<Table>,
    /// None where nothing was expected.
    pub checked: Option<Checked>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub format: Format,
    /// None where counting would have taken too long.
    #[serde(default)]
    pub rows: Option<u64>,
    /// At most [`COLUMNS_MAX`].
    #[serde(default)]
    pub columns: Vec<Column>,
    #[serde(default)]
    pub more: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Parquet,
    Csv,
}

impl Format {
    pub fn word(self) -> &'static str {
        match self {
            Format::Parquet => "Parquet",
            Format::Csv => "CSV",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// Arrow's name of the type, such as `Int64`.
    pub kind: String,
    /// None where it is not known without reading everything.
    #[serde(default)]
    pub nulls: Option<u64>,
}

impl Facts {
    pub fn failed(&self) -> bool {
        self.checked.as_ref().is_some_and(Checked::failed)
    }

    /// Takes in what was found later: what is not told anew stays.
    pub fn renew(&mut self, later: Facts) {
        self.table = later.table.or(self.table.take());
        self.checked = later.checked.or(self.checked.take());
    }

    /// Without the names of CSV's columns but those that somebody has written down: a file without a header has values in
    /// their place, and facts go where the data may not.
    pub fn without_guessed_names(mut self, expect: Option<&Expect>) -> Facts {
        let written = |name: &String| expect.is_some_and(|e| e.columns.contains_key(name) || e.unique.contains(name));
        if let Some(table) = self.table.as_mut().filter(|table| table.format == Format::Csv) {
            for (number, column) in table.columns.iter_mut().enumerate().filter(|(_, column)| !written(&column.name)) {
                column.name = format!("column {}", number + 1);
            }
        }
        self
    }

    /// The same within the limits, as it comes from elsewhere.
    pub fn bounded(mut self) -> Facts {
        if let Some(table) = &mut self.table {
            let cut = table.columns.len().saturating_sub(COLUMNS_MAX) as u64;
            table.columns.truncate(COLUMNS_MAX);
            table.more = table.more.saturating_add(cut);
            for column in &mut table.columns {
                shorten(&mut column.name, COLUMN_NAME_BYTES_MAX);
                shorten(&mut column.kind, COLUMN_NAME_BYTES_MAX);
            }
        }
        self.checked = self.checked.map(Checked::bounded);
        self
    }
}

fn shorten(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_kept_within_limits() {
        let breach = Breach { column: Some("ä".repeat(300)), rule: "x".repeat(9_000), count: 1, rows: 2 };
        let column = Column { name: "n".repeat(9_000), kind: "Int64".into(), nulls: None };
        let table = Table { format: Format::Csv, rows: None, columns: vec![column; COLUMNS_MAX + 7], more: 1 };
        let checked = Checked { breaches: vec![breach; BREACHES_MAX + 3], ..Checked::default() };
        let facts = Facts { table: Some(table), checked: Some(checked) }.bounded();
        let (table, checked) = (facts.table.unwrap(), facts.checked.unwrap());
        assert_eq!((table.columns.len(), table.more), (COLUMNS_MAX, 8));
        assert_eq!(table.columns[0].name.len(), COLUMN_NAME_BYTES_MAX);
        assert_eq!((checked.breaches.len(), checked.more), (BREACHES_MAX, 3));
        assert_eq!(checked.breaches[0].rule.len(), RULE_BYTES_MAX);
        assert_eq!(checked.breaches[0].column.as_ref().unwrap().len(), COLUMN_NAME_BYTES_MAX);
        assert!(checked.to_string().ends_with("; and 98 more"), "{checked}");
    }

    #[test]
    fn names_that_nobody_wrote_down_may_be_values() {
        let column = |name: &str| Column { name: name.to_owned(), kind: "Utf8".to_owned(), nulls: None };
        let table =
            |format| Table { format, rows: Some(1), columns: ["anna", "delay", "x"].map(column).into(), more: 0 };
        let expect = Expect {
            columns: [("delay".to_owned(), Default::default())].into(),
            unique: vec!["x".to_owned()],
            ..Expect::default()
        };
        let names = |format, expect: Option<&Expect>| -> Vec<String> {
            let facts = Facts { table: Some(table(format)), checked: None }.without_guessed_names(expect);
            facts.table.unwrap().columns.into_iter().map(|column| column.name).collect()
        };
        assert_eq!(names(Format::Csv, Some(&expect)), ["column 1", "delay", "x"]);
        assert_eq!(names(Format::Csv, None), ["column 1", "column 2", "column 3"]);
        assert_eq!(names(Format::Parquet, None), ["anna", "delay", "x"]);
    }
}
