//! Reads of what runs have made, by name.

use sqlx::SqlitePool;
use tombolo_api::wire::{OutputQuery, Page, PageQuery};
use tombolo_core::{RunId, Timestamp};

use super::failed;
use super::read::{Cut, parse, unsigned};
use crate::store::{NamedOutput, StoreError};

type Row = (String, String, i64, String, String, i64, bool);

/// With `max`, SQLite takes the other columns from the row that has the maximum ("bare columns in an aggregate
/// query" in its documentation).
const ALL: &str = "SELECT project, output, max(number), stage, version, at, cached FROM outputs \
    WHERE (project, output) > (?1, ?2) GROUP BY project, output ORDER BY project, output LIMIT ?3";
const OF_PROJECT: &str = "SELECT project, output, max(number), stage, version, at, cached FROM outputs \
    WHERE project = ?4 AND (project, output) > (?1, ?2) AND (?5 IS NULL OR output = ?5) \
    GROUP BY project, output ORDER BY project, output LIMIT ?3";
const OF_NAME: &str = "SELECT project, output, max(number), stage, version, at, cached FROM outputs \
    WHERE output = ?5 AND (project, output) > (?1, ?2) GROUP BY output, project ORDER BY project LIMIT ?3";

pub(super) async fn newest(pool: &SqlitePool, query: OutputQuery) -> Result<Page<NamedOutput>, StoreError> {
    let OutputQuery { project, output, after, limit } = query;
    let cut = Cut::by_name(&PageQuery { after, limit });
    let after = match cut.after.split_once('/') {
        Some((project, output)) => (project, output),
        None if cut.after.is_empty() => ("", ""),
        None => return Err(StoreError::BadPage(cut.after.chars().take(80).collect())),
    };
    let sql = match (&project, &output) {
        (None, None) => ALL,
        (Some(_), _) => OF_PROJECT,
        (None, Some(_)) => OF_NAME,
    };
    let rows: Vec<Row> = sqlx::query_as(sql)
        .bind(after.0)
        .bind(after.1)
        .bind(cut.fetch())
        .bind(project.map(|name| name.to_string()))
        .bind(output.map(|name| name.to_string()))
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    cut.page(rows, |(project, output, ..)| format!("{project}/{output}"), named)
}

pub(super) async fn of(
    pool: &SqlitePool,
    project: String,
    output: String,
    page: PageQuery,
) -> Result<Page<NamedOutput>, StoreError> {
    const SQL: &str = "SELECT project, output, number, stage, version, at, cached FROM outputs \
        WHERE project = ? AND output = ? AND number < ? ORDER BY number DESC LIMIT ?";
    let cut = Cut::newest_first(&page)?;
    let rows: Vec<Row> = sqlx::query_as(SQL)
        .bind(project)
        .bind(output)
        .bind(cut.before)
        .bind(cut.fetch())
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    cut.page(rows, |(_, _, number, ..)| number.to_string(), named)
}

fn named((project, output, number, stage, version, at, cached): Row) -> Result<NamedOutput, StoreError> {
    Ok(NamedOutput {
        run: RunId::new(parse(&project)?, unsigned(number)?),
        stage: parse(&stage)?,
        output: parse(&output)?,
        version: parse(&version)?,
        at: Timestamp(at),
        cached,
    })
}
