//! Looks at a table where it was made: its schema and rows, and whether it is what it is expected to be.
//!
//! All rules but uniqueness are measured in one pass of aggregates, which holds a batch of rows at a time. Uniqueness
//! is a grouping by the columns for each such rule, which spills to the system's directory for temporary files beyond
//! the memory that it is given. Only where a rule is broken are rows looked for that show it.

use std::path::PathBuf;

use datafusion::arrow::array::{Array, RecordBatch, TimestampMillisecondArray};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::functions_aggregate::expr_fn::{count, max, sum};
use datafusion::logical_expr::{Expr, cast, ident, lit, when};
use tombolo_core::Timestamp;
use tombolo_core::expect::{Rule, Seen};
use tombolo_core::facts::{Breach, Checked, Facts};

use crate::measure::{self, Measure};
use crate::scan::{Scan, scan};
use crate::{SqlError, session, tables};

/// Rows that show one broken rule.
pub const EXAMPLE_ROWS_MAX: usize = 5;
/// Broken rules that rows are looked for; it takes up to a pass for each.
const EXAMPLES_MAX: usize = 20;
/// Longest text of one example row, in characters.
const EXAMPLE_CHARS_MAX: usize = 300;

#[derive(Debug, Clone)]
pub struct Inspection {
    /// A file or directory.
    pub path: PathBuf,
    /// Empty: only schema and rows are looked for.
    pub rules: Vec<Rule>,
    pub now: Timestamp,
    /// What grouping may hold before it spills.
    pub memory_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    pub facts: Facts,
    /// Values of the data, and words that may hold some: not for where the data may not be.
    pub examples: Vec<Example>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What they are examples of, in words.
    pub of: String,
    pub rows: Vec<String>,
}

/// Inspects the table. What can't be read as one breaks the rules that there are, and is no failure of its own.
/// Blocks: to be called from a thread that may.
pub fn inspect(inspection: &Inspection) -> Findings {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let found = match runtime {
        Ok(runtime) => runtime.block_on(find(inspection)),
        Err(error) => Err(SqlError::Engine(format!("no thread for the query: {error}"))),
    };
    let unread = |error: SqlError| {
        let breach = Breach {
            column: None,
            rule: "it must be a table of Parquet or CSV files that can be read whole".to_owned(),
            count: 0,
            rows: 0,
        };
        // The engine's words may hold values of the data.
        let example = Example { of: breach.to_string(), rows: vec![cut(&error.to_string())] };
        let checked = (!inspection.rules.is_empty())
            .then(|| Checked::new(inspection.now, inspection.rules.len() as u64, vec![breach]));
        Findings { facts: Facts { table: None, checked }, examples: vec![example] }
    };
    found.unwrap_or_else(unread)
}

async fn find(inspection: &Inspection) -> Result<Findings, SqlError> {
    let Inspection { path, rules, now, memory_bytes } = inspection;
    let files = match tables::find(path) {
        Ok(files) => files,
        // Most versions are no tables, and that is fine.
        Err(_) if rules.is_empty() => return Ok(Findings::default()),
        Err(error) => return Err(error),
    };
    let Scan { mut table, schema } = scan(&files, !rules.is_empty())?;
    let text = schema.is_some();
    if rules.is_empty() {
        return Ok(Findings { facts: Facts { table: Some(table), checked: None }, examples: Vec::new() });
    }
    let context = session(1, Some(*memory_bytes))?;
    let schema = schema.map(|inferred| measure::csv_schema(&inferred, rules));
    let frame = files.frame(&context, schema.as_ref()).await?;
    let measures = measure::measures(frame.schema(), rules, text);
    let (rows, seen) = Pass::new(&measures).run(&frame, &measures).await?;
    table.rows = Some(rows);
    let (mut breaches, mut examples) = (Vec::new(), Vec::new());
    for ((rule, measure), seen) in rules.iter().zip(&measures).zip(&seen) {
        let Some(breach) = rule.judge(rows, seen, *now) else { continue };
        if examples.len() < EXAMPLES_MAX {
            let found = show(&frame, measure, seen).await?;
            if !found.is_empty() {
                examples.push(Example { of: breach.to_string(), rows: found });
            }
        }
        breaches.push(breach);
    }
    let checked = Checked::new(*now, rules.len() as u64, breaches);
    Ok(Findings { facts: Facts { table: Some(table), checked: Some(checked) }.bounded(), examples })
}

/// The one pass: an aggregate for the rows, and for each rule that has one.
struct Pass {
    aggregates: Vec<Expr>,
}

impl Pass {
    fn new(measures: &[Measure]) -> Pass {
        let mut pass = Pass { aggregates: vec![count(lit(1_i64))] };
        for measure in measures {
            match measure {
                Measure::Rows(broken) => {
                    // Only `end` can fail, and only for a case without a branch.
                    let marked = when(broken.clone(), lit(1_i64)).end().unwrap_or_else(|_| lit(1_i64));
                    pass.aggregates.push(count(marked));
                }
                Measure::Newest(column) => {
                    let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
                    pass.aggregates.push(max(cast(column.clone(), millis)));
                }
                Measure::Known(_) | Measure::Groups(_) => {}
            }
        }
        pass
    }

