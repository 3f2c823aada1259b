//! Runs: made, found, ended, deleted and searched.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Row, SqliteConnection, sqlite::SqliteRow};

use crate::experiments::{self, Done};
use crate::fault::Fault;
use crate::limits::{self, filled};
use crate::search::{self, Subject};
use crate::wire::{Double, Int, Metric, Pair, Run, RunData, RunInfo, RunInputs, RunOutputs, Text};
use crate::{Access, Tracking, filter, ids, inputs, log, now, weight};

/// The tag that says a run's name again.
pub const NAME_TAG: &str = "mlflow.runName";
/// Experiments in one search.
const EXPERIMENTS_MAX: usize = 1_000;
const STATUSES: [&str; 5] = ["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ById {
    pub run_id: Option<String>,
    pub run_uuid: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Create {
    experiment_id: Option<Text>,
    user_id: Option<String>,
    run_name: Option<String>,
    start_time: Option<Int>,
    tags: Option<Vec<Pair>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Update {
    run_id: Option<String>,
    run_uuid: Option<String>,
    status: Option<Text>,
    end_time: Option<Int>,
    run_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Search {
    experiment_ids: Option<Vec<Text>>,
    filter: Option<String>,
    run_view_type: Option<Text>,
    max_results: Option<Int>,
    order_by: Option<Vec<String>>,
    page_token: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct One {
    pub run: Run,
}

#[derive(Debug, Serialize)]
pub struct Updated {
    run_info: RunInfo,
}

#[derive(Debug, Serialize)]
pub struct Page {
    runs: Vec<Run>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

/// A run's row, as far as deciding needs it.
#[derive(Debug, Clone)]
pub struct Found {
    pub number: i64,
    pub experiment: i64,
    pub deleted: bool,
    pub owner: Option<String>,
}

const COLUMNS: &str = "r.number, r.id, r.name, r.experiment, r.user, r.status, r.started, r.ended, r.artifact_uri, \
    r.deleted";

pub fn stage(deleted: bool) -> &'static str {
    if deleted { "deleted" } else { "active" }
}

/// The condition for a view type, which comes as a name or a number.
pub fn view(column: &'static str, view: Option<Text>) -> Result<String, Fault> {
    match view.as_ref().map_or("ACTIVE_ONLY", |view| view.0.as_str()) {
        "ACTIVE_ONLY" | "1" => Ok(format!("{column} = 0")),
        "DELETED_ONLY" | "2" => Ok(format!("{column} = 1")),
        "ALL" | "3" => Ok("1 = 1".to_owned()),
        other => {
            Err(Fault::invalid(format!("Invalid view type '{other}'. Valid values are ACTIVE_ONLY, DELETED_ONLY, ALL")))
        }
    }
}

fn status(status: Text) -> Result<&'static str, Fault> {
    let by_number = status.0.parse::<usize>().ok().and_then(|number| STATUSES.get(number.checked_sub(1)?));
    by_number.or_else(|| STATUSES.iter().find(|known| **known == status.0)).copied().ok_or_else(|| {
        Fault::invalid(format!("Invalid run status '{}'. Valid values are {}", status.0, STATUSES.join(", ")))
    })
}

pub fn no_run(id: &str) -> Fault {
    Fault::missing(format!("Run with id={id} not found"))
}

impl ById {
    pub fn id(self) -> Result<String, Fault> {
        either(self.run_id, self.run_uuid)
    }
}

/// Old clients say `run_uuid`.
pub fn either(run_id: Option<String>, run_uuid: Option<String>) -> Result<String, Fault> {
    filled(run_id.filter(|id| !id.is_empty()).or(run_uuid), "run_id")
}

async fn find(connection: &mut SqliteConnection, id: &str) -> Result<Option<Found>, Fault> {
    const FIND: &str = "SELECT number, experiment, deleted, owner FROM runs WHERE id = ?";
    let row = sqlx::query(FIND).bind(id.to_owned()).fetch_optional(connection).await?;
    row.map(|row| {
        Ok(Found {
            number: row.try_get(0)?,
            experiment: row.try_get(1)?,
            deleted: row.try_get(2)?,
            owner: row.try_get(3)?,
        })
    })
    .transpose()
}

/// The run, for one who may change it; a workload's own is made where it is not there yet.
pub async fn for_change(connection: &mut SqliteConnection, access: &Access, id: &str) -> Result<Found, Fault> {
    if let Some(own) = &access.run
        && own.run_id == id
    {
        ensure_own(connection, access).await?;
    }
    let found = find(connection, id).await?.ok_or_else(|| no_run(id))?;
    if let Some(own) = &access.run
        && found.owner.as_ref() != Some(&own.workload)
    {
        let why = format!("The token of {} may change its own runs only, and {id} is not one of them", own.workload);
        return Err(Fault::denied(why));
    }
    Ok(found)
}

pub async fn active_for_change(connection: &mut SqliteConnection, access: &Access, id: &str) -> Result<Found, Fault> {
    let found = for_change(connection, access, id).await?;
    match found.deleted {
        true => Err(Fault::invalid(format!("The run {id} must be in the 'active' state. Current state is deleted."))),
        false => Ok(found),
    }
}

/// Makes the run of a workload, under its project's experiment.
async fn ensure_own(connection: &mut SqliteConnection, access: &Access) -> Result<(), Fault> {
    let Some(own) = &access.run else { return Ok(()) };
    let id = own.run_id.clone();
    if find(connection, &id).await?.is_some() {
        return Ok(());
    }
    let experiment = experiments::named(connection, &own.project).await?;
    let tags = [
        ("mlflow.user".to_owned(), access.who.clone()),
        ("mlflow.source.name".to_owned(), own.workload.clone()),
        ("mlflow.source.type".to_owned(), "PROJECT".to_owned()),
        ("tombolo.workload".to_owned(), own.workload.clone()),
        ("tombolo.site".to_owned(), own.site.clone()),
    ];
    let new = New { id, experiment, name: own.stage.clone(), user: access.who.clone(), started: now() };
    insert(connection, new, Some(own.workload.clone()), tags.into()).await
}

/// A workload that asks for an experiment wants its own run there, whatever its project is called: `set_experiment` comes
/// before `start_run`, and the client refuses a run that is elsewhere. Once the run has begun it stays where it is.
pub async fn move_own(connection: &mut SqliteConnection, access: &Access, experiment: i64) -> Result<(), Fault> {
    let Some(own) = &access.run else { return Ok(()) };
    ensure_own(connection, access).await?;
    sqlx::query("UPDATE runs SET experiment = ? WHERE id = ? AND begun = 0")
        .bind(experiment)
        .bind(own.run_id.clone())
        .execute(connection)
        .await?;
    Ok(())
}

/// Refuses a workload what is not in the experiment of one of its runs.
pub async fn within_own(connection: &mut SqliteConnection, access: &Access, experiment: i64) -> Result<(), Fault> {
    let Some(own) = &access.run else { return Ok(()) };
    ensure_own(connection, access).await?;
    let found = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM runs WHERE owner = ? AND experiment = ?");
    match found.bind(own.workload.clone()).bind(experiment).fetch_one(connection).await? {
        0 => Err(Fault::denied(format!(
            "The token of {} may change only the experiments that its runs are in, and {experiment} is none of them",
            own.workload
        ))),
        _ => Ok(()),
    }
}

struct New {
    id: String,
    experiment: i64,
    name: String,
    user: String,
    started: i64,
}

async fn insert(
    connection: &mut SqliteConnection,
    new: New,
    owner: Option<String>,
    tags: Vec<(String, String)>,
) -> Result<(), Fault> {
    const INSERT: &str = "INSERT INTO runs (id, experiment, name, user, status, started, artifact_uri, owner) \
        SELECT ?1, e.id, ?3, ?4, 'RUNNING', ?5, e.artifact_location || '/' || ?1 || '/artifacts', ?6 \
        FROM experiments e WHERE e.id = ?2 RETURNING number";
    let New { id, experiment, name, user, started } = new;
    let number = sqlx::query_scalar::<_, i64>(INSERT)
        .bind(id)
        .bind(experiment)
        .bind(name.clone())
        .bind(user)
        .bind(started)
        .bind(owner)
        .fetch_one(&mut *connection)
        .await?;
    log::set_tag(connection, number, (NAME_TAG.to_owned(), name)).await?;
    for tag in tags.into_iter().filter(|(key, _)| key != NAME_TAG) {
        log::set_tag(connection, number, tag).await?;
    }
    Ok(())
}

pub async fn rename(connection: &mut SqliteConnection, number: i64, name: String) -> Result<(), Fault> {
    sqlx::query("UPDATE runs SET name = ? WHERE number = ?")
        .bind(name.clone())
        .bind(number)
        .execute(&mut *connection)
        .await?;
    log::set_tag(connection, number, (NAME_TAG.to_owned(), name)).await
}

fn info(row: &SqliteRow) -> Result<RunInfo, sqlx::Error> {
    let id: String = row.try_get(1)?;
    Ok(RunInfo {
        run_uuid: id.clone(),
        run_id: id,
        run_name: row.try_get(2)?,
        experiment_id: row.try_get::<i64, _>(3)?.to_string(),
        user_id: row.try_get(4)?,
        status: row.try_get(5)?,
        start_time: row.try_get(6)?,
        end_time: row.try_get(7)?,
        artifact_uri: row.try_get(8)?,
        lifecycle_stage: stage(row.try_get(9)?),
    })
}

impl Tracking {
    pub(crate) async fn create_run(self, access: Access, asked: Create) -> Result<One, Fault> {
        let experiment = match asked.experiment_id.filter(|id| !id.0.is_empty()) {
            Some(id) => experiments::id(Some(id))?,
            None => 0,
        };
        let tags = limits::tags(asked.tags.unwrap_or_default())?;
        let tagged = tags.iter().find(|(key, _)| key == NAME_TAG).map(|(_, name)| name.clone());
        let given = asked.run_name.filter(|name| !name.is_empty());
        if let (Some(given), Some(tagged)) = (&given, &tagged)
            && given != tagged
        {
            return Err(Fault::invalid(format!(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values \
                 (run_name='{given}', mlflow.runName='{tagged}')."
            )));
        }
        let name = match given.or(tagged) {
            Some(name) => name,
            None => ids::run_name()?,
        };
        let id = ids::random()?;
        let started = asked.start_time.map_or_else(now, |at| at.0);
        let user = asked.user_id.unwrap_or_default();
        let new = New { id: id.clone(), experiment, name, user, started };
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                experiments::active(connection, experiment).await?;
                let owner = access.run.as_ref().map(|own| own.workload.clone());
                insert(connection, new, owner, tags).await
            })
        });
        change.await?;
        self.run(&id).await?.ok_or_else(|| no_run(&id))
    }

    pub(crate) async fn get_run(self, access: Access, asked: ById) -> Result<One, Fault> {
        let id = asked.id()?;
        if let Some(found) = self.run(&id).await? {
            return Ok(found);
        }
        if access.run.as_ref().is_some_and(|own| own.run_id == id) {
            let change = self
                .db
                .change(access.own(), move |connection| Box::pin(async move { ensure_own(connection, &access).await }));
            change.await?;
        }
        self.run(&id).await?.ok_or_else(|| no_run(&id))
    }

    async fn run(&self, id: &str) -> Result<Option<One>, Fault> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(COLUMNS).push(" FROM runs r WHERE r.id = ").push_bind(id.to_owned());
        let rows = sql.build().fetch_all(self.db.readers()).await?;
        Ok(self.whole(&rows).await?.pop().map(|run| One { run }))
    }

    /// The runs of these rows with all that belongs to them, in their order.
    async fn whole(&self, rows: &[SqliteRow]) -> Result<Vec<Run>, Fault> {
        let mut runs = Vec::with_capacity(rows.len());
        let mut places = HashMap::new();
        for row in rows {
            places.insert(row.try_get::<i64, _>(0)?, runs.len());
            let (data, inputs, outputs) = (RunData::default(), RunInputs::default(), RunOutputs::default());
            runs.push(Run { info: info(row)?, data, inputs, outputs });
        }
        let numbers: Vec<i64> = places.keys().copied().collect();
        // SQLite binds at most 32,766 values.
        for part in numbers.chunks(10_000) {
            let metrics = self.rows("SELECT run, key, value, nan, at, step FROM latest_metrics WHERE run IN (", part);
            for row in metrics.await? {
                let Some(place) = places.get(&row.try_get(0)?) else { continue };
                runs[*place].data.metrics.push(metric(&row)?);
            }
            for (table, tags) in [
                ("SELECT run, key, value FROM params WHERE run IN (", false),
                ("SELECT run, key, value FROM tags WHERE run IN (", true),
            ] {
                for row in self.rows(table, part).await? {
                    let Some(place) = places.get(&row.try_get(0)?) else { continue };
                    let pair = Pair { key: row.try_get(1)?, value: Text(row.try_get(2)?) };
                    let data = &mut runs[*place].data;
                    if tags { data.tags.push(pair) } else { data.params.push(pair) }
                }
            }
            inputs::add(self, part, &places, &mut runs).await?;
        }
        Ok(runs)
    }

    /// Rows of the runs with these numbers; `head` ends before the list.
    pub(crate) async fn update_run(self, access: Access, asked: Update) -> Result<Updated, Fault> {
        let id = either(asked.run_id, asked.run_uuid)?;
        let status = asked.status.filter(|status| !status.0.is_empty()).map(status).transpose()?;
        let name = asked.run_name.filter(|name| !name.is_empty());
        let ended = asked.end_time.map(|at| at.0);
        let changed = id.clone();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                const SET: &str = "UPDATE runs SET status = coalesce(?1, status), ended = coalesce(?2, ended), \
                    begun = begun OR (?1 IS NOT NULL AND ?4) WHERE number = ?3";
                let by_its_own = access.run.is_some();
                let found = active_for_change(connection, &access, &changed).await?;
                sqlx::query(SET)
                    .bind(status)
                    .bind(ended)
                    .bind(found.number)
                    .bind(by_its_own)
                    .execute(&mut *connection)
                    .await?;
                match name {
                    Some(name) => rename(connection, found.number, name).await,
                    None => Ok(()),
                }
            })
        });
        change.await?;
        let run = self.run(&id).await?.ok_or_else(|| no_run(&id))?;
        Ok(Updated { run_info: run.run.info })
    }

    pub(crate) async fn delete_run(self, access: Access, asked: ById) -> Result<Done, Fault> {
        self.mark_run(access, asked, true).await
    }

    pub(crate) async fn restore_run(self, access: Access, asked: ById) -> Result<Done, Fault> {
        self.mark_run(access, asked, false).await
    }

    async fn mark_run(self, access: Access, asked: ById, deleted: bool) -> Result<Done, Fault> {
        let id = asked.id()?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let found = for_change(connection, &access, &id).await?;
                if !deleted {
                    experiments::active(connection, found.experiment).await?;
                }
                sqlx::query("UPDATE runs SET deleted = ? WHERE number = ?")
                    .bind(deleted)
                    .bind(found.number)
                    .execute(connection)
                    .await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn search_runs(self, _: Access, asked: Search) -> Result<Page, Fault> {
        let limit = asked.max_results.map_or(1_000, |max| max.0);
        if !(1..=limits::PAGE_MAX).contains(&limit) {
            return Err(Fault::invalid(format!(
                "Invalid value {limit} for parameter 'max_results' supplied: it must be from 1 to {}",
                limits::PAGE_MAX
            )));
        }
        let offset = ids::page_offset(asked.page_token.as_deref())?;
        let clauses = filter::parse(asked.filter.as_deref().unwrap_or_default())?;
        let orders = filter::parse_order(&asked.order_by.unwrap_or_default())?;
        let ids = asked.experiment_ids.unwrap_or_default();
        if ids.len() > EXPERIMENTS_MAX {
            return Err(Fault::invalid(format!("At most {EXPERIMENTS_MAX} experiments are searched at once")));
        }
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(COLUMNS).push(" FROM runs r WHERE ").push(view("r.deleted", asked.run_view_type)?);
        sql.push(" AND r.experiment IN (");
        let mut list = sql.separated(", ");
        for id in ids {
            list.push_bind(experiments::id(Some(id))?);
        }
        sql.push(")");
        search::push_clauses(&mut sql, Subject::Runs, &clauses)?;
        search::push_order(&mut sql, Subject::Runs, &orders, "r.started DESC, r.id")?;
        sql.push(" LIMIT ").push_bind(limit + 1).push(" OFFSET ").push_bind(offset);
        let mut rows = sql.build().fetch_all(self.db.readers()).await?;
        let found = rows.len();
        rows.truncate(limit as usize);
        rows.truncate(self.fitting(&rows, weight::RUNS).await?);
        let next_page_token = (found > rows.len()).then(|| ids::page_token(offset + rows.len() as i64));
        Ok(Page { runs: self.whole(&rows).await?, next_page_token })
    }
}

/// From a row of run, key, value, nan, at, step.
pub fn metric(row: &SqliteRow) -> Result<Metric, sqlx::Error> {
    let nan: bool = row.try_get(3)?;
    let value = if nan { f64::NAN } else { row.try_get(2)? };
    Ok(Metric {
        key: Some(row.try_get(1)?),
        value: Some(Double(value)),
        timestamp: Some(Int(row.try_get(4)?)),
        step: Some(Int(row.try_get(5)?)),
        model_id: None,
        dataset_name: None,
        dataset_digest: None,
        run_id: None,
    })
}
