//! Where a version's bytes are said to be: what is taken as a source, and what it comes to.

use sqlx::{Row, SqliteConnection};

use super::{no_model, no_version};
use crate::fault::Fault;
use crate::{Access, runs};

/// What a version is registered with.
#[derive(Debug, Clone)]
pub struct Said {
    pub source: String,
    pub run: Option<String>,
    pub logged_model: Option<String>,
}

/// What it comes to.
pub struct Origin {
    pub source: String,
    pub storage: String,
    pub run: String,
    pub logged_model: String,
}

fn invalid(source: &str, why: &str) -> Fault {
    Fault::invalid(format!("Invalid model version source: '{source}'. {why}"))
}

fn not_in(source: &str, parameter: &str) -> Fault {
    invalid(source, &format!("The {parameter} request parameter must identify the resource that contains the source."))
}

/// Also where it is said in percents, however often.
fn leads_elsewhere(source: &str) -> bool {
    let mut text = source.to_owned();
    for _ in 0..8 {
        let plain = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
        if plain == text {
            return text.contains('\0') || text.split(['/', '\\']).any(|part| part == "..");
        }
        text = plain;
    }
    true
}

/// Checks a source, and that whoever registers it may speak for the run or model that it comes from.
pub async fn origin(connection: &mut SqliteConnection, access: &Access, said: Said) -> Result<Origin, Fault> {
    let Said { source, run, logged_model } = said;
    let (run, logged_model) = (run.unwrap_or_default(), logged_model.unwrap_or_default());
    let scheme = source.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    if scheme.is_empty() || scheme == "file" || scheme.len() == 1 {
        let why = "To use a local path as a model version source, the run_id request parameter has to be specified and the \
            local path has to be contained within the artifact directory of the run specified by the run_id.";
        return Err(invalid(&source, why));
    }
    if leads_elsewhere(&source) {
        let why = "If supplying a source as an http, https, local file path, ftp, objectstore, or mlflow-artifacts uri, an \
            absolute path must be provided without relative path references present. Please provide an absolute path.";
        return Err(invalid(&source, why));
    }
    let mut origin = Origin { storage: source.clone(), source, run, logged_model };
    match scheme.as_str() {
        "models" => from_models(connection, &mut origin).await?,
        "runs" => {
            let id = origin.source["runs:".len()..].trim_start_matches('/').split('/').next().unwrap_or_default();
            if origin.source.starts_with("runs://")
                || id.is_empty()
                || id != origin.run
                || !origin.logged_model.is_empty()
            {
                let parameter = if origin.logged_model.is_empty() { "run_id" } else { "model_id" };
                return Err(not_in(&origin.source, parameter));
            }
        }
        "mlflow-artifacts" => within(connection, &origin).await?,
        // Nobody sees to what they lead to, and some lead here.
        "http" | "https" | "ftp" | "sftp" | "hdfs" | "viewfs" => {
            return Err(invalid(&origin.source, "Addresses of this scheme can't be registered."));
        }
        _ => {}
    }
    speaks_for(connection, access, &origin).await?;
    if origin.run.is_empty() && !origin.logged_model.is_empty() {
        origin.run = logged(connection, &origin.logged_model).await?.1;
    }
    Ok(origin)
}

