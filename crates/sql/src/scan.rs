//! What a table's files say of themselves: Parquet by its footers, CSV by reading it once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tombolo_core::facts::{COLUMNS_MAX, Column, Format, Table};

use crate::tables::Files;
use crate::{SqlError, csv};

/// CSV that nothing is expected of is counted up to this size; of more, the first rows tell the schema.
const CSV_COUNTED_BYTES_MAX: u64 = 1 << 30;
/// Rows that tell the schema of CSV that is not counted.
const CSV_TOLD_BY_ROWS: u64 = 10_000;

/// Types that are told of a column whose files disagree.
const KINDS_MAX: usize = 4;
/// A table's schema; which of it is known of each column besides.
#[derive(Debug)]
pub(crate) struct Scan {
    pub table: Table,
    /// Of CSV: the types that all its values fit.
    pub schema: Option<SchemaRef>,
}

/// `whole`: every row of CSV is read, however many they are.
pub(crate) fn scan(files: &Files, whole: bool) -> Result<Scan, SqlError> {
    match files.format {
        Format::Parquet => parquet(files),
        Format::Csv => csv_files(files, whole),
    }
}

/// What was found of one column so far.
struct Found {
    /// Of the files, in the order in which they were met.
    kinds: Vec<String>,
    nulls: Option<u64>,
    /// Rows of the files that have it.
    rows: u64,
}

impl Found {
    fn met(&mut self, kind: String) {
        if !self.kinds.contains(&kind) && self.kinds.len() < KINDS_MAX {
            self.kinds.push(kind);
        }
    }
}

fn parquet(files: &Files) -> Result<Scan, SqlError> {
    let (mut order, mut columns): (Vec<String>, BTreeMap<String, Found>) = Default::default();
    let mut rows = 0;
    for path in &files.paths {
        let (metadata, schema) = footer(path).map_err(|message| bad(path, message))?;
        let here = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        rows += here;
        for field in schema.fields() {
            let (kind, nulls) = (field.data_type().to_string(), nulls(&metadata, field.name()));
            match columns.get_mut(field.name()) {
                None => {
                    order.push(field.name().clone());
                    columns.insert(field.name().clone(), Found { kinds: vec![kind], nulls, rows: here });
                }
                Some(found) => {
                    found.nulls = found.nulls.zip(nulls).map(|(a, b)| a + b);
                    found.rows += here;
                    found.met(kind);
                }
            }
        }
    }
    let column = |name: String| {
        let found = columns.remove(&name)?;
        // In files that lack the column, it reads as null.
        Some(Column { name, kind: found.kinds.join(" or "), nulls: found.nulls.map(|nulls| nulls + rows - found.rows) })
    };
    let more = order.len().saturating_sub(COLUMNS_MAX) as u64;
    let columns = order.into_iter().take(COLUMNS_MAX).filter_map(column).collect();
    Ok(Scan { table: Table { format: Format::Parquet, rows: Some(rows), columns, more }, schema: None })
}

fn footer(path: &Path) -> Result<(ParquetMetaData, Schema), String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|error| error.to_string())?;
    let about = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(about.schema_descr(), about.key_value_metadata());
    Ok((metadata, schema.map_err(|error| error.to_string())?))
}

/// None where a row group doesn't say, or where the column is nested.
fn nulls(metadata: &ParquetMetaData, name: &str) -> Option<u64> {
    let descriptor = metadata.file_metadata().schema_descr();
    let leaf = descriptor.columns().iter().position(|column| column.path().parts() == [name])?;
    if descriptor.column(leaf).max_def_level() == 0 {
        return Some(0);
    }
    let mut sum = 0;
    for group in metadata.row_groups() {
        sum += group.column(leaf).statistics()?.null_count_opt()?;
    }
    Some(sum)
}

fn csv_files(files: &Files, whole: bool) -> Result<Scan, SqlError> {
    let mut bytes = 0;
    for path in &files.paths {
        bytes += fs::metadata(path).map_err(|error| bad(path, error))?.len();
    }
    let counted = whole || bytes <= CSV_COUNTED_BYTES_MAX;
    let rows_max = if counted { u64::MAX } else { CSV_TOLD_BY_ROWS };
    let mut merged: Option<Vec<(Field, u64)>> = None;
    let mut rows = 0;
    for path in &files.paths {
        let told = csv::tell(path, rows_max).map_err(|message| bad(path, message))?;
        rows += told.rows;
        let fields = told.columns.iter().map(|column| (column.field(), column.nulls));
        merged = Some(match merged {
            None => fields.collect(),
            Some(before) => {
                if !before.iter().map(|(field, _)| field.name()).eq(told.columns.iter().map(|column| &column.name)) {
                    return Err(bad(path, "its columns are not those of the files before it"));
                }
                let both = |((a, x), (b, y)): ((Field, u64), (Field, u64))| {
                    (Field::new(a.name(), wider(a.data_type(), b.data_type()), true), x + y)
                };
                before.into_iter().zip(fields).map(both).collect()
            }
        });
    }
    let fields = merged.unwrap_or_default();
    let column = |(field, nulls): &(Field, u64)| Column {
        name: field.name().clone(),
        kind: field.data_type().to_string(),
        nulls: counted.then_some(*nulls),
    };
    let columns = fields.iter().take(COLUMNS_MAX).map(column).collect();
    let more = fields.len().saturating_sub(COLUMNS_MAX) as u64;
    let table = Table { format: Format::Csv, rows: counted.then_some(rows), columns, more };
    let schema = Schema::new(fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>());
    Ok(Scan { table, schema: Some(Arc::new(schema)) })
}

/// The type that the values of both fit.
fn wider(a: &DataType, b: &DataType) -> DataType {
    use DataType::{Date32, Float64, Int64, Null, Timestamp, Utf8};
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (Int64, Float64) | (Float64, Int64) => Float64,
        (Date32, time @ Timestamp(..)) | (time @ Timestamp(..), Date32) => time.clone(),
        (Timestamp(x, None), Timestamp(y, None)) => Timestamp(if unit(x) > unit(y) { *x } else { *y }, None),
        _ => Utf8,
    }
}

fn bad(path: &Path, message: impl ToString) -> SqlError {
    SqlError::BadTable { path: path.to_owned(), message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_a_column_are_told_once_each() {
        let kinds = ["Int64", "Utf8", "Int64", "Date32", "Utf8", "Float64", "Boolean"];
        let mut found = Found { kinds: Vec::new(), nulls: Some(0), rows: 0 };
        kinds.iter().for_each(|kind| found.met((*kind).to_owned()));
        assert_eq!(found.kinds, ["Int64", "Utf8", "Date32", "Float64"]);
    }
}
