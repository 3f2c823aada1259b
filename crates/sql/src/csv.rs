//! CSV read once: its columns, the types that all their values fit, how many values each lacks, and its rows.
//!
//! Types are those that the engine reads CSV as. Its own way of telling them matches every value against a set of
//! patterns; this looks at each byte once, several times as fast, so that adding data isn't held up by it.

use std::fs;
use std::path::Path;

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};

/// What one file holds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub columns: Vec<ToldColumn>,
    pub rows: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ToldColumn {
    pub name: String,
    /// The kinds that were seen, a bit for each.
    kinds: u16,
    pub nulls: u64,
}

const BOOLEAN: u16 = 1 << 0;
const INTEGER: u16 = 1 << 1;
const FLOAT: u16 = 1 << 2;
const DATE: u16 = 1 << 3;
const SECONDS: u16 = 1 << 4;
const MILLIS: u16 = 1 << 5;
const MICROS: u16 = 1 << 6;
const NANOS: u16 = 1 << 7;
const TEXT: u16 = 1 << 8;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Reads a file with a header; no more than `rows_max` of its rows.
pub(crate) fn tell(path: &Path, rows_max: u64) -> Result<Told, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut reader = csv::ReaderBuilder::new().buffer_capacity(BUFFER_BYTES).from_reader(file);
    let headers = reader.headers().map_err(|error| error.to_string())?;
    let column = |name: &str| ToldColumn { name: name.to_owned(), ..ToldColumn::default() };
    let mut told = Told { columns: headers.iter().map(column).collect(), rows: 0 };
    let mut record = csv::StringRecord::new();
    while told.rows < rows_max && reader.read_record(&mut record).map_err(|error| error.to_string())? {
        told.rows += 1;
        // A record of another length is an error of the reader's.
        for (column, value) in told.columns.iter_mut().zip(&record) {
            if value.is_empty() {
                column.nulls += 1;
            } else if column.kinds & TEXT == 0 {
                column.kinds |= kind(value.as_bytes(), column.kinds);
            }
        }
    }
    Ok(told)
}

impl ToldColumn {
    pub fn field(&self) -> Field {
        Field::new(&self.name, data_type(self.kinds), true)
    }
}

/// The type that values of all these kinds fit.
fn data_type(kinds: u16) -> DataType {
    let stamp = |unit| DataType::Timestamp(unit, None);
    match kinds {
        0 => DataType::Null,
        BOOLEAN => DataType::Boolean,
        INTEGER => DataType::Int64,
        _ if kinds & !(INTEGER | FLOAT) == 0 => DataType::Float64,
        DATE => DataType::Date32,
        _ if kinds & !(DATE | SECONDS | MILLIS | MICROS | NANOS) != 0 => DataType::Utf8,
        _ if kinds & NANOS != 0 => stamp(TimeUnit::Nanosecond),
        _ if kinds & MICROS != 0 => stamp(TimeUnit::Microsecond),
        _ if kinds & MILLIS != 0 => stamp(TimeUnit::Millisecond),
        _ => stamp(TimeUnit::Second),
    }
}

/// Of a value that isn't empty. What those before it were is looked at first.
fn kind(value: &[u8], before: u16) -> u16 {
    if before & (DATE | SECONDS | MILLIS | MICROS | NANOS) != 0
        && let Some(kind) = moment(value)
    {
        return kind;
    }
    let unsigned = value.strip_prefix(b"-").unwrap_or(value);
    match unsigned.first() {
        Some(first) if first.is_ascii_digit() || *first == b'.' => match number(unsigned) {
            Some(INTEGER) if value.len() >= 19 && !is_i64(value) => TEXT,
            Some(kind) => kind,
            None if unsigned.len() == value.len() => moment(value).unwrap_or(TEXT),
            None => TEXT,
        },
        _ if value.eq_ignore_ascii_case(b"true") || value.eq_ignore_ascii_case(b"false") => BOOLEAN,
        _ if matches!(value, b"NaN" | b"nan" | b"inf" | b"-inf") => FLOAT,
        _ => TEXT,
    }
}

fn is_i64(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.parse::<i64>().is_ok())
}

/// Of digits with a point or an exponent, or both.
fn number(value: &[u8]) -> Option<u16> {
    let (whole, rest) = digits(value);
    if rest.is_empty() {
        return Some(INTEGER);
    }
    let (fraction, exponent) = match rest.strip_prefix(b".") {
        Some(rest) => digits(rest),
        None => (0, rest),
    };
    if whole + fraction == 0 {
        return None;
    }
    match exponent {
        [] => Some(FLOAT),
        [b'e' | b'E', rest @ ..] => {
            let rest = rest.strip_prefix(b"-").or_else(|| rest.strip_prefix(b"+")).unwrap_or(rest);
            let (count, rest) = digits(rest);
            (count > 0 && rest.is_empty()).then_some(FLOAT)
        }
        _ => None,
    }
}

