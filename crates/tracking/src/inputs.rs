//! What a run read and made, as its client says: data sets and models.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Row, SqliteConnection};

use crate::experiments::{self, Done};
use crate::fault::Fault;
use crate::limits::{self, filled};
use crate::runs::active_for_change;
use crate::wire::{Dataset, DatasetInput, Int, ModelLink, Pair, Run, Text};
use crate::{Access, Tracking};

const DATASETS_MAX: usize = 1_000;
const MODELS_MAX: usize = 1_000;
/// What all data sets of a run may say of themselves, in bytes: whoever reads the run gets all of it.
const RUN_BYTES_MAX: i64 = 32 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogInputs {
    run_id: Option<String>,
    datasets: Option<Vec<DatasetInput>>,
    models: Option<Vec<ModelLink>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogOutputs {
    run_id: Option<String>,
    models: Option<Vec<ModelLink>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SearchDatasets {
    experiment_ids: Option<Vec<Text>>,
}

#[derive(Debug, Serialize)]
pub struct Summaries {
    dataset_summaries: Vec<Summary>,
}

#[derive(Debug, Serialize)]
struct Summary {
    experiment_id: String,
    name: String,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
}

fn check(input: &DatasetInput) -> Result<(), Fault> {
    let Dataset { name, digest, source_type, source, schema, profile } = &input.dataset;
    for (what, value) in [("name", name), ("digest", digest), ("source_type", source_type), ("source", source)] {
        if value.is_empty() {
            return Err(Fault::invalid(format!("Missing value for required parameter 'dataset.{what}'.")));
        }
    }
    limits::at_most("name", name, limits::DATASET_NAME_MAX)?;
    limits::at_most("digest", digest, limits::DATASET_DIGEST_MAX)?;
    limits::at_most("source", source, limits::DATASET_SOURCE_MAX)?;
    limits::at_most("schema", schema.as_deref().unwrap_or_default(), limits::DATASET_SCHEMA_MAX)?;
    limits::at_most("profile", profile.as_deref().unwrap_or_default(), limits::DATASET_PROFILE_MAX)
}

async fn put_dataset(
    connection: &mut SqliteConnection,
    run: i64,
    experiment: i64,
    input: DatasetInput,
) -> Result<(), Fault> {
    const DATASET: &str = "INSERT INTO datasets (experiment, name, digest, source_type, source, schema, profile) \
        VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (experiment, name, digest) DO UPDATE SET name = name RETURNING id";
    const INPUT: &str = "INSERT INTO dataset_inputs (run, dataset, tags) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
    let Dataset { name, digest, source_type, source, schema, profile } = input.dataset;
    let id = sqlx::query_scalar::<_, i64>(DATASET)
        .bind(experiment)
        .bind(name)
        .bind(digest)
        .bind(source_type)
        .bind(source)
        .bind(schema)
        .bind(profile)
        .fetch_one(&mut *connection)
        .await?;
    let tags = serde_json::to_string(&input.tags).expect("plain data");
    sqlx::query(INPUT).bind(run).bind(id).bind(tags).execute(connection).await?;
    Ok(())
}

async fn within_bounds(connection: &mut SqliteConnection, run: i64, id: &str) -> Result<(), Fault> {
    const BYTES: &str = "SELECT coalesce(sum(octet_length(i.tags) + octet_length(d.source) \
        + coalesce(octet_length(d.schema), 0) + coalesce(octet_length(d.profile), 0)), 0) \
        FROM dataset_inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run = ?";
    let bytes = sqlx::query_scalar::<_, i64>(BYTES).bind(run).fetch_one(connection).await?;
    match bytes > RUN_BYTES_MAX {
        true => Err(Fault::invalid(format!(
            "The data sets of run {id} would say {bytes} bytes of themselves; at most {RUN_BYTES_MAX} are kept for a run"
        ))),
        false => Ok(()),
    }
}

async fn put_link(connection: &mut SqliteConnection, run: i64, link: ModelLink, input: bool) -> Result<(), Fault> {
    const LINK: &str = "INSERT INTO model_links (run, model, input, step) VALUES (?, ?, ?, ?) \
        ON CONFLICT (run, model, input) DO UPDATE SET step = excluded.step";
    let step = link.step.unwrap_or_default().0;
    sqlx::query(LINK).bind(run).bind(link.model_id).bind(input).bind(step).execute(connection).await?;
    Ok(())
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), Fault> {
    match count > limit {
        true => Err(Fault::invalid(format!("At most {limit} {what} are taken at once, not {count}"))),
        false => Ok(()),
    }
}

impl Tracking {
    pub(crate) async fn log_inputs(self, access: Access, asked: LogInputs) -> Result<Done, Fault> {
        let id = filled(asked.run_id, "run_id")?;
        let (datasets, models) = (asked.datasets.unwrap_or_default(), asked.models.unwrap_or_default());
        at_most("datasets", datasets.len(), DATASETS_MAX)?;
        at_most("models", models.len(), MODELS_MAX)?;
        datasets.iter().try_for_each(check)?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let run = active_for_change(connection, &access, &id).await?;
                for input in datasets {
                    put_dataset(connection, run.number, run.experiment, input).await?;
                }
                for model in models {
                    put_link(connection, run.number, model, true).await?;
                }
                within_bounds(connection, run.number, &id).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn log_outputs(self, access: Access, asked: LogOutputs) -> Result<Done, Fault> {
        let id = filled(asked.run_id, "run_id")?;
        let models = asked.models.unwrap_or_default();
        at_most("models", models.len(), MODELS_MAX)?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let run = active_for_change(connection, &access, &id).await?;
                for model in models {
                    put_link(connection, run.number, model, false).await?;
                }
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn search_datasets(self, _: Access, asked: SearchDatasets) -> Result<Summaries, Fault> {
        const CONTEXT: &str = "(SELECT json_extract(t.value, '$.value') FROM json_each(i.tags) t \
            WHERE json_extract(t.value, '$.key') = 'mlflow.data.context')";
        let mut sql = QueryBuilder::new("SELECT DISTINCT d.experiment, d.name, d.digest, ");
        sql.push(CONTEXT).push(" FROM datasets d JOIN dataset_inputs i ON i.dataset = d.id WHERE d.experiment IN (");
        let mut list = sql.separated(", ");
        for id in asked.experiment_ids.unwrap_or_default() {
            list.push_bind(experiments::id(Some(id))?);
        }
        sql.push(") ORDER BY d.name, d.digest LIMIT 1000");
        let rows = sql.build().fetch_all(self.db.readers()).await?;
        let summary = |row: &sqlx::sqlite::SqliteRow| -> Result<Summary, sqlx::Error> {
            let experiment_id = row.try_get::<i64, _>(0)?.to_string();
            Ok(Summary { experiment_id, name: row.try_get(1)?, digest: row.try_get(2)?, context: row.try_get(3)? })
        };
        Ok(Summaries { dataset_summaries: rows.iter().map(summary).collect::<Result<_, _>>()? })
    }
}

/// Adds what the runs with these numbers read and made; `places` says where each stands among `runs`.
pub async fn add(
    tracking: &Tracking,
    numbers: &[i64],
    places: &HashMap<i64, usize>,
    runs: &mut [Run],
) -> Result<(), Fault> {
    const DATASETS: &str = "SELECT i.run, i.tags, d.name, d.digest, d.source_type, d.source, d.schema, d.profile \
        FROM dataset_inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run IN (";
    for row in tracking.rows(DATASETS, numbers).await? {
        let Some(place) = places.get(&row.try_get(0)?) else { continue };
        let tags: Vec<Pair> = serde_json::from_str(&row.try_get::<String, _>(1)?).unwrap_or_default();
        let dataset = Dataset {
            name: row.try_get(2)?,
            digest: row.try_get(3)?,
            source_type: row.try_get(4)?,
            source: row.try_get(5)?,
            schema: row.try_get(6)?,
            profile: row.try_get(7)?,
        };
        runs[*place].inputs.dataset_inputs.push(DatasetInput { tags, dataset });
    }
    for row in tracking.rows("SELECT run, model, input, step FROM model_links WHERE run IN (", numbers).await? {
        let Some(place) = places.get(&row.try_get(0)?) else { continue };
        let (model_id, input) = (row.try_get(1)?, row.try_get::<bool, _>(2)?);
        match input {
            true => runs[*place].inputs.model_inputs.push(ModelLink { model_id, step: None }),
            false => {
                let step = Some(Int(row.try_get(3)?));
                runs[*place].outputs.model_outputs.push(ModelLink { model_id, step });
            }
        }
    }
    Ok(())
}
