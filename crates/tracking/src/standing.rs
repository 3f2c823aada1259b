//! How workloads stand with the platform, asked by the writer just before it makes their changes: a placement that was
//! replaced or is over meanwhile writes no more, however long its request has waited.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::Own;

/// A workload that is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub epoch: u64,
    /// Where its newest placement is; none where it has no placement now.
    pub site: Option<String>,
    /// The word for its state.
    pub state: &'static str,
}

/// Those of the workloads that are live, by name.
pub type Standings = HashMap<String, Standing>;

/// Answers how workloads stand; None where nobody can say.
pub type Ask = Arc<dyn Fn(BTreeSet<String>) -> BoxFuture<'static, Option<Standings>> + Send + Sync>;

impl Own {
    /// Whether the placement is the newest of its workload, where it says it is, and not over; else why not.
    pub fn may_write(&self, standing: Option<&Standing>) -> Result<(), String> {
        let Own { workload, site, epoch, .. } = self;
        let Some(standing) = standing else {
            return Err(format!("{workload} is over; its token has ended with it"));
        };
        if standing.epoch != *epoch {
            return Err(format!(
                "{workload} was started anew as epoch {}; epoch {epoch} may write no more",
                standing.epoch
            ));
        }
        match &standing.site {
            Some(at) if at == site => Ok(()),
            Some(at) => Err(format!("{workload} is at {at}, not at {site}")),
            None => Err(format!("{workload} is {}; its token has ended", standing.state)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_placement_that_is_not_over_may_write() {
        let own = Own {
            workload: "p-1/train".to_owned(),
            project: "p".to_owned(),
            stage: "train".to_owned(),
            site: "a".to_owned(),
            epoch: 2,
            run_id: "1".to_owned(),
        };
        let check = |epoch, site: Option<&str>, expected: Result<(), &str>| {
            let standing = Standing { epoch, site: site.map(str::to_owned), state: "failed" };
            assert_eq!(own.may_write(Some(&standing)), expected.map_err(str::to_owned));
        };
        check(2, Some("a"), Ok(()));
        check(3, Some("a"), Err("p-1/train was started anew as epoch 3; epoch 2 may write no more"));
        check(2, Some("b"), Err("p-1/train is at b, not at a"));
        check(2, None, Err("p-1/train is failed; its token has ended"));
        assert_eq!(own.may_write(None), Err("p-1/train is over; its token has ended with it".to_owned()));
    }
}
