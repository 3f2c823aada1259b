//! A query's rows as they are at one moment, from PostgreSQL into Parquet.
//!
//! One statement (`COPY ... TO STDOUT`) in a read-only transaction reads it all: that is the snapshot. Types that Arrow
//! has are kept; every other one comes as PostgreSQL writes it as text.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use futures_util::TryStreamExt;
use sqlx::postgres::{PgColumn, PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Column, Connection, Executor, Row, SqlSafeStr, Statement, TypeInfo};

use crate::copy::Decoder;
use crate::parts::Part;
use crate::{Brought, ConnectError, Import};

const HINT: &str = "check host, user and database, and that the secret pgpassword is set";
/// Digits that Arrow's 128-bit decimal holds.
const DECIMAL_DIGITS_MAX: i32 = 38;
/// PostgreSQL adds this to a numeric's precision and scale.
const TYPMOD_OFFSET: i32 = 4;

/// A column of the result: what it becomes, and how it is asked for.
#[derive(Debug, Clone)]
struct Asked {
    field: Field,
    as_text: bool,
}

pub(crate) async fn bring(url: &str, query: &str, import: &Import) -> Result<Brought, ConnectError> {
    let unreachable =
        |error: sqlx::Error| ConnectError::Unreachable { address: url.to_owned(), why: error.to_string(), hint: HINT };
    let failed = |error: sqlx::Error| ConnectError::Query { why: error.to_string() };
    let mut options = PgConnectOptions::from_str(url).map_err(unreachable)?;
    if let Some(password) = import.env.get("PGPASSWORD") {
        options = options.password(password);
    }
    let mut connection = PgConnection::connect_with(&options).await.map_err(unreachable)?;
    // What differs between sessions must not differ between imports.
    for setting in ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SET LOCAL extra_float_digits = 1"] {
        (&mut connection).execute(setting).await.map_err(failed)?;
    }
    let statement = AssertSqlSafe(query.to_owned()).into_sql_str();
    let statement = (&mut connection).prepare(statement).await.map_err(failed)?;
    if statement.columns().is_empty() {
        return Err(ConnectError::Query { why: "it returns no columns".to_owned() });
    }
    let columns: Vec<PgColumn> = statement.columns().to_vec();
    let mut asked = Vec::with_capacity(columns.len());
    for column in &columns {
        let decimal = precision(&mut connection, column).await.map_err(failed)?;
        asked.push(field(column, decimal));
    }
    distinct(&asked)?;
    let schema = Arc::new(Schema::new(asked.iter().map(|asked| asked.field.clone()).collect::<Vec<_>>()));
    let mut part = Part::create(&import.output.join("part-0.parquet"), schema.clone())?;
    let mut decoder = Decoder::new(schema);
    let copy = copy_statement(query, &asked);
    let mut stream = connection.copy_out_raw(&copy).await.map_err(failed)?;
    while let Some(bytes) = stream.try_next().await.map_err(failed)? {
        decoder.feed(&bytes);
        while let Some(batch) = decoder.batch(false)? {
            part.write(&batch)?;
        }
    }
    drop(stream);
    while let Some(batch) = decoder.batch(true)? {
        part.write(&batch)?;
    }
    let (rows, bytes) = part.finish()?;
    // Nothing was changed, so that it matters to nobody how the transaction ends.
    let _ = connection.close().await;
    Ok(Brought { files: 1, bytes, rows: Some(rows), warnings: Vec::new() })
}

/// Who reads the table finds columns by their names.
fn distinct(asked: &[Asked]) -> Result<(), ConnectError> {
    let mut names = BTreeSet::new();
    match asked.iter().map(|asked| asked.field.name()).find(|name| !names.insert(name.as_str())) {
        Some(twice) => Err(ConnectError::Query { why: format!("two columns are called {twice:?}; give one an alias") }),
        None => Ok(()),
    }
}

/// Columns by place: an expression's name need not be one that can be asked for.
fn copy_statement(query: &str, asked: &[Asked]) -> String {
    let picked: Vec<_> = asked
        .iter()
        .enumerate()
        .map(|(i, asked)| if asked.as_text { format!("c{i}::text") } else { format!("c{i}") })
        .collect();
    let names: Vec<_> = (0..asked.len()).map(|i| format!("c{i}")).collect();
    // The query may end in a comment, so that what follows begins a line.
    format!(
        "COPY (SELECT {} FROM (\n{query}\n) AS q({})) TO STDOUT (FORMAT BINARY)",
        picked.join(", "),
        names.join(", ")
    )
}

/// Precision and scale of a numeric column, where it is a table's own column and was declared with them.
async fn precision(connection: &mut PgConnection, column: &PgColumn) -> Result<Option<(u8, i8)>, sqlx::Error> {
    let (Some(table), Some(number)) = (column.relation_id(), column.relation_attribute_no()) else { return Ok(None) };
    if column.type_info().name() != "NUMERIC" {
        return Ok(None);
    }
    let row = sqlx::query("SELECT atttypmod FROM pg_attribute WHERE attrelid = $1 AND attnum = $2")
        .bind(table)
        .bind(number)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let typmod: i32 = row.try_get(0)?;
    let (precision, scale) = ((typmod - TYPMOD_OFFSET) >> 16, (typmod - TYPMOD_OFFSET) & 0x7ff);
    let fits = typmod >= TYPMOD_OFFSET && (1..=DECIMAL_DIGITS_MAX).contains(&precision) && scale <= precision;
    Ok(fits.then(|| (u8::try_from(precision).unwrap_or(38), i8::try_from(scale).unwrap_or(0))))
}

fn field(column: &PgColumn, decimal: Option<(u8, i8)>) -> Asked {
    let (kind, as_text) = match (column.type_info().name(), decimal) {
        ("BOOL", _) => (DataType::Boolean, false),
        ("INT2", _) => (DataType::Int16, false),
        ("INT4", _) => (DataType::Int32, false),
        ("INT8", _) => (DataType::Int64, false),
        ("FLOAT4", _) => (DataType::Float32, false),
        ("FLOAT8", _) => (DataType::Float64, false),
        ("TEXT" | "VARCHAR" | "CHAR" | "NAME", _) => (DataType::Utf8, false),
        ("BYTEA", _) => (DataType::Binary, false),
        ("DATE", _) => (DataType::Date32, false),
        ("TIMESTAMP", _) => (DataType::Timestamp(TimeUnit::Microsecond, None), false),
        ("TIMESTAMPTZ", _) => (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        ("NUMERIC", Some((precision, scale))) => (DataType::Decimal128(precision, scale), true),
        _ => (DataType::Utf8, true),
    };
    Asked { field: Field::new(column.name(), kind, true), as_text }
}
