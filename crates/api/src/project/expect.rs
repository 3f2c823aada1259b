//! What a dataset or an output is expected to be: the `expect` key.

use std::collections::BTreeMap;

use tombolo_core::expect::{ColumnExpect, ColumnKind, Expect, OnFailure, SET_VALUES_MAX, Value as Bound};
use tombolo_core::facts::{COLUMN_NAME_BYTES_MAX, COLUMNS_MAX};

use super::fault::{Span, quoted};
use super::node::{Key, Node, Value};
use super::read::{Fields, Reader, Word};
use super::table;

/// Columns that may be unique together.
const UNIQUE_COLUMNS_MAX: usize = 16;

impl Reader<'_, '_> {
    /// The expectations of a stage's outputs.
    pub fn expects(&mut self, node: &Node) -> Vec<(Word, Expect)> {
        let mut expects = Vec::new();
        for entry in self.entries(node, "a mapping from outputs to what they must be") {
            self.check_name(&entry.key.text, entry.key.span);
            let word = Word { text: entry.key.text.clone(), span: entry.key.span };
            let whose = format!("`expect` of {}", quoted(&word.text));
            expects.extend(self.expect(&entry.node, &whose).map(|expect| (word, expect)));
        }
        expects
    }

    pub fn expect(&mut self, node: &Node, whose: &str) -> Option<Expect> {
        let fields = self.fields(node, &table::EXPECT, &[], whose)?;
        let (rows_min, rows_max) = fields.get("rows").map(|node| self.rows(node)).unwrap_or_default();
        let columns = fields.get("columns").map(|node| self.columns(node)).unwrap_or_default();
        let unique = fields.get("unique").map(|node| self.unique(node)).unwrap_or_default();
        let on_failure = match fields.get("on_failure").map(|node| (node, node.text())) {
            None | Some((_, Some("refuse"))) => OnFailure::Refuse,
            Some((_, Some("use"))) => OnFailure::Use,
            Some((node, _)) => {
                self.wrong_type(node, "`refuse` or `use`");
                OnFailure::Refuse
            }
        };
        fields.finish();
        Some(Expect { rows_min, rows_max, columns, unique, on_failure })
    }

