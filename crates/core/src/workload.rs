//! The life of a workload, as the control plane records it: states, steps, and which step leads where.

use serde::{Deserialize, Serialize};

use crate::ids::{Name, SiteId};
use crate::sync::Outcome;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// For the stages whose outputs it reads.
    Waiting,
    /// Could start; is not placed.
    Queued {
        since: Timestamp,
    },
    /// Given to a site that has not answered yet.
    Placed {
        site: SiteId,
        since: Timestamp,
    },
    /// The site has it in its journal and brings what it needs.
    Preparing {
        site: SiteId,
        since: Timestamp,
    },
    Running {
        site: SiteId,
        since: Timestamp,
    },
    /// A service that answers at an address.
    Ready {
        site: SiteId,
        since: Timestamp,
        address: String,
    },
    /// Failed, and will be tried again.
    Backoff {
        until: Timestamp,
        outcome: Outcome,
    },
    /// A job that did what it should; `cached` where an earlier run had done it.
    Succeeded {
        at: Timestamp,
        cached: bool,
    },
    Failed {
        at: Timestamp,
        outcome: Outcome,
    },
    Stopped {
        at: Timestamp,
    },
    /// Never ran, since what it waits for did not succeed.
    Skipped {
        because: Name,
    },
}

/// What can happen to a workload.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    UpstreamDone,
    UpstreamFailed {
        because: Name,
    },
    CacheHit,
    Place {
        site: SiteId,
    },
    Accepted,
    Started {
        since: Timestamp,
    },
    Ready {
        since: Timestamp,
        address: String,
    },
    /// It ended; `retry_at` where it shall be tried again.
    Ended {
        outcome: Outcome,
        retry_at: Option<Timestamp>,
    },
    BackoffOver,
    /// Stop, for what is at no site (what is at one, the site has to end).
    Stop,
    /// A move puts it at another site, under a new epoch: it ended where it was.
    Land {
        site: SiteId,
    },
    /// A move makes the placement beside it the workload's: that one answers already.
    Switch {
        site: SiteId,
        since: Timestamp,
        address: String,
    },
    /// Its site is given up, after its lease has ended there.
    Abandon,
    /// A person asks to run it again.
    Retry,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("a workload that is {state} can't take the step {step}")]
pub struct IllegalStep {
    pub state: &'static str,
    pub step: &'static str,
}

