//! What a run logs: metrics, parameters and tags, one by one or many at once.

use serde::{Deserialize, Serialize};
use sqlx::{Row, SqliteConnection};

use crate::experiments::Done;
use crate::fault::Fault;
use crate::limits::{self, Point, filled};
use crate::runs::{self, active_for_change, either, metric, no_run};
use crate::wire::{Double, Int, Metric, Pair, Text};
use crate::{Access, Tracking, ids};

/// Points of one metric in an answer, unless fewer are asked for.
const HISTORY_MAX: i64 = 25_000;
const BULK_RUNS_MAX: usize = 100;
/// Of each of them; the most that MLflow's server gives.
const BULK_POINTS_MAX: i64 = 2_500;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogMetric {
    run_id: Option<String>,
    run_uuid: Option<String>,
    key: Option<String>,
    value: Option<Double>,
    timestamp: Option<Int>,
    step: Option<Int>,
    model_id: Option<String>,
    dataset_name: Option<String>,
    dataset_digest: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogPair {
    run_id: Option<String>,
    run_uuid: Option<String>,
    key: Option<String>,
    value: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Batch {
    run_id: Option<String>,
    metrics: Option<Vec<Metric>>,
    params: Option<Vec<Pair>>,
    tags: Option<Vec<Pair>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct History {
    run_id: Option<String>,
    run_uuid: Option<String>,
    metric_key: Option<String>,
    page_token: Option<String>,
    max_results: Option<Int>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BulkHistory {
    run_ids: Option<Vec<String>>,
    metric_key: Option<String>,
    start_step: Option<Int>,
    end_step: Option<Int>,
    max_results: Option<Int>,
}

#[derive(Debug, Serialize)]
pub struct Points {
    metrics: Vec<Metric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

async fn put_point(connection: &mut SqliteConnection, run: i64, point: Point) -> Result<(), Fault> {
    const POINT: &str = "INSERT INTO metrics (run, key, step, at, value, nan, model, dataset, digest) \
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
    const LATEST: &str = "INSERT INTO latest_metrics (run, key, step, at, value, nan) VALUES (?, ?, ?, ?, ?, ?) \
        ON CONFLICT (run, key) DO UPDATE SET step = excluded.step, at = excluded.at, value = excluded.value, \
        nan = excluded.nan WHERE (excluded.step, excluded.at, excluded.value) >= (step, at, value)";
    let Point { key, value, at, step, model, dataset, digest } = point;
    let nan = value.is_nan();
    let value = if nan { 0.0 } else { value };
    sqlx::query(POINT)
        .bind(run)
        .bind(key.clone())
        .bind(step)
        .bind(at)
        .bind(value)
        .bind(nan)
        .bind(model)
        .bind(dataset)
        .bind(digest)
        .execute(&mut *connection)
        .await?;
    sqlx::query(LATEST).bind(run).bind(key).bind(step).bind(at).bind(value).bind(nan).execute(connection).await?;
    Ok(())
}

/// A parameter is said once; the same again is fine.
async fn put_param(
    connection: &mut SqliteConnection,
    run: i64,
    id: &str,
    (key, value): (String, String),
) -> Result<(), Fault> {
    const PUT: &str = "INSERT INTO params (run, key, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
    let put = sqlx::query(PUT).bind(run).bind(key.clone()).bind(value.clone()).execute(&mut *connection).await?;
    if put.rows_affected() > 0 {
        return Ok(());
    }
    let known = sqlx::query_scalar::<_, String>("SELECT value FROM params WHERE run = ? AND key = ?");
    let known = known.bind(run).bind(key.clone()).fetch_one(connection).await?;
    match known == value {
        true => Ok(()),
        false => Err(Fault::invalid(format!(
            "Changing param values is not allowed. Param with key='{key}' was already logged with value='{known}' for \
             run ID='{id}'. Attempted logging new value '{value}'."
        ))),
    }
}

/// Sets a tag; the one that names the run renames it.
pub async fn put_tag(connection: &mut SqliteConnection, run: i64, tag: (String, String)) -> Result<(), Fault> {
    match tag.0 == runs::NAME_TAG {
        true => runs::rename(connection, run, tag.1).await,
        false => set_tag(connection, run, tag).await,
    }
}

pub async fn set_tag(connection: &mut SqliteConnection, run: i64, tag: (String, String)) -> Result<(), Fault> {
    const PUT: &str = "INSERT INTO tags (run, key, value) VALUES (?, ?, ?) \
        ON CONFLICT (run, key) DO UPDATE SET value = excluded.value";
    sqlx::query(PUT).bind(run).bind(tag.0).bind(tag.1).execute(connection).await?;
    Ok(())
}

impl Tracking {
    pub(crate) async fn log_metric(self, access: Access, asked: LogMetric) -> Result<Done, Fault> {
        let id = either(asked.run_id, asked.run_uuid)?;
        let metric = Metric {
            key: asked.key,
            value: asked.value,
            timestamp: asked.timestamp,
            step: asked.step,
            model_id: asked.model_id,
            dataset_name: asked.dataset_name,
            dataset_digest: asked.dataset_digest,
            run_id: None,
        };
        let point = limits::point(metric, "")?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let run = active_for_change(connection, &access, &id).await?;
                put_point(connection, run.number, point).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn log_param(self, access: Access, asked: LogPair) -> Result<Done, Fault> {
        let id = either(asked.run_id, asked.run_uuid)?;
        let (key, value) = (limits::required(asked.key, "key")?, asked.value.unwrap_or_default());
        let param = limits::param(Pair { key, value }, "")?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let run = active_for_change(connection, &access, &id).await?;
                put_param(connection, run.number, &id, param).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn set_tag(self, access: Access, asked: LogPair) -> Result<Done, Fault> {
        let id = either(asked.run_id, asked.run_uuid)?;
        let (key, value) = (limits::required(asked.key, "key")?, asked.value.unwrap_or_default());
        let tag = limits::tag(Pair { key, value }, "")?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let run = active_for_change(connection, &access, &id).await?;
                put_tag(connection, run.number, tag).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn delete_tag(self, access: Access, asked: LogPair) -> Result<Done, Fault> {
        let (id, key) = (either(asked.run_id, asked.run_uuid)?, filled(asked.key, "key")?);
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let run = active_for_change(connection, &access, &id).await?;
                let gone = sqlx::query("DELETE FROM tags WHERE run = ? AND key = ?");
                let gone = gone.bind(run.number).bind(key.clone()).execute(connection).await?;
                match gone.rows_affected() {
                    0 => Err(Fault::missing(format!("No tag with name: {key} in run with id {id}"))),
                    _ => Ok(Done {}),
                }
            })
        });
        change.await
    }

    /// All of it or, where any of it can't be taken, nothing.
    pub(crate) async fn log_batch(self, access: Access, asked: Batch) -> Result<Done, Fault> {
        let id = filled(asked.run_id, "run_id")?;
        let (metrics, params, tags) =
            (asked.metrics.unwrap_or_default(), asked.params.unwrap_or_default(), asked.tags.unwrap_or_default());
        limits::batch(metrics.len(), params.len(), tags.len())?;
        let (points, params, tags) = (limits::points(metrics)?, limits::params(params)?, limits::tags(tags)?);
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let run = active_for_change(connection, &access, &id).await?;
                for param in params {
                    put_param(connection, run.number, &id, param).await?;
                }
                for point in points {
                    put_point(connection, run.number, point).await?;
                }
                for tag in tags {
                    put_tag(connection, run.number, tag).await?;
                }
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn history(self, _: Access, asked: History) -> Result<Points, Fault> {
        // A point of several models is one of the run.
        const POINTS: &str = "SELECT DISTINCT run, key, value, nan, at, step FROM metrics WHERE run = ? AND key = ? \
            ORDER BY step, at, value, nan LIMIT ? OFFSET ?";
        let id = either(asked.run_id, asked.run_uuid)?;
        let key = filled(asked.metric_key, "metric_key")?;
        let offset = ids::page_offset(asked.page_token.as_deref())?;
        let paged = asked.max_results.map(|max| max.0).filter(|max| *max > 0);
        let limit = paged.unwrap_or(HISTORY_MAX).min(HISTORY_MAX);
        let run = sqlx::query_scalar::<_, i64>("SELECT number FROM runs WHERE id = ?").bind(id.clone());
        let run = run.fetch_optional(self.db.readers()).await?.ok_or_else(|| no_run(&id))?;
        let rows = sqlx::query(POINTS).bind(run).bind(key).bind(limit + 1).bind(offset);
        let rows = rows.fetch_all(self.db.readers()).await?;
        let next_page_token = (rows.len() as i64 > limit).then(|| ids::page_token(offset + limit));
        let metrics = rows.iter().take(limit as usize).map(metric).collect::<Result<_, _>>()?;
        Ok(Points { metrics, next_page_token })
    }

    /// Points of many runs, thinned evenly by step where there are more than asked for; the last always stays.
    pub(crate) async fn bulk_history(self, _: Access, asked: BulkHistory) -> Result<Points, Fault> {
        const THINNED: &str = "WITH points AS (SELECT m.run, m.key, m.value, m.nan, m.at, m.step, r.id, \
                row_number() OVER (PARTITION BY m.run ORDER BY m.step, m.at, m.value) AS nth, \
                count(*) OVER (PARTITION BY m.run) AS total \
                FROM (SELECT DISTINCT run, key, value, nan, at, step FROM metrics WHERE key = ?2 \
                    AND run = (SELECT number FROM runs WHERE id = ?1) AND step >= ?3 AND step <= ?4) m \
                JOIN runs r ON r.number = m.run) \
            SELECT run, key, value, nan, at, step, id FROM points \
            WHERE total <= ?5 OR nth = total OR (nth - 1) * ?5 / total <> (nth - 2) * ?5 / total OR nth = 1 \
            ORDER BY nth";
        let ids = limits::required(asked.run_ids.filter(|ids| !ids.is_empty()), "run_ids")?;
        if ids.len() > BULK_RUNS_MAX {
            return Err(Fault::invalid(format!(
                "GetMetricHistoryBulkInterval request must specify at most {BULK_RUNS_MAX} run_ids. Received {}.",
                ids.len()
            )));
        }
        let key = filled(asked.metric_key, "metric_key")?;
        let limit = asked.max_results.map_or(320, |max| max.0).clamp(1, BULK_POINTS_MAX);
        let (from, to) = (asked.start_step.map_or(i64::MIN, |s| s.0), asked.end_step.map_or(i64::MAX, |s| s.0));
        if from > to {
            return Err(Fault::invalid(format!(
                "end_step must be greater than start_step. Found start_step={from} and end_step={to}."
            )));
        }
        let mut metrics = Vec::new();
        for id in ids {
            let rows = sqlx::query(THINNED).bind(id.clone()).bind(key.clone()).bind(from).bind(to).bind(limit);
            for row in rows.fetch_all(self.db.readers()).await? {
                metrics.push(Metric { run_id: Some(row.try_get(6)?), ..metric(&row)? });
            }
        }
        Ok(Points { metrics, next_page_token: None })
    }
}