/// The artifacts of a logged model, and the run that it came from.
async fn logged(connection: &mut SqliteConnection, id: &str) -> Result<(String, String), Fault> {
    let row =
        sqlx::query("SELECT artifact_uri, source_run FROM models WHERE id = ? AND deleted = 0").bind(id.to_owned());
    let row = row.fetch_optional(connection).await?;
    let row = row.ok_or_else(|| Fault::missing(format!("Logged model with ID '{id}' not found.")))?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// `models:/m-...` or `models:/name/3`.
async fn from_models(connection: &mut SqliteConnection, origin: &mut Origin) -> Result<(), Fault> {
    let source = origin.source.clone();
    if source.starts_with("models://") {
        return Err(invalid(&source, "Registered model sources must use the active model registry."));
    }
    let rest = source["models:".len()..].trim_start_matches('/');
    match rest.split_once('/') {
        None if rest.starts_with("m-") => {
            if origin.logged_model != rest {
                return Err(not_in(&source, "model_id"));
            }
            let (artifacts, run) = logged(connection, rest).await?;
            origin.storage = artifacts;
            if origin.run.is_empty() {
                origin.run = run;
            }
            Ok(())
        }
        Some((name, which)) => {
            const FIND: &str =
                "SELECT v.storage, v.run, v.logged_model FROM versions v WHERE v.model = ? AND v.version = ?";
            let number =
                sqlx::query_scalar::<_, i64>("SELECT number FROM registered WHERE name = ?").bind(name.to_owned());
            let model = number.fetch_optional(&mut *connection).await?.ok_or_else(|| no_model(name))?;
            let version =
                which.parse::<i64>().map_err(|_| invalid(&source, "It must name a version by its number."))?;
            let found = sqlx::query(FIND).bind(model).bind(version).fetch_optional(connection).await?;
            let found = found.ok_or_else(|| no_version(name, version))?;
            let (run, logged_model): (String, String) = (found.try_get(1)?, found.try_get(2)?);
            let same = |said: &str, is: &str| said.is_empty() || said == is;
            if !same(&origin.run, &run) || !same(&origin.logged_model, &logged_model) {
                let why = "The run_id and model_id request parameters must match the referenced model version.";
                return Err(invalid(&source, why));
            }
            origin.storage = found.try_get(0)?;
            (origin.run, origin.logged_model) = (run, logged_model);
            Ok(())
        }
        None => Err(invalid(&source, "It must be models:/<model id> or models:/<name>/<version>.")),
    }
}

/// That artifacts kept here are those of the run or model that is named.
async fn within(connection: &mut SqliteConnection, origin: &Origin) -> Result<(), Fault> {
    let inside = |root: &str| {
        let rest = origin.source.strip_prefix(root);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !origin.logged_model.is_empty() {
        let (root, _) = logged(connection, &origin.logged_model).await?;
        return if inside(&root) { Ok(()) } else { Err(not_in(&origin.source, "model_id")) };
    }
    let root = sqlx::query_scalar::<_, String>("SELECT artifact_uri FROM runs WHERE id = ?").bind(origin.run.clone());
    match root.fetch_optional(connection).await? {
        Some(root) if inside(&root) => Ok(()),
        _ => Err(not_in(&origin.source, "run_id")),
    }
}

/// Refuses a workload what comes from a run or a model that isn't its own. What is registered already may be anybody's.
async fn speaks_for(connection: &mut SqliteConnection, access: &Access, origin: &Origin) -> Result<(), Fault> {
    let Some(own) = &access.run else { return Ok(()) };
    if origin.source.starts_with("models:") && origin.logged_model.is_empty() {
        return Ok(());
    }
    if !origin.logged_model.is_empty() {
        let owner = sqlx::query_scalar::<_, Option<String>>("SELECT owner FROM models WHERE id = ?");
        let owner = owner.bind(origin.logged_model.clone()).fetch_optional(connection).await?.flatten();
        return match owner.as_ref() == Some(&own.workload) {
            true => Ok(()),
            false => Err(Fault::denied(format!(
                "The token of {} may register its own models only, and {} is none of them",
                own.workload, origin.logged_model
            ))),
        };
    }
    if !origin.run.is_empty() {
        runs::for_change(connection, access, &origin.run).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_seen_however_they_are_written() {
        for bad in [
            "mlflow-artifacts:/0/../x",
            "s3://b/../m",
            "http://h/a/%2e%2e/b",
            "http://h/a/%252e%252e/b",
            "x:/..%2f..%2f",
            "x:/a%00",
            "x:\\..\\y",
        ] {
            assert!(leads_elsewhere(bad), "{bad}");
        }
        for good in ["mlflow-artifacts:/0/r/artifacts/m", "s3://b/a..b/c...", "runs:/1/100%"] {
            assert!(!leads_elsewhere(good), "{good}");
        }
    }
}
