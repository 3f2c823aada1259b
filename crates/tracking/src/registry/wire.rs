//! Registered models and versions as they are answered, and how they are read from the database.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};

use crate::fault::Fault;
use crate::wire::Pair;
use crate::{Tracking, rows};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    pub name: String,
    pub creation_timestamp: i64,
    pub last_updated_timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The newest of each stage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub latest_versions: Vec<Version>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Pair>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Alias>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alias {
    pub alias: String,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    pub name: String,
    pub version: String,
    pub creation_timestamp: i64,
    pub last_updated_timestamp: i64,
    /// Who registered it.
    pub user_id: String,
    pub current_stage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub source: String,
    pub run_id: String,
    pub status: &'static str,
    pub run_link: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Pair>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

pub const VERSION_COLUMNS: &str = "v.number, v.model, m.name, v.version, v.created, v.updated, v.user, v.stage, \
    v.description, v.source, v.run, v.run_link, v.logged_model";
pub const MODEL_COLUMNS: &str = "m.number, m.name, m.created, m.updated, m.description";

/// Which of a version's further things an answer has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum With {
    Tags,
    TagsAndAliases,
}

impl Tracking {
    /// The versions of these rows, which begin with [`VERSION_COLUMNS`].
    pub(super) async fn whole_versions(&self, rows: &[SqliteRow], with: With) -> Result<Vec<Version>, Fault> {
        let mut versions = Vec::with_capacity(rows.len());
        let (mut places, mut models) = (HashMap::new(), HashMap::new());
        for row in rows {
            let (number, model, version): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(3)?);
            places.insert(number, versions.len());
            models.insert((model, version), versions.len());
            versions.push(Version {
                name: row.try_get(2)?,
                version: version.to_string(),
                creation_timestamp: row.try_get(4)?,
                last_updated_timestamp: row.try_get(5)?,
                user_id: row.try_get(6)?,
                current_stage: row.try_get(7)?,
                description: row.try_get(8)?,
                source: row.try_get(9)?,
                run_id: row.try_get(10)?,
                status: "READY",
                run_link: row.try_get(11)?,
                model_id: row.try_get(12)?,
                tags: Vec::new(),
                aliases: Vec::new(),
            });
        }
        let numbers: Vec<i64> = places.keys().copied().collect();
        for (number, tag) in
            self.pairs("SELECT version, key, value FROM version_tags WHERE version IN (", &numbers).await?
        {
            versions[places[&number]].tags.push(tag);
        }
        if with == With::TagsAndAliases {
            let mut numbers: Vec<i64> = models.keys().map(|(model, _)| *model).collect();
            numbers.sort_unstable();
            numbers.dedup();
            let head = "SELECT model, version, alias FROM registered_aliases WHERE model IN (";
            for row in self.rows(head, &numbers).await? {
                let Some(place) = models.get(&(row.try_get(0)?, row.try_get(1)?)) else { continue };
                versions[*place].aliases.push(row.try_get(2)?);
            }
        }
        Ok(versions)
    }

    /// The registered models of these rows, which begin with [`MODEL_COLUMNS`].
    pub(super) async fn whole_registered(&self, rows: &[SqliteRow]) -> Result<Vec<Model>, Fault> {
        let mut models = Vec::with_capacity(rows.len());
        let mut places = HashMap::new();
        for row in rows {
            places.insert(row.try_get::<i64, _>(0)?, models.len());
            models.push(Model {
                name: row.try_get(1)?,
                creation_timestamp: row.try_get(2)?,
                last_updated_timestamp: row.try_get(3)?,
                description: row.try_get(4)?,
                latest_versions: Vec::new(),
                tags: Vec::new(),
                aliases: Vec::new(),
            });
        }
        let numbers: Vec<i64> = places.keys().copied().collect();
        for (number, tag) in
            self.pairs("SELECT model, key, value FROM registered_tags WHERE model IN (", &numbers).await?
        {
            models[places[&number]].tags.push(tag);
        }
        let head = "SELECT model, alias, version FROM registered_aliases WHERE model IN (";
        for row in self.rows(head, &numbers).await? {
            let Some(place) = places.get(&row.try_get(0)?) else { continue };
            let version: i64 = row.try_get(2)?;
            models[*place].aliases.push(Alias { alias: row.try_get(1)?, version: version.to_string() });
        }
        let newest = self.newest_of_stages(&numbers).await?;
        let owners = newest.iter().map(|row| row.try_get::<i64, _>(1)).collect::<Result<Vec<_>, _>>()?;
        for (version, model) in self.whole_versions(&newest, With::Tags).await?.into_iter().zip(owners) {
            if let Some(place) = places.get(&model) {
                models[*place].latest_versions.push(version);
            }
        }
        Ok(models)
    }

    /// The newest version of each stage of these models, by number.
    pub(super) async fn newest_of_stages(&self, models: &[i64]) -> Result<Vec<SqliteRow>, Fault> {
        let mut rows = Vec::new();
        for part in models.chunks(rows::BOUND_MAX) {
            let mut sql = QueryBuilder::new("SELECT ");
            sql.push(VERSION_COLUMNS).push(
                " FROM versions v JOIN registered m ON m.number = v.model WHERE v.version = \
                 (SELECT max(w.version) FROM versions w WHERE w.model = v.model AND w.stage = v.stage) AND v.model IN (",
            );
            let mut list = sql.separated(", ");
            for number in part {
                list.push_bind(*number);
            }
            sql.push(") ORDER BY v.model, v.version");
            rows.extend(sql.build().fetch_all(self.db.readers()).await?);
        }
        Ok(rows)
    }
}
