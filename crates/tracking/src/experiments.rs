//! Experiments: names under which runs are kept.

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Row, SqliteConnection, sqlite::SqliteRow};

use crate::fault::Fault;
use crate::limits::{self, filled, required};
use crate::search::{self, Subject};
use crate::wire::{Experiment, Int, Pair, Text};
use crate::{Access, Tracking, filter, ids, now, runs, weight};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ById {
    pub experiment_id: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ByName {
    experiment_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Create {
    name: Option<String>,
    artifact_location: Option<String>,
    tags: Option<Vec<Pair>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Update {
    experiment_id: Option<Text>,
    new_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tag {
    experiment_id: Option<Text>,
    key: Option<String>,
    value: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Search {
    max_results: Option<Int>,
    page_token: Option<String>,
    filter: Option<String>,
    order_by: Option<Vec<String>>,
    view_type: Option<Text>,
}

#[derive(Debug, Serialize)]
pub struct Created {
    experiment_id: String,
}

#[derive(Debug, Serialize)]
pub struct One {
    experiment: Experiment,
}

#[derive(Debug, Serialize)]
pub struct Page {
    experiments: Vec<Experiment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

/// Nothing to say but that it was done.
#[derive(Debug, Serialize)]
pub struct Done {}

const COLUMNS: &str = "e.id, e.name, e.artifact_location, e.deleted, e.created, e.updated";

pub fn id(id: Option<Text>) -> Result<i64, Fault> {
    let text = filled(id.map(|id| id.0), "experiment_id")?;
    text.parse()
        .map_err(|_| Fault::invalid(format!("Invalid experiment ID '{text}'. Experiment ID must be a valid integer.")))
}

fn read(row: &SqliteRow) -> Result<Experiment, sqlx::Error> {
    Ok(Experiment {
        experiment_id: row.try_get::<i64, _>(0)?.to_string(),
        name: row.try_get(1)?,
        artifact_location: row.try_get(2)?,
        lifecycle_stage: runs::stage(row.try_get(3)?),
        creation_time: row.try_get(4)?,
        last_update_time: row.try_get(5)?,
        tags: Vec::new(),
    })
}

pub fn missing(id: i64) -> Fault {
    Fault::missing(format!("No Experiment with id={id} exists"))
}

/// Whether it is deleted; a fault where there is none.
async fn is_deleted(connection: &mut SqliteConnection, id: i64) -> Result<bool, Fault> {
    let found = sqlx::query_scalar("SELECT deleted FROM experiments WHERE id = ?").bind(id);
    found.fetch_optional(connection).await?.ok_or_else(|| missing(id))
}

pub async fn active(connection: &mut SqliteConnection, id: i64) -> Result<(), Fault> {
    match is_deleted(connection, id).await? {
        true => {
            Err(Fault::invalid(format!("The experiment {id} must be in the 'active' state. Current state is deleted.")))
        }
        false => Ok(()),
    }
}

/// The experiment of this name, made where there is none.
pub async fn named(connection: &mut SqliteConnection, name: &str) -> Result<i64, Fault> {
    let found = sqlx::query_scalar("SELECT id FROM experiments WHERE name = ?").bind(name.to_owned());
    match found.fetch_optional(&mut *connection).await? {
        Some(id) => Ok(id),
        None => insert(connection, name).await,
    }
}

async fn insert(connection: &mut SqliteConnection, name: &str) -> Result<i64, Fault> {
    const INSERT: &str = "INSERT INTO experiments (name, artifact_location, created, updated) VALUES (?1, '', ?2, ?2) \
        ON CONFLICT (name) DO NOTHING RETURNING id";
    let id = sqlx::query_scalar::<_, i64>(INSERT).bind(name.to_owned()).bind(now()).fetch_optional(&mut *connection);
    let exists = || Fault::exists(format!("Experiment(name={name}) already exists."));
    let id = id.await?.ok_or_else(exists)?;
    let location = sqlx::query("UPDATE experiments SET artifact_location = ? WHERE id = ?");
    location.bind(format!("mlflow-artifacts:/{id}")).bind(id).execute(connection).await?;
    Ok(id)
}

impl Tracking {
    pub(crate) async fn create_experiment(self, access: Access, asked: Create) -> Result<Created, Fault> {
        let name = limits::experiment_name(asked.name)?;
        // Also one of our own kind may name a host, to which clients would send files and their token.
        if asked.artifact_location.is_some_and(|location| !location.is_empty()) {
            return Err(Fault::invalid(
                "artifact_location can't be chosen here: artifacts stay at the site where they are made",
            ));
        }
        let mut tags = Vec::new();
        for pair in asked.tags.unwrap_or_default() {
            tags.push(experiment_tag(Some(pair.key), Some(pair.value))?);
        }
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let id = insert(connection, &name).await?;
                for (key, value) in tags {
                    set_tag(connection, id, key, value).await?;
                }
                runs::move_own(connection, &access, id).await?;
                Ok(Created { experiment_id: id.to_string() })
            })
        });
        change.await
    }

    pub(crate) async fn get_experiment(self, _: Access, asked: ById) -> Result<One, Fault> {
        let id = id(asked.experiment_id)?;
        self.one("e.id = ", id.to_string()).await?.ok_or_else(|| missing(id))
    }

    /// A workload that sets an experiment by its name means its own run to be there.
    pub(crate) async fn experiment_by_name(self, access: Access, asked: ByName) -> Result<One, Fault> {
        let name = filled(asked.experiment_name, "experiment_name")?;
        let missing = Fault::missing(format!("Could not find experiment with name '{name}'"));
        let found = self.one("e.name = ", name).await?.ok_or(missing)?;
        if access.run.is_some() && found.experiment.lifecycle_stage == "active" {
            let id = found.experiment.experiment_id.parse().unwrap_or_default();
            let change = self.db.change(access.own(), move |connection| {
                Box::pin(async move { runs::move_own(connection, &access, id).await })
            });
            change.await?;
        }
        Ok(found)
    }

    async fn one(&self, condition: &'static str, value: String) -> Result<Option<One>, Fault> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(COLUMNS).push(" FROM experiments e WHERE ").push(condition).push_bind(value);
        let row = sql.build().fetch_optional(self.db.readers()).await?;
        let Some(row) = row else { return Ok(None) };
        let mut experiments = vec![read(&row)?];
        self.add_tags(&mut experiments).await?;
        Ok(experiments.pop().map(|experiment| One { experiment }))
    }

    async fn add_tags(&self, experiments: &mut [Experiment]) -> Result<(), Fault> {
        let mut sql = QueryBuilder::new("SELECT experiment, key, value FROM experiment_tags WHERE experiment IN (");
        let mut list = sql.separated(", ");
        for experiment in experiments.iter() {
            list.push_bind(experiment.experiment_id.parse::<i64>().unwrap_or_default());
        }
        sql.push(") ORDER BY key");
        for row in sql.build().fetch_all(self.db.readers()).await? {
            let id = row.try_get::<i64, _>(0)?.to_string();
            let tag = Pair { key: row.try_get(1)?, value: Text(row.try_get(2)?) };
            if let Some(found) = experiments.iter_mut().find(|experiment| experiment.experiment_id == id) {
                found.tags.push(tag);
            }
        }
        Ok(())
    }

    pub(crate) async fn search_experiments(self, _: Access, asked: Search) -> Result<Page, Fault> {
        let limit = asked.max_results.map_or(1_000, |max| max.0);
        if !(1..=limits::PAGE_MAX).contains(&limit) {
            let why = format!(
                "Invalid value {limit} for parameter 'max_results' supplied: it must be at most {}",
                limits::PAGE_MAX
            );
            return Err(Fault::invalid(why));
        }
        let offset = ids::page_offset(asked.page_token.as_deref())?;
        let clauses = filter::parse(asked.filter.as_deref().unwrap_or_default())?;
        let orders = filter::parse_order(&asked.order_by.unwrap_or_default())?;
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(COLUMNS).push(" FROM experiments e WHERE ").push(runs::view("e.deleted", asked.view_type)?);
        search::push_clauses(&mut sql, Subject::Experiments, &clauses)?;
        search::push_order(&mut sql, Subject::Experiments, &orders, "e.created DESC, e.id DESC")?;
        sql.push(" LIMIT ").push_bind(limit + 1).push(" OFFSET ").push_bind(offset);
        let mut rows = sql.build().fetch_all(self.db.readers()).await?;
        let found = rows.len();
        rows.truncate(limit as usize);
        rows.truncate(self.fitting(&rows, weight::EXPERIMENTS).await?);
        let next_page_token = (found > rows.len()).then(|| ids::page_token(offset + rows.len() as i64));
        let mut experiments = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        // SQLite binds at most 32,766 values.
        for part in experiments.chunks_mut(10_000) {
            self.add_tags(part).await?;
        }
        Ok(Page { experiments, next_page_token })
    }

    pub(crate) async fn update_experiment(self, access: Access, asked: Update) -> Result<Done, Fault> {
        access.people_only("rename experiments")?;
        let (id, name) = (id(asked.experiment_id)?, limits::experiment_name(asked.new_name)?);
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                if is_deleted(connection, id).await? {
                    return Err(Fault::invalid("Cannot rename a non-active experiment."));
                }
                let taken = sqlx::query_scalar::<_, i64>("SELECT id FROM experiments WHERE name = ? AND id <> ?");
                if taken.bind(name.clone()).bind(id).fetch_optional(&mut *connection).await?.is_some() {
                    return Err(Fault::exists(format!("Experiment(name={name}) already exists.")));
                }
                sqlx::query("UPDATE experiments SET name = ?, updated = ? WHERE id = ?")
                    .bind(name)
                    .bind(now())
                    .bind(id)
                    .execute(connection)
                    .await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn delete_experiment(self, access: Access, asked: ById) -> Result<Done, Fault> {
        self.mark_experiment(access, asked, true).await
    }

    pub(crate) async fn restore_experiment(self, access: Access, asked: ById) -> Result<Done, Fault> {
        self.mark_experiment(access, asked, false).await
    }

    /// Its runs go and come with it.
    async fn mark_experiment(self, access: Access, asked: ById, deleted: bool) -> Result<Done, Fault> {
        access.people_only("delete or restore experiments")?;
        let id = id(asked.experiment_id)?;
        if id == 0 && deleted {
            return Err(Fault::invalid("The default experiment can't be deleted"));
        }
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                if is_deleted(connection, id).await? == deleted {
                    let state = runs::stage(deleted);
                    return Err(Fault::missing(format!("The experiment {id} is {state} already.")));
                }
                sqlx::query("UPDATE experiments SET deleted = ?, updated = ? WHERE id = ?")
                    .bind(deleted)
                    .bind(now())
                    .bind(id)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("UPDATE runs SET deleted = ? WHERE experiment = ?")
                    .bind(deleted)
                    .bind(id)
                    .execute(connection)
                    .await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn set_experiment_tag(self, access: Access, asked: Tag) -> Result<Done, Fault> {
        let id = id(asked.experiment_id)?;
        let (key, value) = experiment_tag(asked.key, asked.value)?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                active(connection, id).await?;
                runs::within_own(connection, &access, id).await?;
                set_tag(connection, id, key, value).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn delete_experiment_tag(self, access: Access, asked: Tag) -> Result<Done, Fault> {
        let (id, key) = (id(asked.experiment_id)?, filled(asked.key, "key")?);
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                active(connection, id).await?;
                runs::within_own(connection, &access, id).await?;
                let gone = sqlx::query("DELETE FROM experiment_tags WHERE experiment = ? AND key = ?");
                let gone = gone.bind(id).bind(key.clone()).execute(connection).await?;
                match gone.rows_affected() {
                    0 => Err(Fault::missing(format!("No tag with name: {key} in experiment with id {id}"))),
                    _ => Ok(Done {}),
                }
            })
        });
        change.await
    }
}

fn experiment_tag(key: Option<String>, value: Option<Text>) -> Result<(String, String), Fault> {
    let key = limits::entity_key(filled(key, "key")?, "key")?;
    let value = required(value, "value")?.0;
    limits::at_most("value", &value, limits::EXPERIMENT_TAG_VALUE_MAX)?;
    Ok((key, value))
}

async fn set_tag(connection: &mut SqliteConnection, id: i64, key: String, value: String) -> Result<(), Fault> {
    const SET: &str = "INSERT INTO experiment_tags (experiment, key, value) VALUES (?, ?, ?) \
        ON CONFLICT (experiment, key) DO UPDATE SET value = excluded.value";
    sqlx::query(SET).bind(id).bind(key).bind(value).execute(connection).await?;
    Ok(())
}