    /// The rows, and what was seen for each rule.
    async fn run(self, frame: &DataFrame, measures: &[Measure]) -> Result<(u64, Vec<Seen>), SqlError> {
        let aliased = self.aggregates.into_iter().enumerate().map(|(i, expr)| expr.alias(format!("m{i}")));
        let values = one_row(frame.clone().aggregate(Vec::new(), aliased.collect()).map_err(SqlError::from_engine)?);
        let mut values = values.await?.into_iter();
        let rows = values.next().map(|value| number(&value)).unwrap_or_default();
        let mut seen = Vec::new();
        for measure in measures {
            seen.push(match measure {
                Measure::Known(seen) => seen.clone(),
                Measure::Rows(_) => Seen::Rows(values.next().map(|value| number(&value)).unwrap_or_default()),
                Measure::Newest(_) => Seen::Newest(match values.next() {
                    Some(ScalarValue::TimestampMillisecond(at, _)) => at.map(Timestamp),
                    _ => None,
                }),
                Measure::Groups(columns) => Seen::Rows(doubles(frame, columns).await?),
            });
        }
        Ok((rows, seen))
    }
}

/// Rows that agree with another in all the columns. Rows with a null in one of them agree with none.
async fn doubles(frame: &DataFrame, columns: &[Expr]) -> Result<u64, SqlError> {
    let groups = groups(frame, columns)?;
    let total = groups.aggregate(Vec::new(), vec![sum(ident("tombolo_rows")).alias("total")]);
    let values = one_row(total.map_err(SqlError::from_engine)?).await?;
    Ok(values.first().map(number).unwrap_or_default())
}

/// Each value that occurs more than once, with how many rows have it.
fn groups(frame: &DataFrame, columns: &[Expr]) -> Result<DataFrame, SqlError> {
    let mut frame = frame.clone();
    for column in columns {
        frame = frame.filter(column.clone().is_not_null()).map_err(SqlError::from_engine)?;
    }
    let grouped = frame.aggregate(columns.to_vec(), vec![count(lit(1_i64)).alias("tombolo_rows")]);
    grouped.and_then(|groups| groups.filter(ident("tombolo_rows").gt(lit(1_i64)))).map_err(SqlError::from_engine)
}

/// Up to so many rows that show why a rule is broken.
async fn show(frame: &DataFrame, measure: &Measure, seen: &Seen) -> Result<Vec<String>, SqlError> {
    let found = match measure {
        Measure::Known(_) => return Ok(Vec::new()),
        Measure::Newest(_) => {
            let Seen::Newest(Some(newest)) = seen else { return Ok(Vec::new()) };
            let newest = TimestampMillisecondArray::from(vec![newest.0]);
            return Ok(vec![format!("the newest is {}", value(&newest, 0))]);
        }
        Measure::Rows(broken) => frame.clone().filter(broken.clone()),
        Measure::Groups(columns) => Ok(groups(frame, columns)?),
    };
    let limited = found.and_then(|found| found.limit(0, Some(EXAMPLE_ROWS_MAX))).map_err(SqlError::from_engine)?;
    let mut rows = Vec::new();
    for batch in limited.collect().await.map_err(SqlError::from_engine)? {
        rows.extend((0..batch.num_rows()).map(|row| in_words(&batch, row)));
    }
    Ok(rows)
}

/// `carrier=AA, delay=-7`.
fn in_words(batch: &RecordBatch, row: usize) -> String {
    let mut text = String::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let name = if field.name() == "tombolo_rows" { "rows" } else { field.name() };
        text += &format!("{}{name}={}", if text.is_empty() { "" } else { ", " }, value(column.as_ref(), row));
        if text.len() > 4 * EXAMPLE_CHARS_MAX {
            break;
        }
    }
    cut(&text)
}

fn value(column: &dyn Array, row: usize) -> String {
    let options = FormatOptions::default().with_null("null").with_display_error(true);
    let formatter = ArrayFormatter::try_new(column, &options);
    formatter.map_or_else(|_| "?".to_owned(), |formatter| formatter.value(row).to_string())
}

/// On one line, shortened, without what could drive a terminal.
fn cut(text: &str) -> String {
    let mut shown: String =
        text.chars().take(EXAMPLE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(EXAMPLE_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The only row of an aggregate.
async fn one_row(frame: DataFrame) -> Result<Vec<ScalarValue>, SqlError> {
    let batches = frame.collect().await.map_err(SqlError::from_engine)?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(Vec::new()) };
    let columns = batch.columns().iter();
    columns.map(|column| ScalarValue::try_from_array(column, 0).map_err(SqlError::from_engine)).collect()
}

fn number(value: &ScalarValue) -> u64 {
    match value {
        ScalarValue::Int64(Some(number)) => u64::try_from(*number).unwrap_or(0),
        ScalarValue::UInt64(Some(number)) => *number,
        _ => 0,
    }
}
