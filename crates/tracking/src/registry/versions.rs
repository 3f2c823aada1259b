//! Model versions: registered, described, staged, taken away, and their tags.

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, SqliteConnection};

use super::models::OneVersion;
use super::source::{Said, origin};
use super::wire::{VERSION_COLUMNS, With};
use super::{
    ACTIVE_STAGES, description, find, find_version, key, name, no_version, of_project, stage, tag, tags, touch,
    version, within_project,
};
use crate::experiments::Done;
use crate::fault::Fault;
use crate::limits::filled;
use crate::wire::{Pair, Text};
use crate::{Access, Tracking, now};

/// The tag by which a logged model says what it was registered as.
const REGISTERED_AS: &str = "mlflow.modelVersions";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Create {
    name: Option<String>,
    source: Option<String>,
    run_id: Option<String>,
    tags: Option<Vec<Pair>>,
    run_link: Option<String>,
    description: Option<String>,
    model_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ByNumber {
    name: Option<String>,
    version: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Describe {
    name: Option<String>,
    version: Option<Text>,
    description: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Transition {
    name: Option<String>,
    version: Option<Text>,
    stage: Option<String>,
    archive_existing_versions: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SetTag {
    name: Option<String>,
    version: Option<Text>,
    key: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Download {
    artifact_uri: String,
}

async fn put_tag(connection: &mut SqliteConnection, version: i64, key: String, value: String) -> Result<(), Fault> {
    const SET: &str = "INSERT INTO version_tags (version, key, value) VALUES (?, ?, ?) \
        ON CONFLICT (version, key) DO UPDATE SET value = excluded.value";
    sqlx::query(SET).bind(version).bind(key).bind(value).execute(connection).await?;
    Ok(())
}

/// Writes down at a logged model what it is now.
async fn tell_logged(connection: &mut SqliteConnection, id: &str, name: &str, version: i64) -> Result<(), Fault> {
    const GET: &str =
        "SELECT t.value FROM model_tags t JOIN models m ON m.number = t.model WHERE m.id = ? AND t.key = ?";
    const SET: &str = "INSERT INTO model_tags (model, key, value) SELECT number, ?2, ?3 FROM models WHERE id = ?1 \
        ON CONFLICT (model, key) DO UPDATE SET value = excluded.value";
    let before = sqlx::query_scalar::<_, String>(GET).bind(id.to_owned()).bind(REGISTERED_AS);
    let before = before.fetch_optional(&mut *connection).await?.and_then(|text| serde_json::from_str(&text).ok());
    let mut all: Vec<serde_json::Value> = before.unwrap_or_default();
    all.push(serde_json::json!({ "name": name, "version": version }));
    // With the white space of Python's JSON.
    let all = all.iter().map(|one| format!("{{\"name\": {}, \"version\": {}}}", one["name"], one["version"]));
    let all = format!("[{}]", all.collect::<Vec<_>>().join(", "));
    sqlx::query(SET).bind(id.to_owned()).bind(REGISTERED_AS).bind(all).execute(connection).await?;
    Ok(())
}

impl Tracking {
    pub(crate) async fn create_version(self, access: Access, asked: Create) -> Result<OneVersion, Fault> {
        const NEXT: &str = "UPDATE registered SET last_version = last_version + 1, updated = ? WHERE number = ? \
            RETURNING last_version";
        const INSERT: &str = "INSERT INTO versions \
            (model, version, created, updated, description, user, source, storage, run, run_link, logged_model, owner) \
            VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) RETURNING number";
        let name = name(asked.name, "name")?;
        let source = filled(asked.source, "source")?;
        let said = Said { source, run: asked.run_id, logged_model: asked.model_id };
        let tags = tags(asked.tags.unwrap_or_default())?;
        let description = description(asked.description)?.unwrap_or_default();
        let run_link = asked.run_link.unwrap_or_default();
        let made = name.clone();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let found = find(connection, &made).await?;
                within_project(access.run.as_ref(), &found, &made)?;
                let from = origin(connection, &access, said).await?;
                let at = now();
                let next = sqlx::query_scalar::<_, i64>(NEXT).bind(at).bind(found.number);
                let version = next.fetch_one(&mut *connection).await?;
                let number = sqlx::query_scalar::<_, i64>(INSERT)
                    .bind(found.number)
                    .bind(version)
                    .bind(at)
                    .bind(description)
                    .bind(access.who)
                    .bind(from.source)
                    .bind(from.storage)
                    .bind(from.run)
                    .bind(run_link)
                    .bind(from.logged_model.clone())
                    .bind(access.run.map(|own| own.workload))
                    .fetch_one(&mut *connection)
                    .await?;
                for (key, value) in tags {
                    put_tag(connection, number, key, value).await?;
                }
                if !from.logged_model.is_empty() {
                    tell_logged(connection, &from.logged_model, &made, version).await?;
                }
                Ok(version)
            })
        });
        let version = change.await?;
        self.version_of(&name, version).await
    }

    pub(crate) async fn get_version(self, _: Access, asked: ByNumber) -> Result<OneVersion, Fault> {
        self.version_of(&name(asked.name, "name")?, version(asked.version)?).await
    }

    pub(super) async fn version_of(&self, name: &str, version: i64) -> Result<OneVersion, Fault> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(VERSION_COLUMNS).push(" FROM versions v JOIN registered m ON m.number = v.model WHERE m.name = ");
        sql.push_bind(name.to_owned()).push(" AND v.version = ").push_bind(version);
        let rows = sql.build().fetch_all(self.db.readers()).await?;
        let found = self.whole_versions(&rows, With::TagsAndAliases).await?.pop();
        Ok(OneVersion { model_version: found.ok_or_else(|| no_version(name, version))? })
    }

    pub(crate) async fn download_uri(self, _: Access, asked: ByNumber) -> Result<Download, Fault> {
        const FIND: &str = "SELECT v.storage FROM versions v JOIN registered m ON m.number = v.model \
            WHERE m.name = ? AND v.version = ?";
        let (name, version) = (name(asked.name, "name")?, version(asked.version)?);
        let found = sqlx::query_scalar(FIND).bind(name.clone()).bind(version).fetch_optional(self.db.readers()).await?;
        Ok(Download { artifact_uri: found.ok_or_else(|| no_version(&name, version))? })
    }

    pub(crate) async fn describe_version(self, access: Access, asked: Describe) -> Result<OneVersion, Fault> {
        let (name, version) = (name(asked.name, "name")?, version(asked.version)?);
        let description = description(asked.description)?;
        let changed = name.clone();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let (number, _) = find_version(connection, &access, &changed, version).await?;
                let set = sqlx::query("UPDATE versions SET description = ?, updated = ? WHERE number = ?");
                set.bind(description).bind(now()).bind(number).execute(connection).await?;
                Ok(())
            })
        });
        change.await?;
        self.version_of(&name, version).await
    }

    pub(crate) async fn transition_stage(self, access: Access, asked: Transition) -> Result<OneVersion, Fault> {
        let (name, version) = (name(asked.name, "name")?, version(asked.version)?);
        let to = stage(&filled(asked.stage.clone(), "stage")?)?;
        let archives = asked.archive_existing_versions;
        if archives && !ACTIVE_STAGES.contains(&to) {
            return Err(Fault::invalid(format!(
                "Model version transition cannot archive existing model versions because '{}' is not an Active stage. Valid \
                 stages are {ACTIVE_STAGES:?}",
                asked.stage.unwrap_or_default()
            )));
        }
        let changed = name.clone();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                const ARCHIVE: &str = "UPDATE versions SET stage = 'Archived', updated = ? \
                    WHERE model = ? AND stage = ? AND number <> ?";
                const THERE: &str = "SELECT owner FROM versions WHERE model = ? AND stage = ? AND number <> ?";
                let (number, model) = find_version(connection, &access, &changed, version).await?;
                let found = find(connection, &changed).await?;
                within_project(access.run.as_ref(), &found, &changed)?;
                let at = now();
                if let (true, Some(own)) = (archives, &access.run) {
                    let there = sqlx::query_scalar::<_, Option<String>>(THERE).bind(model).bind(to).bind(number);
                    for owner in there.fetch_all(&mut *connection).await? {
                        of_project(own, owner.as_deref(), &format!("a version of {changed} out of {to}"))?;
                    }
                }
                if archives {
                    let others = sqlx::query(ARCHIVE).bind(at).bind(model).bind(to).bind(number);
                    others.execute(&mut *connection).await?;
                }
                let set = sqlx::query("UPDATE versions SET stage = ?, updated = ? WHERE number = ?");
                set.bind(to).bind(at).bind(number).execute(&mut *connection).await?;
                touch(connection, model, at).await
            })
        });
        change.await?;
        self.version_of(&name, version).await
    }

    pub(crate) async fn delete_version(self, access: Access, asked: ByNumber) -> Result<Done, Fault> {
        access.people_only("delete model versions")?;
        let (name, version) = (name(asked.name, "name")?, version(asked.version)?);
        let change = self.db.change(None, move |connection| {
            Box::pin(async move {
                let (number, model) = find_version(connection, &access, &name, version).await?;
                for sql in ["DELETE FROM version_tags WHERE version = ?", "DELETE FROM versions WHERE number = ?"] {
                    sqlx::query(sql).bind(number).execute(&mut *connection).await?;
                }
                let aliases = sqlx::query("DELETE FROM registered_aliases WHERE model = ? AND version = ?");
                aliases.bind(model).bind(version).execute(&mut *connection).await?;
                touch(connection, model, now()).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn set_version_tag(self, access: Access, asked: SetTag) -> Result<Done, Fault> {
        let (name, version) = (name(asked.name, "name")?, version(asked.version)?);
        let (key, value) = tag(key(asked.key)?, asked.value)?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let (number, _) = find_version(connection, &access, &name, version).await?;
                put_tag(connection, number, key, value).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn delete_version_tag(self, access: Access, asked: SetTag) -> Result<Done, Fault> {
        let (name, version, key) = (name(asked.name, "name")?, version(asked.version)?, key(asked.key)?);
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let (number, _) = find_version(connection, &access, &name, version).await?;
                let gone = sqlx::query("DELETE FROM version_tags WHERE version = ? AND key = ?");
                gone.bind(number).bind(key).execute(connection).await?;
                Ok(Done {})
            })
        });
        change.await
    }
}
