//! Two versions of a table: which columns and rows only one of them has.
//!
//! Rows are compared as a bag, by grouping all of both by the columns that both have; a row that is there twice and
//! then once was removed once. The grouping spills to the system's directory for temporary files beyond its memory.

use std::path::{Path, PathBuf};

use datafusion::arrow::datatypes::Schema;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::prelude::SessionContext;

use crate::scan::scan;
use crate::{SqlError, measure, session, tables};

#[derive(Debug, Clone)]
pub struct TablesDiff {
    /// Files or directories of Parquet or CSV, either.
    pub a: PathBuf,
    pub b: PathBuf,
    /// Columns that tell which rows are the same one, changed; empty: a changed row is one less and one more.
    pub key: Vec<String>,
    pub memory_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableDelta {
    pub rows_a: u64,
    pub rows_b: u64,
    /// Name and type.
    pub columns_removed: Vec<(String, String)>,
    pub columns_added: Vec<(String, String)>,
    /// Name, type in A and type in B.
    pub columns_changed: Vec<(String, String, String)>,
    pub rows_only_a: u64,
    pub rows_only_b: u64,
    /// With a key: rows of which the key is in both and something else is not; they count as neither of the above.
    pub rows_changed: u64,
}

/// Compares two tables. Blocks: to be called from a thread that may.
pub fn diff(tables: &TablesDiff) -> Result<TableDelta, SqlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| SqlError::Engine(format!("no thread for the query: {error}")))?;
    runtime.block_on(compare(tables))
}

async fn compare(tables: &TablesDiff) -> Result<TableDelta, SqlError> {
    let context = session(1, Some(tables.memory_bytes))?;
    let a = register(&context, "a", &tables.a).await?;
    let b = register(&context, "b", &tables.b).await?;
    let mut delta = TableDelta::default();
    let mut both = Vec::new();
    for field in a.fields() {
        let (name, kind) = (field.name().clone(), field.data_type().to_string());
        match b.field_with_name(&name) {
            Err(_) => delta.columns_removed.push((name, kind)),
            Ok(other) => {
                if other.data_type() != field.data_type() {
                    delta.columns_changed.push((name.clone(), kind, other.data_type().to_string()));
                }
                both.push(name);
            }
        }
    }
    let added = b.fields().iter().filter(|field| a.field_with_name(field.name()).is_err());
    delta.columns_added = added.map(|field| (field.name().clone(), field.data_type().to_string())).collect();
    if let Some(name) = tables.key.iter().find(|name| !both.contains(name)) {
        let known = both;
        return Err(SqlError::UnknownColumn { name: name.clone(), known });
    }
    let retyped: Vec<&String> = delta.columns_changed.iter().map(|(name, ..)| name).collect();
    let counts = one_row(&context, &query(&both, &retyped, &tables.key)).await?;
    let [only_a, only_b, changed] = counts[..] else { return Ok(delta) };
    (delta.rows_only_a, delta.rows_only_b, delta.rows_changed) = (only_a, only_b, changed);
    let counts = one_row(&context, "SELECT (SELECT count(*) FROM a) AS a, (SELECT count(*) FROM b) AS b").await?;
    let [rows_a, rows_b] = counts[..] else { return Ok(delta) };
    (delta.rows_a, delta.rows_b) = (rows_a, rows_b);
    Ok(delta)
}

/// The schema of the table that it has become.
async fn register(context: &SessionContext, name: &str, path: &Path) -> Result<Schema, SqlError> {
    let files = tables::find(path)?;
    let schema = scan(&files, true)?.schema.map(|inferred| measure::csv_schema(&inferred, &[]));
    let frame = files.frame(context, schema.as_ref()).await?;
    let schema = frame.schema().as_arrow().clone();
    context.register_table(TableReference::bare(name), frame.into_view()).map_err(SqlError::from_engine)?;
    Ok(schema)
}

/// Rows only in A, only in B, and changed. Columns whose type has changed are compared as text.
fn query(columns: &[String], retyped: &[&String], key: &[String]) -> String {
    let name = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let list = |names: &[String]| names.iter().map(name).collect::<Vec<_>>().join(", ");
    let cast = |column: &String| match retyped.contains(&column) {
        true => format!("CAST({0} AS VARCHAR) AS {0}", name(column)),
        false => name(column),
    };
    let selected: Vec<String> = columns.iter().map(cast).collect();
    let selected = selected.join(", ");
    let side = |table: &str, a: u8, b: u8| {
        let comma = if columns.is_empty() { "" } else { ", " };
        format!("SELECT {selected}{comma}CAST({a} AS BIGINT) AS in_a_, CAST({b} AS BIGINT) AS in_b_ FROM {table}")
    };
    let grouping = if columns.is_empty() { String::new() } else { format!("GROUP BY {}", list(columns)) };
    let keys = if key.is_empty() { String::new() } else { format!("{}, ", list(key)) };
    let rows = format!(
        "SELECT {keys}greatest(sum(in_a_) - sum(in_b_), 0) AS less_, greatest(sum(in_b_) - sum(in_a_), 0) AS more_ \
         FROM ({} UNION ALL {}) {grouping} HAVING sum(in_a_) <> sum(in_b_)",
        side("a", 1, 0),
        side("b", 0, 1)
    );
    if key.is_empty() {
        return format!("SELECT sum(less_) AS a, sum(more_) AS b, CAST(0 AS BIGINT) AS c FROM ({rows})");
    }
    // Of a key with fewer rows of one kind and more of another, as many as there are of both have changed.
    format!(
        "SELECT sum(less - least(less, more)) AS a, sum(more - least(less, more)) AS b, sum(least(less, more)) AS c \
         FROM (SELECT sum(less_) AS less, sum(more_) AS more FROM ({rows}) GROUP BY {})",
        list(key)
    )
}

async fn one_row(context: &SessionContext, sql: &str) -> Result<Vec<u64>, SqlError> {
    let frame = context.sql(sql).await.map_err(SqlError::from_engine)?;
    let batches = frame.collect().await.map_err(SqlError::from_engine)?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(Vec::new()) };
    let mut numbers = Vec::new();
    for column in batch.columns() {
        let value = ScalarValue::try_from_array(column, 0).map_err(SqlError::from_engine)?;
        numbers.push(match value {
            ScalarValue::Int64(Some(number)) => u64::try_from(number).unwrap_or(0),
            // The sum of nothing.
            _ => 0,
        });
    }
    Ok(numbers)
}
