//! Tables, times and amounts as people read them. stdout is data; nothing here writes to it but [`json`] and [`text`].

use std::io::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;
use tombolo_core::{Millis, Timestamp};

/// A table without borders; the columns in `right` are numbers. Empty where there are no rows, and without the columns
/// in which nothing is.
pub fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let shown: Vec<usize> = (0..header.len()).filter(|at| rows.iter().any(|row| !row[*at].is_empty())).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(shown.iter().map(|at| Cell::new(header[*at].to_uppercase())));
    for row in &rows {
        table.add_row(shown.iter().map(|at| Cell::new(&row[*at])));
    }
    for (column, at) in table.column_iter_mut().zip(&shown) {
        column.set_padding((0, 2));
        if right.contains(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Data for programs.
pub fn json(value: &impl Serialize) {
    let mut text = serde_json::to_string_pretty(value).expect("what is shown is plain data");
    text.push('\n');
    self::text(&text);
}

/// Data for people. Who reads it may have gone (as `head` does), which is no fault.
pub fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// `3 min 2 s ago`; where it is long ago, the date.
pub fn ago(now: Timestamp, at: i64) -> String {
    let span = now.since(Timestamp(at));
    match span.0 {
        0..1_000 => "now".to_owned(),
        1_000..60_000 => format!("{} s ago", span.0 / 1000),
        60_000..3_600_000 => format!("{} min ago", span.0 / 60_000),
        3_600_000..172_800_000 => format!("{} h ago", span.0 / 3_600_000),
        _ => date(at),
    }
}

/// `2026-11-23 14:05:09`, in the local time zone.
pub fn date(at: i64) -> String {
    match jiff::Timestamp::from_millisecond(at) {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => at.to_string(),
    }
}

/// `14:05:09`, in the local time zone.
pub fn clock(at: i64) -> String {
    date(at).split_once(' ').map_or_else(String::new, |(_, clock)| clock.to_owned())
}

pub fn span(ms: u64) -> String {
    Millis(ms).to_string()
}

/// A column's type in the words that a project file has for it (`integer`, `text`); Arrow's own where it has none.
pub fn kind(arrow: &str) -> &str {
    let plain = arrow.split(['(', '<']).next().unwrap_or(arrow);
    match plain {
        "Utf8" | "LargeUtf8" | "Utf8View" => "text",
        "Boolean" => "boolean",
        "Date32" | "Date64" => "date",
        "Timestamp" => "timestamp",
        _ if plain.starts_with("Int") && !plain.starts_with("Interval") || plain.starts_with("UInt") => "integer",
        _ if plain.starts_with("Float") || plain.starts_with("Decimal") => "number",
        _ => arrow,
    }
}

/// `4.5 MiB`, and `-` for nothing.
pub fn bytes(count: u64) -> String {
    if count == 0 { "-".to_owned() } else { tombolo_core::resources::bytes(count) }
}

/// `$0.12`; below a cent two digits that count; `-` for nothing.
pub fn money(amount: f64) -> String {
    if amount == 0.0 {
        return "-".to_owned();
    }
    if amount.abs() >= 0.01 {
        return format!("${amount:.2}");
    }
    let digits = (1.0 - amount.abs().log10().floor()).clamp(2.0, 9.0) as usize;
    format!("${amount:.digits$}")
}

pub fn dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_in_the_project_files_words() {
        for (arrow, word) in [
            ("Int64", "integer"),
            ("UInt8", "integer"),
            ("Float32", "number"),
            ("Decimal128(10, 2)", "number"),
            ("Utf8View", "text"),
            ("LargeUtf8", "text"),
            ("Boolean", "boolean"),
            ("Date32", "date"),
            ("Timestamp(Millisecond, None)", "timestamp"),
            ("Interval(DayTime)", "Interval(DayTime)"),
            ("Binary", "Binary"),
        ] {
            assert_eq!(kind(arrow), word, "{arrow}");
        }
    }

    #[test]
    fn amounts() {
        let check = |amount: f64, text: &str| assert_eq!(money(amount), text);
        check(0.0, "-");
        check(12.345, "$12.35");
        check(0.01, "$0.01");
        check(0.00123, "$0.0012");
        check(0.000_000_000_1, "$0.000000000");
        assert_eq!(bytes(0), "-");
        assert_eq!(ago(Timestamp(100_000), 100_000), "now");
        assert_eq!(ago(Timestamp(100_000), 40_000), "1 min ago");
        assert_eq!(ago(Timestamp(100_000), 200_000), "now");
    }

    #[test]
    fn types_have_the_words_of_a_project_file() {
        for (arrow, word) in [
            ("Int64", "integer"),
            ("UInt8", "integer"),
            ("Utf8View", "text"),
            ("Decimal128(10, 2)", "number"),
            ("Timestamp(ns, \"UTC\")", "timestamp"),
            ("Timestamp(µs)", "timestamp"),
            ("Date32", "date"),
            ("Interval(DayTime)", "Interval(DayTime)"),
            ("List(Int64)", "List(Int64)"),
        ] {
            assert_eq!(kind(arrow), word, "{arrow}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["longer".into(), "123".into()]];
        insta::assert_snapshot!(table(&["name", "n"], &[1], rows), @r"
        NAME      N
        a         1
        longer  123
        ");
        assert_eq!(table(&["name"], &[], vec![]), "");
        let rows = vec![vec!["a".into(), String::new(), "1".into()], vec!["b".into(), String::new(), "20".into()]];
        assert_eq!(table(&["name", "note", "n"], &[2], rows), "NAME   N\na      1\nb     20\n");
    }
}
