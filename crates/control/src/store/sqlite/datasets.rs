//! Datasets: their names, tags and rules, and what lost its name.

use std::collections::BTreeMap;

use sqlx::SqlitePool;
use tombolo_api::wire::{Page, PageQuery};
use tombolo_core::Name;
use tombolo_core::world::{Dataset, Naming, Removed};

use super::failed;
use super::read::{Cut, decode, parse, unsigned};
use super::write::{Cell, Insert, Step, int, json, text};
use crate::store::StoreError;

/// What of one dataset lost its name and is remembered, at most; the oldest are forgotten.
const REMOVED_MAX: i64 = 1_000;

static DATASETS: Insert = Insert {
    head: "INSERT INTO datasets (name, last, rules) VALUES ",
    columns: 3,
    tail: " ON CONFLICT (name) DO UPDATE SET last = excluded.last, rules = excluded.rules",
};
static NAMED: Insert = Insert {
    head: "INSERT INTO dataset_versions (dataset, number, version, record) VALUES ",
    columns: 4,
    tail: " ON CONFLICT (dataset, number) DO UPDATE SET version = excluded.version, record = excluded.record",
};
static TAGS: Insert = Insert {
    head: "INSERT INTO tags (dataset, tag, record) VALUES ",
    columns: 3,
    tail: " ON CONFLICT (dataset, tag) DO UPDATE SET record = excluded.record",
};
static REMOVED: Insert =
    Insert { head: "INSERT INTO removed (dataset, number, version, record) VALUES ", columns: 4, tail: "" };
const FORGET_REMOVED: &str = "DELETE FROM removed WHERE dataset = ?1 AND place <= \
    (SELECT place FROM removed WHERE dataset = ?1 ORDER BY place DESC LIMIT 1 OFFSET ?2)";

pub(super) fn head(name: &Name, last: u64, rules: &impl serde::Serialize) -> Result<Step, StoreError> {
    Ok(Step::Insert(&DATASETS, vec![text(name), int(last)?, json(rules)?]))
}

pub(super) fn naming(naming: &Naming, steps: &mut Vec<Step>) -> Result<(), StoreError> {
    match naming {
        Naming::Named { dataset, number, named } => {
            let cells = vec![text(dataset), int(*number)?, text(named.version), json(named)?];
            steps.push(Step::Insert(&NAMED, cells));
        }
        Naming::Removed { dataset, number, removed } => {
            const DELETE: &str = "DELETE FROM dataset_versions WHERE dataset = ? AND number = ?";
            steps.push(Step::Run(DELETE, vec![text(dataset), int(*number)?]));
            let cells = vec![text(dataset), int(*number)?, text(removed.named.version), json(removed)?];
            steps.push(Step::Insert(&REMOVED, cells));
            steps.push(Step::Run(FORGET_REMOVED, vec![text(dataset), Cell::Int(REMOVED_MAX)]));
        }
        Naming::Tagged { dataset, tag, tagged } => {
            steps.push(Step::Insert(&TAGS, vec![text(dataset), text(tag), json(tagged)?]));
        }
        Naming::Untagged { dataset, tag } => {
            const DELETE: &str = "DELETE FROM tags WHERE dataset = ? AND tag = ?";
            steps.push(Step::Run(DELETE, vec![text(dataset), text(tag)]));
        }
    }
    Ok(())
}

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<(Name, Dataset)>, StoreError> {
    let mut found: BTreeMap<Name, Dataset> = BTreeMap::new();
    let heads: Vec<(String, i64, String)> =
        sqlx::query_as("SELECT name, last, rules FROM datasets").fetch_all(pool).await.map_err(failed)?;
    for (name, last, rules) in heads {
        let dataset = Dataset { last: unsigned(last)?, rules: decode(&rules)?, ..Dataset::default() };
        found.insert(parse(&name)?, dataset);
    }
    let named: Vec<(String, i64, String)> =
        sqlx::query_as("SELECT dataset, number, record FROM dataset_versions").fetch_all(pool).await.map_err(failed)?;
    for (name, number, record) in named {
        let dataset = found.entry(parse(&name)?).or_default();
        dataset.versions.insert(unsigned(number)?, decode(&record)?);
    }
    let tags: Vec<(String, String, String)> =
        sqlx::query_as("SELECT dataset, tag, record FROM tags").fetch_all(pool).await.map_err(failed)?;
    for (name, tag, record) in tags {
        found.entry(parse(&name)?).or_default().tags.insert(parse(&tag)?, decode(&record)?);
    }
    Ok(found.into_iter().collect())
}

pub(super) async fn removed(
    pool: &SqlitePool,
    dataset: String,
    page: PageQuery,
) -> Result<Page<(u64, Removed)>, StoreError> {
    const SQL: &str = "SELECT place, number, record FROM removed WHERE dataset = ? AND place < ? \
        ORDER BY place DESC LIMIT ?";
    let cut = Cut::newest_first(&page)?;
    let rows: Vec<(i64, i64, String)> =
        sqlx::query_as(SQL).bind(dataset).bind(cut.before).bind(cut.fetch()).fetch_all(pool).await.map_err(failed)?;
    cut.page(rows, |(place, ..)| place.to_string(), |(_, number, record)| Ok((unsigned(number)?, decode(&record)?)))
}
