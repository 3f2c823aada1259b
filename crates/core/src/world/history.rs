//! Where a workload has been: one line for each stay, whichever site.

use serde::{Deserialize, Serialize};

use super::{Attempt, WorkloadRecord, World};
use crate::ids::{Epoch, SiteId};
use crate::moving::Moved;
use crate::sync::Outcome;
use crate::time::{Millis, Timestamp};

/// One placement, from its being made to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Stay {
    pub site: SiteId,
    pub epoch: Epoch,
    pub from: Timestamp,
    /// None while it lasts.
    pub to: Option<Timestamp>,
    /// How long the command ran, once it has ended.
    pub ran: Option<Millis>,
    pub bytes_in: u64,
    /// So far.
    pub cost: f64,
    pub outcome: Option<Outcome>,
    pub came: Came,
}

/// Why a workload is where it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Came {
    /// The planner chose the site when the workload was due.
    Placed,
    Moved {
        from: SiteId,
        by: String,
        why: Option<String>,
    },
    /// A move elsewhere was undone.
    Returned {
        why: String,
    },
    /// What ran before was lost with its site.
    FailedOver {
        from: SiteId,
        why: String,
    },
    /// What ran before ended, and was due again.
    Again {
        after: Outcome,
    },
}

impl std::fmt::Display for Came {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Came::Placed => f.write_str("placed"),
            Came::Moved { from, by, why: Some(why) } => write!(f, "moved from {from} by {by}: {why}"),
            Came::Moved { from, by, why: None } => write!(f, "moved from {from} by {by}"),
            Came::Returned { why } => write!(f, "came back, as its move was undone: {why}"),
            Came::FailedOver { from, why } => write!(f, "failed over from {from}: {why}"),
            Came::Again { after } => write!(f, "started again: it {after}"),
        }
    }
}

impl World {
    /// Where a workload has been, the oldest first; of one that only the store knows as well.
    pub fn stays(&self, record: &WorkloadRecord, now: Timestamp) -> Vec<Stay> {
        let mut before = None;
        let stay = |attempt: &Attempt| {
            let came = came(record, attempt, before.replace(attempt.clone()).as_ref());
            // What lasts is paid for at its end, and costs already.
            let lasts = attempt.ended.is_none().then(|| now.since(attempt.placed));
            let prices = self.sites.get(&attempt.site).map(|site| &site.info.prices);
            let so_far = prices.zip(lasts).map_or(0.0, |(prices, lasts)| prices.compute(&record.spec.resources, lasts));
            Stay {
                site: attempt.site.clone(),
                epoch: attempt.epoch,
                from: attempt.placed,
                to: attempt.ended,
                ran: attempt.ran,
                bytes_in: attempt.bytes_in,
                cost: attempt.cost + so_far,
                outcome: attempt.outcome.clone(),
                came,
            }
        };
        record.attempts.iter().map(stay).collect()
    }
}

fn came(record: &WorkloadRecord, attempt: &Attempt, before: Option<&Attempt>) -> Came {
    let landing = record.moving.as_ref().filter(|moving| moving.epoch == attempt.epoch);
    if let Some(moving) = landing {
        return Came::Moved { from: moving.from.clone(), by: moving.by.clone(), why: moving.why.clone() };
    }
    let done = |moved: &&Moved| moved.epoch == attempt.epoch && moved.epoch > Epoch::NONE;
    if let Some(moved) = record.moves.iter().find(done) {
        return Came::Moved { from: moved.from.clone(), by: moved.by.clone(), why: moved.why.clone() };
    }
    // An undone move that had got to its destination ends with the next epoch, where it came from.
    let undone = record.moves.iter().rev().find_map(|moved| {
        let back = moved.epoch.next() == attempt.epoch && moved.from == attempt.site && moved.downtime.is_some();
        moved.undone.clone().filter(|_| back && moved.epoch > Epoch::NONE)
    });
    if let Some(why) = undone {
        return Came::Returned { why };
    }
    match before.and_then(|before| Some((before, before.outcome.clone()?))) {
        Some((before, Outcome::Lost { why })) if before.site != attempt.site => {
            Came::FailedOver { from: before.site.clone(), why }
        }
        Some((_, after)) => Came::Again { after },
        None => Came::Placed,
    }
}
