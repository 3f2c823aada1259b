//! What belongs to many things, looked up at once by their numbers; each head of a query ends before a list of numbers.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};

use crate::Tracking;
use crate::fault::Fault;
use crate::wire::{Pair, Text};

/// SQLite binds at most 32,766 values.
pub const BOUND_MAX: usize = 10_000;

impl Tracking {
    /// Keys with their values, and the number of what each belongs to.
    pub(crate) async fn pairs(&self, head: &'static str, numbers: &[i64]) -> Result<Vec<(i64, Pair)>, Fault> {
        let pair = |row: &SqliteRow| Ok((row.try_get(0)?, Pair { key: row.try_get(1)?, value: Text(row.try_get(2)?) }));
        self.rows(head, numbers).await?.iter().map(pair).collect()
    }

    pub(crate) async fn rows(&self, head: &'static str, numbers: &[i64]) -> Result<Vec<SqliteRow>, Fault> {
        let mut rows = Vec::new();
        for part in numbers.chunks(BOUND_MAX) {
            rows.extend(self.part(head, part).await?);
        }
        Ok(rows)
    }

    async fn part(&self, head: &'static str, numbers: &[i64]) -> Result<Vec<SqliteRow>, Fault> {
        let mut sql = QueryBuilder::new(head);
        let mut list = sql.separated(", ");
        for number in numbers {
            list.push_bind(*number);
        }
        sql.push(")");
        Ok(sql.build().fetch_all(self.db.readers()).await?)
    }
}