impl State {
    /// Since when it runs where it is, where it does.
    pub fn since(&self) -> Option<Timestamp> {
        match self {
            State::Running { since, .. } | State::Ready { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// The next state, or why there is none. `now` is when the control plane learns of the step.
    pub fn step(&self, step: Step, now: Timestamp) -> Result<State, IllegalStep> {
        use State::*;
        match (self, step) {
            (Waiting, Step::UpstreamDone) => Ok(Queued { since: now }),
            (Waiting | Queued { .. }, Step::UpstreamFailed { because }) => Ok(Skipped { because }),
            (Queued { .. }, Step::CacheHit) => Ok(Succeeded { at: now, cached: true }),
            (Queued { .. }, Step::Place { site }) => Ok(Placed { site, since: now }),
            (Placed { site, .. }, Step::Accepted) => Ok(Preparing { site: site.clone(), since: now }),
            (Placed { site, .. } | Preparing { site, .. } | Ready { site, .. }, Step::Started { since }) => {
                Ok(Running { site: site.clone(), since })
            }
            (Placed { site, .. } | Preparing { site, .. } | Running { site, .. }, Step::Ready { since, address }) => {
                Ok(Ready { site: site.clone(), since, address })
            }
            (
                Placed { .. } | Preparing { .. } | Running { .. } | Ready { .. },
                Step::Ended { outcome, retry_at: Some(until) },
            ) => Ok(Backoff { until, outcome }),
            (
                Placed { .. } | Preparing { .. } | Running { .. } | Ready { .. },
                Step::Ended { outcome, retry_at: None },
            ) => Ok(match outcome {
                Outcome::Succeeded => Succeeded { at: now, cached: false },
                Outcome::Stopped | Outcome::Checkpointed => Stopped { at: now },
                outcome => Failed { at: now, outcome },
            }),
            (Placed { .. } | Preparing { .. } | Running { .. } | Ready { .. }, Step::Land { site }) => {
                Ok(Placed { site, since: now })
            }
            (
                Placed { .. } | Preparing { .. } | Running { .. } | Ready { .. },
                Step::Switch { site, since, address },
            ) => Ok(Ready { site, since, address }),
            (Placed { .. } | Preparing { .. } | Running { .. } | Ready { .. }, Step::Abandon) => {
                Ok(Queued { since: now })
            }
            (Backoff { .. }, Step::BackoffOver) => Ok(Queued { since: now }),
            (Waiting | Queued { .. } | Backoff { .. }, Step::Stop) => Ok(Stopped { at: now }),
            (Failed { .. } | Stopped { .. } | Skipped { .. }, Step::Retry) => Ok(Waiting),
            (state, step) => Err(IllegalStep { state: state.word(), step: step.word() }),
        }
    }

    /// Where it is, while it is somewhere.
    pub fn site(&self) -> Option<&SiteId> {
        match self {
            State::Placed { site, .. }
            | State::Preparing { site, .. }
            | State::Running { site, .. }
            | State::Ready { site, .. } => Some(site),
            State::Waiting
            | State::Queued { .. }
            | State::Backoff { .. }
            | State::Succeeded { .. }
            | State::Failed { .. }
            | State::Stopped { .. }
            | State::Skipped { .. } => None,
        }
    }

    /// Whether nothing will happen to it any more unless somebody asks.
    pub fn is_final(&self) -> bool {
        matches!(self, State::Succeeded { .. } | State::Failed { .. } | State::Stopped { .. } | State::Skipped { .. })
    }

    pub fn word(&self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Queued { .. } => "queued",
            State::Placed { .. } => "placed",
            State::Preparing { .. } => "preparing",
            State::Running { .. } => "running",
            State::Ready { .. } => "ready",
            State::Backoff { .. } => "backoff",
            State::Succeeded { cached: true, .. } => "cached",
            State::Succeeded { cached: false, .. } => "succeeded",
            State::Failed { .. } => "failed",
            State::Stopped { .. } => "stopped",
            State::Skipped { .. } => "skipped",
        }
    }
}

impl Step {
    pub fn word(&self) -> &'static str {
        match self {
            Step::UpstreamDone => "upstream-done",
            Step::UpstreamFailed { .. } => "upstream-failed",
            Step::CacheHit => "cache-hit",
            Step::Place { .. } => "place",
            Step::Accepted => "accepted",
            Step::Started { .. } => "started",
            Step::Ready { .. } => "ready",
            Step::Ended { retry_at: Some(_), .. } => "ended, to retry",
            Step::Ended { outcome: Outcome::Succeeded, .. } => "ended well",
            Step::Ended { outcome: Outcome::Stopped | Outcome::Checkpointed, .. } => "ended on request",
            Step::Ended { .. } => "ended badly",
            Step::BackoffOver => "backoff-over",
            Step::Stop => "stop",
            Step::Land { .. } => "land",
            Step::Switch { .. } => "switch",
            Step::Abandon => "abandon",
            Step::Retry => "retry",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, so that a new state or step shows up as a diff.
    #[test]
    fn every_state_and_step() {
        let t = Timestamp(0);
        let (site, other) = (SiteId::new("a").unwrap(), SiteId::new("b").unwrap());
        let failed = Outcome::Failed { code: 1 };
        let states = [
            State::Waiting,
            State::Queued { since: t },
            State::Placed { site: site.clone(), since: t },
            State::Preparing { site: site.clone(), since: t },
            State::Running { site: site.clone(), since: t },
            State::Ready { site: site.clone(), since: t, address: "h:1".into() },
            State::Backoff { until: t, outcome: failed.clone() },
            State::Succeeded { at: t, cached: false },
            State::Failed { at: t, outcome: failed.clone() },
            State::Stopped { at: t },
            State::Skipped { because: Name::new("x").unwrap() },
        ];
        let steps = [
            Step::UpstreamDone,
            Step::UpstreamFailed { because: Name::new("x").unwrap() },
            Step::CacheHit,
            Step::Place { site },
            Step::Accepted,
            Step::Started { since: t },
            Step::Ready { since: t, address: "h:1".into() },
            Step::Ended { outcome: Outcome::Succeeded, retry_at: None },
            Step::Ended { outcome: failed.clone(), retry_at: None },
            Step::Ended { outcome: failed, retry_at: Some(t) },
            Step::Ended { outcome: Outcome::Stopped, retry_at: None },
            Step::BackoffOver,
            Step::Stop,
            Step::Land { site: other.clone() },
            Step::Switch { site: other, since: t, address: "h:2".into() },
            Step::Abandon,
            Step::Retry,
        ];
        let mut table = String::new();
        for state in &states {
            for step in &steps {
                if let Ok(next) = state.step(step.clone(), t) {
                    table += &format!("{:<10} {:<17} -> {}\n", state.word(), step.word(), next.word());
                }
            }
        }
        insta::assert_snapshot!(table);
    }
}
