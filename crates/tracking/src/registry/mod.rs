//! The model registry: names under which versions of models are found, and the aliases and stages by which one is meant.
//!
//! A version is what it was registered as: its source, its run and its number never change, and no number is given twice.

pub mod models;
pub mod search;
mod source;
pub mod versions;
mod wire;

use sqlx::{Row, SqliteConnection};

use crate::fault::Fault;
use crate::limits::{self, KEY_MAX, entity_key, is_plain_path, required};
use crate::wire::Pair;
use crate::{Access, Own};

/// In characters.
const NAME_MAX: usize = 256;
const ALIAS_MAX: usize = 255;
const TAG_VALUE_MAX: usize = 100_000;
const DESCRIPTION_MAX: usize = 100_000;

const STAGES: [&str; 4] = ["None", "Staging", "Production", "Archived"];
/// Those whose older versions can be archived by a newer one's coming.
const ACTIVE_STAGES: [&str; 2] = ["Staging", "Production"];

/// What a name must be, whichever it is of a request's parameters.
fn name(given: Option<String>, parameter: &str) -> Result<String, Fault> {
    let name = limits::filled(given, parameter)?;
    if name.trim().is_empty() {
        return Err(Fault::invalid(format!("Missing value for required parameter '{parameter}'.")));
    }
    if name.contains(['/', ':']) {
        return Err(Fault::invalid(format!("Invalid model name '{name}'. Names cannot contain '/' or ':'.")));
    }
    if !is_plain_path(&name) {
        return Err(Fault::invalid(format!(
            "Invalid value {name:?} for parameter '{parameter}' supplied: Names may be treated as files in certain cases, \
             and must not resolve to other names when treated as such."
        )));
    }
    limits::at_most(parameter, &name, NAME_MAX)?;
    Ok(name)
}

fn version(given: Option<crate::wire::Text>) -> Result<i64, Fault> {
    let text = limits::filled(given.map(|text| text.0), "version")?;
    let number = text.parse::<i64>();
    number.map_err(|_| Fault::invalid(format!("Parameter 'version' must be an integer, got '{text}'.")))
}

fn stage(given: &str) -> Result<&'static str, Fault> {
    STAGES.into_iter().find(|stage| stage.eq_ignore_ascii_case(given)).ok_or_else(|| {
        Fault::invalid(format!("Invalid Model Version stage: {given}. Value must be one of {}.", STAGES.join(", ")))
    })
}

/// The last of what is said twice counts.
fn tags(pairs: Vec<Pair>) -> Result<Vec<(String, String)>, Fault> {
    pairs.into_iter().map(|pair| tag(pair.key, Some(pair.value.0))).collect()
}

fn tag(key: String, value: Option<String>) -> Result<(String, String), Fault> {
    limits::at_most("key", &key, KEY_MAX)?;
    let key = entity_key(key, "key")?;
    let value = value.unwrap_or_default();
    limits::at_most("value", &value, TAG_VALUE_MAX)?;
    Ok((key, value))
}

fn description(given: Option<String>) -> Result<Option<String>, Fault> {
    if let Some(text) = &given {
        limits::at_most("description", text, DESCRIPTION_MAX)?;
    }
    Ok(given)
}

/// A registered model, for one who is to change it.
struct Found {
    number: i64,
    project: Option<String>,
}

fn no_model(name: &str) -> Fault {
    Fault::missing(format!("Registered Model with name={name} not found"))
}

fn no_version(name: &str, version: i64) -> Fault {
    Fault::missing(format!("Model Version (name={name}, version={version}) not found"))
}

async fn find(connection: &mut SqliteConnection, name: &str) -> Result<Found, Fault> {
    let row = sqlx::query("SELECT number, project FROM registered WHERE name = ?").bind(name.to_owned());
    let row = row.fetch_optional(connection).await?.ok_or_else(|| no_model(name))?;
    Ok(Found { number: row.try_get(0)?, project: row.try_get(1)? })
}

/// The numbers of a version and of its model, for one who may change it: people, and the workload that registered it.
async fn find_version(
    connection: &mut SqliteConnection,
    access: &Access,
    name: &str,
    version: i64,
) -> Result<(i64, i64), Fault> {
    const FIND: &str = "SELECT v.number, v.model, v.owner FROM versions v JOIN registered m ON m.number = v.model \
        WHERE m.name = ? AND v.version = ?";
    let row = sqlx::query(FIND).bind(name.to_owned()).bind(version).fetch_optional(connection).await?;
    let row = row.ok_or_else(|| no_version(name, version))?;
    let owner: Option<String> = row.try_get(2)?;
    match &access.run {
        Some(own) if owner.as_ref() != Some(&own.workload) => Err(Fault::denied(format!(
            "The token of {} may change the model versions that it has registered only, and version {version} of {name} is \
             none of them",
            own.workload
        ))),
        _ => Ok((row.try_get(0)?, row.try_get(1)?)),
    }
}

/// Refuses a workload what another project has made.
fn within_project(own: Option<&Own>, found: &Found, name: &str) -> Result<(), Fault> {
    match (own, &found.project) {
        (Some(own), Some(project)) if *project != own.project => Err(Fault::denied(format!(
            "The registered model {name} is the project {project}'s; the token of {} may not change it",
            own.workload
        ))),
        _ => Ok(()),
    }
}

/// Refuses a workload to take something from a version that a person or another project has registered.
fn of_project(own: &Own, owner: Option<&str>, what: &str) -> Result<(), Fault> {
    let project = owner.and_then(|owner| owner.split_once('/')?.0.rsplit_once('-')).map(|(project, _)| project);
    match project == Some(own.project.as_str()) {
        true => Ok(()),
        false => Err(Fault::denied(format!(
            "The token of {} may not take {what}: that version was registered by {}",
            own.workload,
            owner.unwrap_or("a person")
        ))),
    }
}

async fn touch(connection: &mut SqliteConnection, model: i64, now: i64) -> Result<(), Fault> {
    let set = sqlx::query("UPDATE registered SET updated = ? WHERE number = ?").bind(now).bind(model);
    set.execute(connection).await?;
    Ok(())
}

fn alias(given: Option<String>) -> Result<String, Fault> {
    let alias = limits::filled(given, "alias")?;
    if !alias.chars().all(|char| char.is_alphanumeric() || matches!(char, '_' | '-')) {
        return Err(Fault::invalid(format!(
            "Invalid alias name: '{alias}'. Names may only contain alphanumerics, underscores (_), and dashes (-)."
        )));
    }
    limits::at_most("Registered model alias name", &alias, ALIAS_MAX)?;
    Ok(alias)
}

/// A name that could be taken for a version's own.
fn not_reserved(alias: &str) -> Result<(), Fault> {
    if alias.eq_ignore_ascii_case("latest") {
        return Err(Fault::invalid("'latest' alias name (case insensitive) is reserved."));
    }
    let number = alias.strip_prefix(['v', 'V']).filter(|rest| !rest.is_empty());
    if number.is_some_and(|rest| rest.chars().all(|char| char.is_ascii_digit())) {
        return Err(Fault::invalid(format!("Version alias name '{alias}' is reserved.")));
    }
    Ok(())
}

fn key(given: Option<String>) -> Result<String, Fault> {
    required(given.filter(|key| !key.is_empty()), "key")
}