    fn rows(&mut self, node: &Node) -> (Option<u64>, Option<u64>) {
        let Some(fields) = self.fields(node, &table::ROWS, &[], "`rows`") else { return (None, None) };
        let mut bound = |key| {
            let count = fields.get(key).and_then(|node| self.whole(node, 0, i64::MAX));
            count.and_then(|count| u64::try_from(count).ok())
        };
        let (min, max) = (bound("min"), bound("max"));
        fields.finish();
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            self.fault(node.span, format!("no table has at least {min} and at most {max} rows"), "swap them");
        }
        (min, max)
    }

    /// A column or a list of columns.
    fn unique(&mut self, node: &Node) -> Vec<String> {
        let items: Vec<&Node> = match &node.value {
            Value::List(items) => items.iter().map(|item| &**item).collect(),
            _ => vec![node],
        };
        if items.len() > UNIQUE_COLUMNS_MAX {
            self.fault(node.span, format!("more than {UNIQUE_COLUMNS_MAX} columns can't be unique together"), "");
            return Vec::new();
        }
        let mut columns: Vec<String> = Vec::new();
        for item in items {
            let Some(text) = self.text(item, "a column's name") else { continue };
            self.check_column(&text, item.span);
            if columns.contains(&text) {
                self.fault(item.span, format!("the column {} is listed twice", quoted(&text)), "list it once");
            } else {
                columns.push(text);
            }
        }
        columns
    }

    fn check_column(&mut self, name: &str, span: Span) {
        if name.is_empty() || name.len() > COLUMN_NAME_BYTES_MAX || name.contains(|c: char| c.is_control()) {
            let message = format!("{} can't be a column's name", quoted(name));
            self.fault(span, message, format!("names have 1 to {COLUMN_NAME_BYTES_MAX} bytes"));
        }
    }

    fn columns(&mut self, node: &Node) -> BTreeMap<String, ColumnExpect> {
        let entries = self.entries(node, "a mapping from columns to what they must be");
        if entries.len() > COLUMNS_MAX {
            self.fault(node.span, format!("there are more than {COLUMNS_MAX} columns"), "keep those that matter most");
            return BTreeMap::new();
        }
        let mut columns = BTreeMap::new();
        for entry in entries {
            self.check_column(&entry.key.text, entry.key.span);
            columns.insert(entry.key.text.clone(), self.column(&entry.key, &entry.node));
        }
        columns
    }

    fn column(&mut self, key: &Key, node: &Node) -> ColumnExpect {
        let mut column = ColumnExpect::default();
        // A column that must only be there.
        if node.is_null() {
            return column;
        }
        if node.text().is_some() {
            column.kind = self.kind(node);
            return column;
        }
        let whose = format!("column {}", quoted(&key.text));
        let Some(fields) = self.fields(node, &table::COLUMN, &[], &whose) else { return column };
        column.kind = fields.get("type").and_then(|node| self.kind(node));
        column.nulls_max = self.nulls(&fields);
        column.min = fields.get("min").and_then(|node| self.bound(node));
        column.max = fields.get("max").and_then(|node| self.bound(node));
        column.one_of = fields.get("in").map(|node| self.set(node)).unwrap_or_default();
        column.unique = fields.get("unique").and_then(|node| self.flag(node)).unwrap_or_default();
        column.fresh = fields.get("fresh").and_then(|node| self.span(node));
        self.check_bounds(&fields, &column, &whose);
        fields.finish();
        column
    }

    fn kind(&mut self, node: &Node) -> Option<ColumnKind> {
        let kind = ColumnKind::ALL.into_iter().find(|kind| node.text() == Some(kind.word()));
        if kind.is_none() {
            let words: Vec<&str> = ColumnKind::ALL.into_iter().map(ColumnKind::word).collect();
            self.wrong_type(node, &format!("a type: one of `{}`", words.join("`, `")));
        }
        kind
    }

    fn nulls(&mut self, fields: &Fields) -> Option<f64> {
        let not_null = fields.get("not_null").and_then(|node| self.flag(node)).unwrap_or_default();
        let share = fields.get("nulls").and_then(|node| {
            let share = self.number(node, "a share from 0 to 1")?;
            if !(0.0..=1.0).contains(&share) {
                self.wrong_type(node, "a share from 0 to 1");
            }
            Some(share)
        });
        match (not_null, share, fields.span("nulls")) {
            (true, Some(_), Some(span)) => {
                self.fault(span, "`nulls` means nothing beside `not_null: true`", "leave one of them out");
                None
            }
            (true, ..) => Some(0.0),
            (false, share, _) => share,
        }
    }

    pub fn flag(&mut self, node: &Node) -> Option<bool> {
        match node.text() {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => {
                self.wrong_type(node, "`true` or `false`");
                None
            }
        }
    }

    /// A number, a text (also a date or a timestamp), or a boolean; what is quoted is a text.
    fn bound(&mut self, node: &Node) -> Option<Bound> {
        let text = self.scalar(node, "a number or a text")?;
        if matches!(node.value, Value::Scalar { plain: false, .. }) {
            return Some(Bound::Text(text));
        }
        // A code such as 007 is no number, although it is not quoted.
        let digits = text.trim_start_matches(['-', '+']);
        if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Some(Bound::Text(text));
        }
        if let Ok(number) = text.parse() {
            return Some(Bound::Integer(number));
        }
        match (text.as_str(), text.parse::<f64>()) {
            ("true" | "false", _) => Some(Bound::Boolean(text == "true")),
            (_, Ok(number)) if number.is_finite() => Some(Bound::Number(number)),
            _ => Some(Bound::Text(text)),
        }
    }

    fn set(&mut self, node: &Node) -> Vec<Bound> {
        let Value::List(items) = &node.value else {
            self.wrong_type(node, "a list of values such as `[AA, UA]`");
            return Vec::new();
        };
        if items.is_empty() || items.len() > SET_VALUES_MAX {
            let message = format!("the set has {} values; 1 to {SET_VALUES_MAX} are fine", items.len());
            self.fault(node.span, message, "leave `in` out where any value will do");
            return Vec::new();
        }
        items.iter().filter_map(|item| self.bound(item)).collect()
    }

    /// What can't be together: a bound that no value of the type reaches, or two bounds with nothing between them.
    fn check_bounds(&mut self, fields: &Fields, column: &ColumnExpect, whose: &str) {
        if let (Some(min), Some(max), Some(span)) = (&column.min, &column.max, fields.span("max")) {
            let crossed = match (number(min), number(max)) {
                (Some(min), Some(max)) => min > max,
                _ => matches!((min, max), (Bound::Text(min), Bound::Text(max)) if min > max),
            };
            if crossed {
                self.fault(span, format!("{whose} can't be at least {min} and at most {max}"), "swap them");
            }
        }
        let Some(kind) = column.kind else { return };
        let bounds = [("min", &column.min), ("max", &column.max)].into_iter();
        let all = bounds.flat_map(|(key, value)| value.iter().map(move |value| (key, value)));
        for (key, value) in all.chain(column.one_of.iter().map(|value| ("in", value))) {
            let fits = match kind {
                ColumnKind::Integer | ColumnKind::Number => number(value).is_some(),
                ColumnKind::Boolean => matches!(value, Bound::Boolean(_)),
                ColumnKind::Date | ColumnKind::Timestamp => matches!(value, Bound::Text(_)),
                // Codes are often written without quotes.
                ColumnKind::Text => true,
            };
            if let Some(span) = fields.span(key).filter(|_| !fits) {
                let message = format!("`{key}` of {whose} holds {value}, and its type is {}", kind.word());
                self.fault(span, message, "give values of that type");
                break;
            }
        }
        if let Some(span) = fields.span("fresh").filter(|_| !matches!(kind, ColumnKind::Date | ColumnKind::Timestamp)) {
            let message = format!("`fresh` looks for the newest value, and {whose} is {}", kind.word());
            self.fault(span, message, "give it for a date or a timestamp");
        }
    }
}

fn number(value: &Bound) -> Option<f64> {
    match value {
        Bound::Integer(number) => Some(*number as f64),
        Bound::Number(number) => Some(*number),
        Bound::Boolean(_) | Bound::Text(_) => None,
    }
}
