//! Runs whose process ended without a word: the platform says how.

use sqlx::QueryBuilder;

use crate::Tracking;
use crate::fault::Fault;

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub workload: String,
    /// `FINISHED`, `FAILED` or `KILLED`.
    pub status: &'static str,
    pub at: i64,
}

impl Tracking {
    /// The event up to which ends were taken over.
    pub async fn followed(&self) -> Result<i64, Fault> {
        Ok(sqlx::query_scalar("SELECT event FROM followed").fetch_one(self.db.readers()).await?)
    }

    /// Those of the workloads that have a run which still runs in name.
    pub async fn open_runs(&self, ends: Vec<End>) -> Result<Vec<End>, Fault> {
        const OPEN: &str = "SELECT DISTINCT owner FROM runs WHERE status IN ('RUNNING', 'SCHEDULED') AND owner IN (";
        let mut sql = QueryBuilder::new(OPEN);
        let mut list = sql.separated(", ");
        for end in &ends {
            list.push_bind(end.workload.clone());
        }
        sql.push(")");
        let owners: Vec<String> = sql.build_query_scalar().fetch_all(self.db.readers()).await?;
        Ok(ends.into_iter().filter(|end| owners.contains(&end.workload)).collect())
    }

    /// Ends what still runs in name of these workloads, and remembers that events up to `event` were looked at.
    pub async fn follow(&self, ends: Vec<End>, event: i64) -> Result<(), Fault> {
        const END: &str = "UPDATE runs SET status = ?, ended = ? \
            WHERE owner = ? AND status IN ('RUNNING', 'SCHEDULED')";
        let change = self.db.change(move |connection| {
            Box::pin(async move {
                for End { workload, status, at } in ends {
                    sqlx::query(END).bind(status).bind(at).bind(workload).execute(&mut *connection).await?;
                }
                sqlx::query("UPDATE followed SET event = ?").bind(event).execute(connection).await?;
                Ok(())
            })
        });
        change.await
    }
}
