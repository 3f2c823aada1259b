//! Who has the artifacts of a run or a model, for whoever brings them from there.

use sqlx::Row;

use crate::{Fault, Tracking};

/// What artifacts belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    Run(String),
    Model(String),
}

/// By which it is found where a root's artifacts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The workload that made it, `project-7/train`: they are where that has been.
    pub owner: Option<String>,
    /// The site at which people have put some.
    pub home: Option<String>,
}

impl Root {
    fn id(&self) -> &str {
        match self {
            Root::Run(id) | Root::Model(id) => id,
        }
    }
}

impl Tracking {
    pub async fn holder(&self, root: &Root) -> Result<Holder, Fault> {
        const RUN: &str =
            "SELECT owner, (SELECT site FROM artifact_homes WHERE root = r.id) FROM runs r WHERE r.id = ?";
        const MODEL: &str =
            "SELECT owner, (SELECT site FROM artifact_homes WHERE root = m.id) FROM models m WHERE m.id = ?";
        let (sql, what) = match root {
            Root::Run(_) => (RUN, "Run"),
            Root::Model(_) => (MODEL, "Logged model"),
        };
        let found = sqlx::query(sql).bind(root.id().to_owned()).fetch_optional(self.db.readers()).await?;
        let row = found.ok_or_else(|| Fault::missing(format!("{what} with ID '{}' not found.", root.id())))?;
        Ok(Holder { owner: row.try_get(0)?, home: row.try_get(1)? })
    }

    /// Settles where people's artifacts of a root are kept, if that isn't settled. Returns where they are.
    pub async fn settle_home(&self, root: &Root, site: &str) -> Result<String, Fault> {
        let (root, site) = (root.id().to_owned(), site.to_owned());
        let change = self.db.change(None, move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO artifact_homes (root, site) VALUES (?, ?) ON CONFLICT DO NOTHING")
                    .bind(root.clone())
                    .bind(site)
                    .execute(&mut *connection)
                    .await?;
                let settled = sqlx::query_scalar("SELECT site FROM artifact_homes WHERE root = ?").bind(root);
                Ok(settled.fetch_one(connection).await?)
            })
        });
        change.await
    }
}
