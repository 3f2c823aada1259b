//! Runs whose process ended without a word: the platform says how.

use crate::Tracking;
use crate::fault::{Code, Fault};

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub workload: String,
    pub epoch: u64,
    /// `FINISHED`, `FAILED` or `KILLED`.
    pub status: &'static str,
    pub at: i64,
}

impl Tracking {
    /// The event up to which ends were taken over.
    pub async fn followed(&self) -> Result<i64, Fault> {
        Ok(sqlx::query_scalar("SELECT event FROM followed").fetch_one(self.db.readers()).await?)
    }

    /// Ends what still runs in name of these workloads, unless they were started anew since, and remembers that events up
    /// to `event` were looked at, if that is worth a transaction. Answers whether it did.
    ///
    /// It takes its turn among the workloads' own changes: one that comes after it is refused, as the workload has ended.
    pub async fn follow(&self, ends: Vec<End>, event: i64, remember: bool) -> Result<bool, Fault> {
        const END: &str = "UPDATE runs SET status = ?, ended = ? \
            WHERE owner = ? AND status IN ('RUNNING', 'SCHEDULED')";
        let about = ends.iter().map(|end| end.workload.clone()).collect();
        let change = self.db.change_knowing(about, move |connection, standings| {
            Box::pin(async move {
                if standings.is_none() && !ends.is_empty() {
                    return Err(Fault::new(Code::TemporarilyUnavailable, "the control plane is stopping"));
                }
                let newest = |end: &End| standings.and_then(|known| known.get(&end.workload)).map(|known| known.epoch);
                let mut remember = remember;
                for end in ends {
                    if newest(&end).is_some_and(|epoch| epoch > end.epoch) {
                        continue;
                    }
                    let End { workload, status, at, .. } = end;
                    let ended = sqlx::query(END).bind(status).bind(at).bind(workload).execute(&mut *connection).await?;
                    remember |= ended.rows_affected() > 0;
                }
                if remember {
                    sqlx::query("UPDATE followed SET event = ?").bind(event).execute(connection).await?;
                }
                Ok(remember)
            })
        });
        change.await
    }
}
