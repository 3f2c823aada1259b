//! Reads of what runs, ran and was made.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use sqlx::SqlitePool;
use tombolo_api::wire::{EventView, PAGE_DEFAULT, PAGE_MAX, Page, PageQuery};
use tombolo_core::sketch::Sketch;
use tombolo_core::sync::Made;
use tombolo_core::world::{RunRecord, SKETCHES_MAX, VersionRecord, WorkloadRecord};
use tombolo_core::{Epoch, Name, SiteId, VersionId, WorkloadId};

use super::{datasets, failed};
use crate::store::{Live, StoreError};

/// Events given at once, at most.
const EVENTS_MAX: u32 = 10_000;

pub(super) async fn last_event(pool: &SqlitePool) -> Result<i64, StoreError> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT max(number) FROM events").fetch_one(pool).await.map_err(failed)?;
    Ok(last.unwrap_or(0))
}

pub(super) async fn live(pool: &SqlitePool) -> Result<Live, StoreError> {
    // A run that is over by its own state may still have a service that a site has to end.
    const RUNS: &str = "SELECT record FROM runs WHERE id IN \
        (SELECT id FROM runs WHERE live = 1 UNION SELECT run FROM workloads WHERE final = 0) ORDER BY place";
    const WORKLOADS: &str = "SELECT record FROM workloads WHERE run IN \
        (SELECT id FROM runs WHERE live = 1 UNION SELECT run FROM workloads WHERE final = 0)";
    let mut links = Vec::new();
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("SELECT source, target, record FROM links").fetch_all(pool).await.map_err(failed)?;
    for (from, to, record) in rows {
        links.push((parse::<SiteId>(&from)?, parse::<SiteId>(&to)?, decode(&record)?));
    }
    let versions = versions_of(pool, "SELECT id, record FROM versions").await?;
    let forgotten = versions_of(pool, "SELECT id, record FROM forgotten").await?;
    let sketches = sketches(pool).await?;
    let mut history = Vec::new();
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("SELECT project, workload, record FROM history").fetch_all(pool).await.map_err(failed)?;
    for (project, workload, record) in rows {
        history.push((parse(&project)?, parse(&workload)?, decode(&record)?));
    }
    let mut counters = Vec::new();
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT project, max(number) FROM runs GROUP BY project")
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    for (project, number) in rows {
        counters.push((parse(&project)?, unsigned(number)?));
    }
    Ok(Live {
        sites: records(pool, "SELECT record FROM sites").await?,
        links,
        runs: records(pool, RUNS).await?,
        workloads: records(pool, WORKLOADS).await?,
        versions,
        forgotten,
        sketches,
        history,
        counters,
        datasets: datasets::all(pool).await?,
        endpoint_tokens: records(pool, "SELECT record FROM endpoint_tokens").await?,
        last_event: last_event(pool).await?,
    })
}

async fn versions_of(pool: &SqlitePool, sql: &'static str) -> Result<Vec<(VersionId, VersionRecord)>, StoreError> {
    let rows: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(pool).await.map_err(failed)?;
    rows.into_iter().map(|(id, record)| Ok((parse(&id)?, decode(&record)?))).collect()
}

async fn sketches(pool: &SqlitePool) -> Result<Vec<(VersionId, Sketch)>, StoreError> {
    const SQL: &str = "SELECT version, record FROM sketches ORDER BY place DESC LIMIT ?";
    let rows: Vec<(String, String)> =
        sqlx::query_as(SQL).bind(SKETCHES_MAX as i64).fetch_all(pool).await.map_err(failed)?;
    rows.into_iter().rev().map(|(version, record)| Ok((parse(&version)?, decode(&record)?))).collect()
}

async fn records<T: DeserializeOwned>(pool: &SqlitePool, sql: &'static str) -> Result<Vec<T>, StoreError> {
    let rows: Vec<String> = sqlx::query_scalar(sql).fetch_all(pool).await.map_err(failed)?;
    rows.iter().map(|row| decode(row)).collect()
}

pub(super) async fn run(pool: &SqlitePool, id: String) -> Result<Option<(RunRecord, Vec<WorkloadRecord>)>, StoreError> {
    // One statement, so that run and workloads are of one moment.
    const SQL: &str = "SELECT '', record FROM runs WHERE id = ?1 \
        UNION ALL SELECT name, record FROM workloads WHERE run = ?1 ORDER BY 1";
    let rows: Vec<(String, String)> = sqlx::query_as(SQL).bind(id).fetch_all(pool).await.map_err(failed)?;
    match rows.split_first() {
        Some(((name, run), workloads)) if name.is_empty() => {
            let workloads: Result<_, _> = workloads.iter().map(|(_, record)| decode(record)).collect();
            Ok(Some((decode(run)?, workloads?)))
        }
        _ => Ok(None),
    }
}

pub(super) async fn runs(
    pool: &SqlitePool,
    project: Option<String>,
    page: PageQuery,
) -> Result<Page<RunRecord>, StoreError> {
    const ALL: &str = "SELECT place, record FROM runs WHERE place < ?2 ORDER BY place DESC LIMIT ?3";
    const ONE: &str = "SELECT place, record FROM runs WHERE project = ?1 AND place < ?2 ORDER BY place DESC LIMIT ?3";
    let sql = if project.is_some() { ONE } else { ALL };
    let cut = Cut::newest_first(&page)?;
    let rows: Vec<(i64, String)> =
        sqlx::query_as(sql).bind(project).bind(cut.before).bind(cut.fetch()).fetch_all(pool).await.map_err(failed)?;
    cut.page(rows, |(place, _)| place.to_string(), |(_, record)| decode(&record))
}