/// How many digits it begins with, and what follows them.
fn digits(value: &[u8]) -> (usize, &[u8]) {
    let count = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count, &value[count..])
}

/// `2024-01-31`, or that with `T` or a blank, `10:20:30`, up to nine digits of a second, and anything for a zone.
fn moment(value: &[u8]) -> Option<u16> {
    let fits = |value: &[u8], pattern: &[u8]| {
        value.len() == pattern.len()
            && value.iter().zip(pattern).all(|(byte, as_in)| match as_in {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b' '),
                _ => byte == as_in,
            })
    };
    let Some((stamp, rest)) = value.split_at_checked(19) else {
        return fits(value, b"0000-00-00").then_some(DATE);
    };
    if !fits(stamp, b"0000-00-00T00:00:00") {
        return None;
    }
    if rest.is_empty() {
        return Some(SECONDS);
    }
    // As the engine has it: anything may follow, but for the end of a line after the first character.
    let zone = |rest: &[u8]| !rest.iter().skip(1).any(|byte| *byte == b'\n');
    match rest {
        [b'.', rest @ ..] => {
            let (count, rest) = digits(rest);
            let kind = match count {
                0 => return None,
                1..=3 => MILLIS,
                4..=6 => MICROS,
                7..=9 => NANOS,
                _ => return None,
            };
            zone(rest).then_some(kind)
        }
        [first, ..] if first.is_ascii_digit() => None,
        _ => zone(rest).then_some(SECONDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::csv::reader::Format;

    fn told(values: &[&str]) -> (DataType, u64, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        let quoted = values.iter().map(|value| format!("\"{}\"\n", value.replace('"', "\"\"")));
        let text = "a\n".to_owned() + &quoted.collect::<String>();
        fs::write(&path, &text).unwrap();
        let told = tell(&path, u64::MAX).unwrap();
        let (engine, rows) = Format::default().with_header(true).infer_schema(text.as_bytes(), None).unwrap();
        let field = told.columns[0].field();
        assert_eq!((field.data_type(), told.rows), (engine.field(0).data_type(), rows as u64), "{values:?}");
        (field.data_type().clone(), told.columns[0].nulls, told.rows)
    }

    #[test]
    fn types_are_those_that_the_engine_tells() {
        assert_eq!(told(&[]), (DataType::Null, 0, 0));
        assert_eq!(told(&["", "", "7"]), (DataType::Int64, 2, 3));
        assert_eq!(told(&["-1", "1.5", ".5", "5.", "1e9", "-1.5E-9", "NaN"]).0, DataType::Float64);
        assert_eq!(told(&["9223372036854775807"]).0, DataType::Int64);
        assert_eq!(told(&["9223372036854775808"]).0, DataType::Utf8);
        assert_eq!(told(&["TRUE", "false"]).0, DataType::Boolean);
        assert_eq!(told(&["2024-01-31"]).0, DataType::Date32);
        let second = DataType::Timestamp(TimeUnit::Second, None);
        assert_eq!(told(&["2024-01-31", "2024-01-31 10:20:30"]).0, second);
        assert_eq!(told(&["2024-01-31T10:20:30Z", "2024-01-31T10:20:30+02:00"]).0, second);
        assert_eq!(told(&["2024-01-31T10:20:30.1234Z"]).0, DataType::Timestamp(TimeUnit::Microsecond, None));
        assert_eq!(told(&["1", "x"]).0, DataType::Utf8);
    }

    #[test]
    fn whatever_the_values_the_engine_agrees() {
        const SOME: [&str; 26] = [
            "0",
            "7",
            "12",
            ".",
            "-",
            "+",
            "e",
            "E",
            ":",
            "T",
            " ",
            "true",
            "False",
            "nan",
            "inf",
            "NaN",
            "x",
            "\"",
            "Z",
            "2024-01-31",
            "10:20:30",
            "2024-01-31T10:20:30",
            "123456789",
            "\n",
            "é",
            "",
        ];
        let mut seed = 7_u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20_000 {
            let value: String = (0..=next(4)).map(|_| SOME[next(SOME.len())]).collect();
            let values = [value.as_str(), SOME[next(SOME.len())]];
            seen.insert(told(&values[..=next(2)]).0.to_string());
        }
        assert!(seen.len() >= 8, "{seen:?}");
    }

    #[test]
    fn a_record_of_another_length_or_of_no_text_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        fs::write(&path, "a,b\n1,2\n3\n").unwrap();
        assert!(tell(&path, u64::MAX).unwrap_err().contains("found record with 1 fields"));
        assert_eq!(tell(&path, 1).unwrap().rows, 1);
        fs::write(&path, b"a\n\xff\n").unwrap();
        assert!(tell(&path, u64::MAX).unwrap_err().contains("UTF-8"));
    }
}
