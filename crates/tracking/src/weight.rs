//! How long an answer would be, looked up before it is made: a page ends where it is long enough.

use std::collections::HashMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};

use crate::Tracking;
use crate::fault::Fault;

/// A page's longest content, in bytes. The first entry is given however long it is.
pub const PAGE_BYTES_MAX: u64 = 16 << 20;

/// Numbers of rows with the bytes that belong to each; each ends before a list of numbers.
pub type Heads = &'static [&'static str];

pub const RUNS: Heads = &[
    "SELECT run, sum(octet_length(key) + 64) FROM latest_metrics WHERE run IN (",
    "SELECT run, sum(octet_length(key) + octet_length(value)) FROM params WHERE run IN (",
    "SELECT run, sum(octet_length(key) + octet_length(value)) FROM tags WHERE run IN (",
    "SELECT i.run, sum(octet_length(i.tags) + octet_length(d.source) + coalesce(octet_length(d.schema), 0) \
        + coalesce(octet_length(d.profile), 0)) \
        FROM dataset_inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run IN (",
];
pub const MODELS: Heads = &[
    "SELECT model, sum(octet_length(key) + octet_length(value)) FROM model_params WHERE model IN (",
    "SELECT model, sum(octet_length(key) + octet_length(value)) FROM model_tags WHERE model IN (",
];
pub const REGISTERED: Heads = &[
    "SELECT model, sum(octet_length(key) + octet_length(value)) FROM registered_tags WHERE model IN (",
    "SELECT number, octet_length(coalesce(description, '')) FROM registered WHERE number IN (",
];
pub const VERSIONS: Heads = &[
    "SELECT version, sum(octet_length(key) + octet_length(value)) FROM version_tags WHERE version IN (",
    "SELECT number, octet_length(coalesce(description, '')) + octet_length(source) FROM versions WHERE number IN (",
];
pub const EXPERIMENTS: Heads =
    &["SELECT experiment, sum(octet_length(key) + octet_length(value)) FROM experiment_tags WHERE experiment IN ("];

impl Tracking {
    /// How many of the rows one page takes, at least one of them; each row's number is its first column.
    pub(crate) async fn fitting(&self, rows: &[SqliteRow], heads: Heads) -> Result<usize, Fault> {
        let numbers = rows.iter().map(|row| row.try_get::<i64, _>(0)).collect::<Result<Vec<_>, _>>()?;
        let mut weights: HashMap<i64, u64> = HashMap::new();
        // SQLite binds at most 32,766 values.
        for part in numbers.chunks(10_000) {
            for head in heads {
                let mut sql = QueryBuilder::new(*head);
                let mut list = sql.separated(", ");
                for number in part {
                    list.push_bind(*number);
                }
                sql.push(") GROUP BY 1");
                for row in sql.build().fetch_all(self.db.readers()).await? {
                    let bytes = row.try_get::<i64, _>(1)?.unsigned_abs();
                    *weights.entry(row.try_get(0)?).or_default() += bytes;
                }
            }
        }
        Ok(fit(numbers.iter().map(|number| weights.get(number).copied().unwrap_or_default()), PAGE_BYTES_MAX))
    }
}

/// How many of these, from the first on, come to no more than `max`; one at least, if there is one.
fn fit(weights: impl Iterator<Item = u64>, max: u64) -> usize {
    let sums = weights.scan(0_u64, |sum, weight| {
        *sum = sum.saturating_add(weight);
        Some(*sum)
    });
    sums.enumerate().take_while(|(place, sum)| *place == 0 || *sum <= max).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_what_fits_and_one_at_least() {
        let check = |weights: &[u64], expected| assert_eq!(fit(weights.iter().copied(), 10), expected, "{weights:?}");
        check(&[], 0);
        check(&[99, 0], 1);
        check(&[4, 6, 1], 2);
        check(&[4, 7, 1], 1);
        check(&[0, 0, 0], 3);
    }
}