pub(super) async fn workload(pool: &SqlitePool, id: WorkloadId) -> Result<Option<WorkloadRecord>, StoreError> {
    let row: Option<String> = sqlx::query_scalar("SELECT record FROM workloads WHERE run = ? AND name = ?")
        .bind(id.run.to_string())
        .bind(id.name.to_string())
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    row.map(|record| decode(&record)).transpose()
}

pub(super) async fn epochs(
    pool: &SqlitePool,
    ids: Vec<WorkloadId>,
) -> Result<Vec<(WorkloadId, Epoch, bool)>, StoreError> {
    const SQL: &str = "SELECT w.run, w.name, w.epoch, w.placed FROM json_each(?) AS asked \
        JOIN workloads AS w ON w.run = asked.value ->> 0 AND w.name = asked.value ->> 1";
    let asked: Vec<_> = ids.iter().map(|id| (id.run.to_string(), id.name.to_string())).collect();
    let rows: Vec<(String, String, i64, bool)> =
        sqlx::query_as(SQL).bind(encode(&asked)?).fetch_all(pool).await.map_err(failed)?;
    let one = |(run, name, epoch, placed): (String, String, i64, bool)| {
        Ok((WorkloadId::new(parse(&run)?, parse(&name)?), Epoch(unsigned(epoch)?), !placed))
    };
    rows.into_iter().map(one).collect()
}

type EventRow = (i64, i64, String, Option<String>, i64, String, Option<String>, Option<String>);

pub(super) async fn events(
    pool: &SqlitePool,
    run: Option<String>,
    after: i64,
    limit: u32,
) -> Result<Vec<EventView>, StoreError> {
    const ALL: &str = "SELECT number, at, run, workload, epoch, state, site, text FROM events \
        WHERE number > ?2 ORDER BY number LIMIT ?3";
    const ONE: &str = "SELECT number, at, run, workload, epoch, state, site, text FROM events \
        WHERE run = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
    let sql = if run.is_some() { ONE } else { ALL };
    let rows: Vec<EventRow> =
        sqlx::query_as(sql).bind(run).bind(after).bind(limit.min(EVENTS_MAX)).fetch_all(pool).await.map_err(failed)?;
    let one = |(number, at, run, workload, epoch, state, site, text): EventRow| {
        Ok(EventView { number, at, run, workload, epoch: unsigned(epoch)?, state, site, text })
    };
    rows.into_iter().map(one).collect()
}

pub(super) async fn cached(
    pool: &SqlitePool,
    keys: Vec<String>,
) -> Result<BTreeMap<String, BTreeMap<Name, Made>>, StoreError> {
    const SQL: &str = "SELECT key, outputs FROM cached WHERE key IN (SELECT value FROM json_each(?))";
    let rows: Vec<(String, String)> = sqlx::query_as(SQL).bind(encode(&keys)?).fetch_all(pool).await.map_err(failed)?;
    rows.into_iter().map(|(key, outputs)| Ok((key, decode(&outputs)?))).collect()
}

pub(super) async fn version(pool: &SqlitePool, id: String) -> Result<Option<VersionRecord>, StoreError> {
    let row: Option<String> = sqlx::query_scalar("SELECT record FROM versions WHERE id = ?")
        .bind(id)
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    row.map(|record| decode(&record)).transpose()
}

pub(super) async fn versions(pool: &SqlitePool) -> Result<Vec<VersionId>, StoreError> {
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT id FROM versions ORDER BY id").fetch_all(pool).await.map_err(failed)?;
    rows.iter().map(|id| parse(id)).collect()
}

/// Where a page begins and how long it is.
pub(super) struct Cut {
    /// For listings by name: what the page before ended with, or less than any name.
    pub after: String,
    /// For listings from the newest: the place where the page before ended, or more than any.
    pub before: i64,
    limit: usize,
}

impl Cut {
    pub(super) fn by_name(page: &PageQuery) -> Cut {
        let limit = page.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize;
        Cut { after: page.after.clone().unwrap_or_default(), before: i64::MAX, limit }
    }

    pub(super) fn newest_first(page: &PageQuery) -> Result<Cut, StoreError> {
        let mut cut = Cut::by_name(page);
        if let Some(after) = &page.after {
            cut.before = after.parse().map_err(|_| StoreError::BadPage(after.chars().take(80).collect()))?;
        }
        Ok(cut)
    }

    /// One row more than the page has, to see whether there is another page.
    pub(super) fn fetch(&self) -> i64 {
        self.limit as i64 + 1
    }

    pub(super) fn page<R, T>(
        &self,
        mut rows: Vec<R>,
        place: impl Fn(&R) -> String,
        item: impl Fn(R) -> Result<T, StoreError>,
    ) -> Result<Page<T>, StoreError> {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next = rows.last().filter(|_| more).map(place);
        Ok(Page { items: rows.into_iter().map(item).collect::<Result<_, _>>()?, next })
    }
}

pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Malformed(format!("{error}, in {}", start(text))))
}

fn encode(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Malformed(error.to_string()))
}

pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: T::Err| StoreError::Malformed(format!("{error}, in {}", start(text))))
}

pub(super) fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Malformed(format!("{number} is below zero")))
}

fn start(text: &str) -> String {
    text.chars().take(80).collect()
}
