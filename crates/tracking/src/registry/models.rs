//! Registered models: made, described, renamed, taken away, and their tags and aliases.

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Row, SqliteConnection};

use super::wire::{MODEL_COLUMNS, Model, Version, With};
use super::{
    alias, description, find, find_version, key, name, no_model, not_reserved, of_project, stage, tag, tags,
    within_project,
};
use crate::experiments::Done;
use crate::fault::{Code, Fault};
use crate::wire::{Pair, Text};
use crate::{Access, Tracking, now};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Create {
    name: Option<String>,
    description: Option<String>,
    tags: Option<Vec<Pair>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ByName {
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rename {
    name: Option<String>,
    new_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Describe {
    name: Option<String>,
    description: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SetTag {
    name: Option<String>,
    key: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Latest {
    name: Option<String>,
    stages: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SetAlias {
    name: Option<String>,
    alias: Option<String>,
    version: Option<Text>,
}

#[derive(Debug, Serialize)]
pub struct One {
    registered_model: Model,
}

#[derive(Debug, Serialize)]
pub struct OneVersion {
    pub model_version: Version,
}

#[derive(Debug, Serialize)]
pub struct Versions {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    model_versions: Vec<Version>,
}

fn exists(name: &str) -> Fault {
    Fault::exists(format!("Registered Model (name={name}) already exists."))
}

async fn is_there(connection: &mut SqliteConnection, name: &str) -> Result<bool, Fault> {
    let found = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM registered WHERE name = ?").bind(name.to_owned());
    Ok(found.fetch_one(connection).await? > 0)
}

async fn put_tag(connection: &mut SqliteConnection, model: i64, key: String, value: String) -> Result<(), Fault> {
    const SET: &str = "INSERT INTO registered_tags (model, key, value) VALUES (?, ?, ?) \
        ON CONFLICT (model, key) DO UPDATE SET value = excluded.value";
    sqlx::query(SET).bind(model).bind(key).bind(value).execute(connection).await?;
    Ok(())
}

impl Tracking {
    pub(crate) async fn create_registered(self, access: Access, asked: Create) -> Result<One, Fault> {
        const INSERT: &str = "INSERT INTO registered (name, created, updated, description, project) \
            VALUES (?1, ?2, ?2, ?3, ?4) RETURNING number";
        let name = name(asked.name, "name")?;
        let tags = tags(asked.tags.unwrap_or_default())?;
        let description = description(asked.description)?.filter(|text| !text.is_empty());
        let made = name.clone();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                if is_there(connection, &made).await? {
                    return Err(exists(&made));
                }
                let number = sqlx::query_scalar::<_, i64>(INSERT)
                    .bind(made)
                    .bind(now())
                    .bind(description)
                    .bind(access.run.map(|own| own.project))
                    .fetch_one(&mut *connection)
                    .await?;
                for (key, value) in tags {
                    put_tag(connection, number, key, value).await?;
                }
                Ok(())
            })
        });
        change.await?;
        self.registered(&name).await
    }

    pub(crate) async fn get_registered(self, _: Access, asked: ByName) -> Result<One, Fault> {
        self.registered(&name(asked.name, "name")?).await
    }

    async fn registered(&self, name: &str) -> Result<One, Fault> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(MODEL_COLUMNS).push(" FROM registered m WHERE m.name = ").push_bind(name.to_owned());
        let rows = sql.build().fetch_all(self.db.readers()).await?;
        let model = self.whole_registered(&rows).await?.pop().ok_or_else(|| no_model(name))?;
        Ok(One { registered_model: model })
    }

    pub(crate) async fn rename_registered(self, access: Access, asked: Rename) -> Result<One, Fault> {
        access.people_only("rename registered models")?;
        let (old, new) = (name(asked.name, "name")?, name(asked.new_name, "new_name")?);
        let to = new.clone();
        let change = self.db.change(None, move |connection| {
            Box::pin(async move {
                let found = find(connection, &old).await?;
                if to != old && is_there(connection, &to).await? {
                    return Err(exists(&to));
                }
                let at = now();
                sqlx::query("UPDATE registered SET name = ?, updated = ? WHERE number = ?")
                    .bind(to)
                    .bind(at)
                    .bind(found.number)
                    .execute(&mut *connection)
                    .await?;
                let versions =
                    sqlx::query("UPDATE versions SET updated = ? WHERE model = ?").bind(at).bind(found.number);
                versions.execute(connection).await?;
                Ok(())
            })
        });
        change.await?;
        self.registered(&new).await
    }

    pub(crate) async fn describe_registered(self, access: Access, asked: Describe) -> Result<One, Fault> {
        let name = name(asked.name, "name")?;
        let description = description(asked.description)?.filter(|text| !text.is_empty());
        let changed = name.clone();
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let found = find(connection, &changed).await?;
                within_project(access.run.as_ref(), &found, &changed)?;
                sqlx::query("UPDATE registered SET description = ?, updated = ? WHERE number = ?")
                    .bind(description)
                    .bind(now())
                    .bind(found.number)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        });
        change.await?;
        self.registered(&name).await
    }

    pub(crate) async fn delete_registered(self, access: Access, asked: ByName) -> Result<Done, Fault> {
        const DELETE: [&str; 5] = [
            "DELETE FROM version_tags WHERE version IN (SELECT number FROM versions WHERE model = ?)",
            "DELETE FROM versions WHERE model = ?",
            "DELETE FROM registered_aliases WHERE model = ?",
            "DELETE FROM registered_tags WHERE model = ?",
            "DELETE FROM registered WHERE number = ?",
        ];
        access.people_only("delete registered models")?;
        let name = name(asked.name, "name")?;
        let change = self.db.change(None, move |connection| {
            Box::pin(async move {
                let found = find(connection, &name).await?;
                for sql in DELETE {
                    sqlx::query(sql).bind(found.number).execute(&mut *connection).await?;
                }
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn latest_versions(self, _: Access, asked: Latest) -> Result<Versions, Fault> {
        let name = name(asked.name, "name")?;
        let stages = asked.stages.unwrap_or_default();
        let stages = stages.iter().map(|text| stage(text)).collect::<Result<Vec<_>, _>>()?;
        let number = sqlx::query_scalar::<_, i64>("SELECT number FROM registered WHERE name = ?").bind(name.clone());
        let number = number.fetch_optional(self.db.readers()).await?.ok_or_else(|| no_model(&name))?;
        let rows = self.newest_of_stages(&[number]).await?;
        let mut versions = self.whole_versions(&rows, With::TagsAndAliases).await?;
        versions.retain(|version| stages.is_empty() || stages.contains(&version.current_stage.as_str()));
        Ok(Versions { model_versions: versions })
    }

    pub(crate) async fn set_registered_tag(self, access: Access, asked: SetTag) -> Result<Done, Fault> {
        let name = name(asked.name, "name")?;
        let (key, value) = tag(key(asked.key)?, asked.value)?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let found = find(connection, &name).await?;
                within_project(access.run.as_ref(), &found, &name)?;
                put_tag(connection, found.number, key, value).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn delete_registered_tag(self, access: Access, asked: SetTag) -> Result<Done, Fault> {
        let (name, key) = (name(asked.name, "name")?, key(asked.key)?);
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let found = find(connection, &name).await?;
                within_project(access.run.as_ref(), &found, &name)?;
                let gone = sqlx::query("DELETE FROM registered_tags WHERE model = ? AND key = ?");
                gone.bind(found.number).bind(key).execute(connection).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn set_alias(self, access: Access, asked: SetAlias) -> Result<Done, Fault> {
        const SET: &str = "INSERT INTO registered_aliases (model, alias, version) VALUES (?, ?, ?) \
            ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version";
        const MEANT: &str = "SELECT v.owner FROM registered_aliases a JOIN versions v ON v.model = a.model AND v.version = a.version \
            WHERE a.model = ? AND a.alias = ?";
        let name = name(asked.name, "name")?;
        let alias = alias(asked.alias)?;
        not_reserved(&alias)?;
        let version = super::version(asked.version)?;
        let change = self.db.change(access.own(), move |connection| {
            Box::pin(async move {
                let (_, model) = find_version(connection, &access, &name, version).await?;
                let found = find(connection, &name).await?;
                within_project(access.run.as_ref(), &found, &name)?;
                if let Some(own) = &access.run {
                    let before = sqlx::query_scalar::<_, Option<String>>(MEANT).bind(model).bind(alias.clone());
                    if let Some(owner) = before.fetch_optional(&mut *connection).await? {
                        of_project(own, owner.as_deref(), &format!("the alias {alias} of {name} from where it is"))?;
                    }
                }
                sqlx::query(SET).bind(model).bind(alias).bind(version).execute(connection).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn delete_alias(self, access: Access, asked: SetAlias) -> Result<Done, Fault> {
        access.people_only("take aliases away")?;
        let (name, alias) = (name(asked.name, "name")?, alias(asked.alias)?);
        let change = self.db.change(None, move |connection| {
            Box::pin(async move {
                let found = find(connection, &name).await?;
                let gone = sqlx::query("DELETE FROM registered_aliases WHERE model = ? AND alias = ?");
                gone.bind(found.number).bind(alias).execute(connection).await?;
                Ok(Done {})
            })
        });
        change.await
    }

    pub(crate) async fn get_alias(self, _: Access, asked: SetAlias) -> Result<OneVersion, Fault> {
        const FIND: &str = "SELECT m.number, (SELECT version FROM registered_aliases WHERE model = m.number AND alias = ?) \
            FROM registered m WHERE m.name = ?";
        let (name, alias) = (name(asked.name, "name")?, alias(asked.alias)?);
        let found = sqlx::query(FIND).bind(alias.clone()).bind(name.clone()).fetch_optional(self.db.readers()).await?;
        let found = found.ok_or_else(|| no_model(&name))?;
        if alias.eq_ignore_ascii_case("latest") {
            let newest = sqlx::query_scalar::<_, Option<i64>>("SELECT max(version) FROM versions WHERE model = ?");
            let newest = newest.bind(found.try_get::<i64, _>(0)?).fetch_one(self.db.readers()).await?;
            let none = || Fault::missing(format!("Latest version not found for model {name}."));
            return self.version_of(&name, newest.ok_or_else(none)?).await;
        }
        let missing = || Fault::new(Code::InvalidParameterValue, format!("Registered model alias {alias} not found."));
        let version = found.try_get::<Option<i64>, _>(1)?.ok_or_else(missing)?;
        self.version_of(&name, version).await
    }
}
