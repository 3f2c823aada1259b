//! Logged models: what a run has made of its data, before anybody registers it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Row, SqliteConnection, sqlite::SqliteRow};

use crate::experiments::{self, Done};
use crate::fault::Fault;
use crate::filter::{self, Order};
use crate::limits::{self, filled};
use crate::runs::{self, metric};
use crate::search::{self, Subject};
use crate::wire::{Int, Metric, Model, ModelData, ModelInfo, Pair, Text};
use crate::{Access, Tracking, ids, now, weight};

const STATUSES: [&str; 3] = ["LOGGED_MODEL_PENDING", "LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED"];
const PAGE_MAX: i64 = 1_000;
/// Metrics of one model in an answer: the newest ones.
const METRICS_MAX: i64 = 1_000;
/// About what one of them takes there, in bytes.
const METRIC_BYTES: u64 = 512;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Create {
    experiment_id: Option<Text>,
    name: Option<String>,
    model_type: Option<String>,
    source_run_id: Option<String>,
    params: Option<Vec<Pair>>,
    tags: Option<Vec<Pair>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ById {
    model_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Finalize {
    model_id: Option<String>,
    status: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SetPairs {
    model_id: Option<String>,
    tags: Option<Vec<Pair>>,
    params: Option<Vec<Pair>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeleteTag {
    model_id: Option<String>,
    tag_key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Search {
    experiment_ids: Option<Vec<Text>>,
    filter: Option<String>,
    datasets: Option<Vec<serde_json::Value>>,
    max_results: Option<Int>,
    order_by: Option<Vec<OrderBy>>,
    page_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OrderBy {
    field_name: String,
    ascending: Option<bool>,
}

#[derive(Debug, Serialize)]
pub struct One {
    model: Model,
}

#[derive(Debug, Serialize)]
pub struct Page {
    models: Vec<Model>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

const COLUMNS: &str = "m.number, m.id, m.experiment, m.name, m.created, m.updated, m.artifact_uri, m.status, \
    m.model_type, m.source_run, m.status_message";

fn missing(id: &str) -> Fault {
    Fault::missing(format!("Logged model with ID '{id}' not found."))
}

fn check_name(name: &str) -> Result<(), Fault> {
    const BAD: [char; 6] = ['/', ':', '.', '%', '"', '\''];
    match name.contains(BAD) {
        true => Err(Fault::invalid(format!(
            "Invalid model name ({name:?}) provided. Model name must be a non-empty string and cannot contain the \
             following characters: {BAD:?}"
        ))),
        false => limits::at_most("name", name, limits::EXPERIMENT_NAME_MAX),
    }
}

/// The model's number, for one who may change it.
async fn for_change(connection: &mut SqliteConnection, access: &Access, id: &str) -> Result<i64, Fault> {
    let row = sqlx::query("SELECT number, owner FROM models WHERE id = ? AND deleted = 0").bind(id.to_owned());
    let row = row.fetch_optional(connection).await?.ok_or_else(|| missing(id))?;
    let owner: Option<String> = row.try_get(1)?;
    match &access.run {
        Some(own) if owner.as_ref() != Some(&own.workload) => {
            Err(Fault::denied(format!("The token of {} may change its own models only", own.workload)))
        }
        _ => Ok(row.try_get(0)?),
    }
}

async fn put_params(connection: &mut SqliteConnection, model: i64, params: Vec<(String, String)>) -> Result<(), Fault> {
    for (key, value) in params {
        sqlx::query("INSERT INTO model_params (model, key, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(model)
            .bind(key)
            .bind(value)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn put_tags(connection: &mut SqliteConnection, model: i64, tags: Vec<(String, String)>) -> Result<(), Fault> {
    const SET: &str = "INSERT INTO model_tags (model, key, value) VALUES (?, ?, ?) \
        ON CONFLICT (model, key) DO UPDATE SET value = excluded.value";
    for (key, value) in tags {
        sqlx::query(SET).bind(model).bind(key).bind(value).execute(&mut *connection).await?;
    }
    Ok(())
}

impl Tracking {
    pub(crate) async fn create_model(self, access: Access, asked: Create) -> Result<One, Fault> {
        const INSERT: &str = "INSERT INTO models \
            (id, experiment, name, model_type, source_run, status, created, updated, artifact_uri, owner) \
            SELECT ?1, e.id, ?3, ?4, ?5, ?6, ?7, ?7, e.artifact_location || '/models/' || ?1 || '/artifacts', ?8 \
            FROM experiments e WHERE e.id = ?2 RETURNING number";
        let experiment = experiments::id(asked.experiment_id)?;
        let name = match asked.name.filter(|name| !name.is_empty()) {
            Some(name) => name,
            None => ids::run_name()?,
        };
        check_name(&name)?;
        let params = limits::params(asked.params.unwrap_or_default())?;
        let tags = limits::tags(asked.tags.unwrap_or_default())?;
        let id = format!("m-{}", ids::random()?);
        let (made, model_type) = (id.clone(), asked.model_type.unwrap_or_default());
        let source = asked.source_run_id.unwrap_or_default();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                experiments::active(connection, experiment).await?;
                runs::within_own(connection, &access, experiment).await?;
                let number = sqlx::query_scalar::<_, i64>(INSERT)
                    .bind(made)
                    .bind(experiment)
                    .bind(name)
                    .bind(model_type)
                    .bind(source)
                    .bind(STATUSES[0])
                    .bind(now())
                    .bind(access.run.as_ref().map(|own| own.workload.clone()))
                    .fetch_one(&mut *connection)
                    .await?;
                put_params(connection, number, params).await?;
                put_tags(connection, number, tags).await
            })
        });
        change.await?;
        self.model(id).await
    }

    pub(crate) async fn get_model(self, _: Access, asked: ById) -> Result<One, Fault> {
        self.model(filled(asked.model_id, "model_id")?).await
    }

    async fn model(&self, id: String) -> Result<One, Fault> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(COLUMNS).push(" FROM models m WHERE m.deleted = 0 AND m.id = ").push_bind(id.clone());
        let rows = sql.build().fetch_all(self.db.readers()).await?;
        let model = self.whole_models(&rows).await?.pop().ok_or_else(|| missing(&id))?;
        Ok(One { model })
    }

    /// The models of these rows with all that belongs to them, up to the one with whose metrics the answer is long enough.
    async fn whole_models(&self, rows: &[SqliteRow]) -> Result<Vec<Model>, Fault> {
        const METRICS: &str = "SELECT m.run, m.key, m.value, m.nan, m.at, m.step, r.id, m.dataset, m.digest \
            FROM metrics m JOIN runs r ON r.number = m.run WHERE m.model = ? AND m.model <> '' ORDER BY m.at DESC LIMIT ?";
        let mut models = Vec::with_capacity(rows.len());
        let (mut places, mut bytes) = (HashMap::new(), 0);
        for row in rows {
            if bytes > weight::PAGE_BYTES_MAX {
                break;
            }
            places.insert(row.try_get::<i64, _>(0)?, models.len());
            let mut data = ModelData::default();
            let id: String = row.try_get(1)?;
            let metrics = sqlx::query(METRICS).bind(id.clone()).bind(METRICS_MAX).fetch_all(self.db.readers());
            for found in metrics.await? {
                let filled = |text: String| Some(text).filter(|text| !text.is_empty());
                bytes += METRIC_BYTES;
                data.metrics.push(Metric {
                    model_id: Some(id.clone()),
                    run_id: found.try_get(6)?,
                    dataset_name: filled(found.try_get(7)?),
                    dataset_digest: filled(found.try_get(8)?),
                    ..metric(&found)?
                });
            }
            models.push(Model { info: info(row)?, data });
        }
        let numbers: Vec<i64> = places.keys().copied().collect();
        for (number, param) in
            self.pairs("SELECT model, key, value FROM model_params WHERE model IN (", &numbers).await?
        {
            models[places[&number]].data.params.push(param);
        }
        for (number, tag) in self.pairs("SELECT model, key, value FROM model_tags WHERE model IN (", &numbers).await? {
            models[places[&number]].info.tags.push(tag);
        }
        Ok(models)
    }

    pub(crate) async fn finalize_model(self, access: Access, asked: Finalize) -> Result<One, Fault> {
        let id = filled(asked.model_id, "model_id")?;
        let status = filled(asked.status.map(|status| status.0), "status")?;
        let by_number = status.parse::<usize>().ok().and_then(|number| STATUSES.get(number.checked_sub(1)?));
        let status = by_number.or_else(|| STATUSES.iter().find(|known| **known == status)).copied();
        let status = status.filter(|status| *status != STATUSES[0]).ok_or_else(|| {
            Fault::invalid("Invalid model status. Expected statuses: LOGGED_MODEL_READY, LOGGED_MODEL_UPLOAD_FAILED")
        })?;
        let changed = id.clone();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let number = for_change(connection, &access, &changed).await?;
                sqlx::query("UPDATE models SET status = ?, updated = ? WHERE number = ?")
                    .bind(status)
                    .bind(now())
                    .bind(number)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        });
        change.await?;
        self.model(id).await
    }

    pub(crate) async fn delete_model(self, access: Access, asked: ById) -> Result<Done, Fault> {
        let id = filled(asked.model_id, "model_id")?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let number = for_change(connection, &access, &id).await?;
                sqlx::query("UPDATE models SET deleted = 1, updated = ? WHERE number = ?")
                    .bind(now())
                    .bind(number)
                    .execute(connection)
                    .await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn set_model_tags(self, access: Access, asked: SetPairs) -> Result<One, Fault> {
        let id = filled(asked.model_id, "model_id")?;
        let tags = limits::tags(asked.tags.unwrap_or_default())?;
        let changed = id.clone();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let number = for_change(connection, &access, &changed).await?;
                put_tags(connection, number, tags).await
            })
        });
        change.await?;
        self.model(id).await
    }

    pub(crate) async fn log_model_params(self, access: Access, asked: SetPairs) -> Result<Done, Fault> {
        let id = filled(asked.model_id, "model_id")?;
        let params = limits::params(asked.params.unwrap_or_default())?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let number = for_change(connection, &access, &id).await?;
                put_params(connection, number, params).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn delete_model_tag(self, access: Access, asked: DeleteTag) -> Result<Done, Fault> {
        let (id, key) = (filled(asked.model_id, "model_id")?, filled(asked.tag_key, "tag_key")?);
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let number = for_change(connection, &access, &id).await?;
                let gone = sqlx::query("DELETE FROM model_tags WHERE model = ? AND key = ?");
                match gone.bind(number).bind(key.clone()).execute(connection).await?.rows_affected() {
                    0 => Err(Fault::missing(format!("No tag with key {key:?} found for model with ID {id:?}."))),
                    _ => Ok(Done {}),
                }
            })
        });
        change.await
    }

    pub(crate) async fn search_models(self, _: Access, asked: Search) -> Result<Page, Fault> {
        if asked.datasets.is_some_and(|datasets| !datasets.is_empty()) {
            return Err(Fault::invalid("Models can't be searched by the data sets of their metrics here"));
        }
        let limit = asked.max_results.map_or(100, |max| max.0);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Fault::invalid(format!("max_results must be from 1 to {PAGE_MAX}, not {limit}")));
        }
        let offset = ids::page_offset(asked.page_token.as_deref())?;
        let clauses = filter::parse(asked.filter.as_deref().unwrap_or_default())?;
        let orders = asked.order_by.unwrap_or_default().into_iter().map(|order| {
            let field = filter::parse_order(std::slice::from_ref(&order.field_name))?.swap_remove(0).field;
            Ok(Order { field, descending: !order.ascending.unwrap_or(true) })
        });
        let orders = orders.collect::<Result<Vec<_>, Fault>>()?;
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(COLUMNS).push(" FROM models m WHERE m.deleted = 0 AND m.experiment IN (");
        let mut list = sql.separated(", ");
        for id in asked.experiment_ids.unwrap_or_default() {
            list.push_bind(experiments::id(Some(id))?);
        }
        sql.push(")");
        search::push_clauses(&mut sql, Subject::Models, &clauses)?;
        search::push_order(&mut sql, Subject::Models, &orders, "m.created DESC, m.id")?;
        sql.push(" LIMIT ").push_bind(limit + 1).push(" OFFSET ").push_bind(offset);
        let mut rows = sql.build().fetch_all(self.db.readers()).await?;
        let found = rows.len();
        rows.truncate(limit as usize);
        rows.truncate(self.fitting(&rows, weight::MODELS).await?);
        let models = self.whole_models(&rows).await?;
        let next_page_token = (found > models.len()).then(|| ids::page_token(offset + models.len() as i64));
        Ok(Page { models, next_page_token })
    }
}

fn info(row: &SqliteRow) -> Result<ModelInfo, sqlx::Error> {
    Ok(ModelInfo {
        model_id: row.try_get(1)?,
        experiment_id: row.try_get::<i64, _>(2)?.to_string(),
        name: row.try_get(3)?,
        creation_timestamp_ms: row.try_get(4)?,
        last_updated_timestamp_ms: row.try_get(5)?,
        artifact_uri: row.try_get(6)?,
        status: row.try_get(7)?,
        model_type: row.try_get(8)?,
        source_run_id: row.try_get(9)?,
        status_message: row.try_get(10)?,
        tags: Vec::new(),
    })
}
