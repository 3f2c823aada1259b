//! Sites that are left and opened again.

use serde::{Deserialize, Serialize};

use super::{MoveMethod, QuoteView};

/// How a site is to be left.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrainRequest {
    /// From now, after which nothing is moved any more; what is there then goes on there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Whether jobs that have left no state begin anew elsewhere.
    pub restart_jobs: bool,
}

/// How the leaving of a site stands, or what it would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DrainView {
    pub site: String,
    /// `open`, `closed` (nothing new is placed there), `draining`, `drained` (nothing is there any more) or `overdue` (its
    /// deadline has passed, and something is).
    pub state: String,
    #[serde(default)]
    pub by: Option<String>,
    #[serde(default)]
    pub at: Option<i64>,
    #[serde(default)]
    pub deadline: Option<i64>,
    #[serde(default)]
    pub ended: Option<i64>,
    #[serde(default)]
    pub restart_jobs: bool,
    /// Begun by the site's label, and over with its time.
    #[serde(default)]
    pub maintenance: bool,
    /// What is there still.
    pub left: u64,
    /// What was there when it began or is there now; of a plan in the order in which it goes.
    pub workloads: Vec<LeaverView>,
}

/// One workload of a site that is left, or that belongs to one which was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LeaverView {
    /// `<run>/<name>`.
    pub workload: String,
    /// `job` or `service`; nothing where it is over and known no more.
    #[serde(default)]
    pub kind: Option<String>,
    /// `goes` (its turn comes), `moving`, `moved`, `stays`, `elsewhere` (placed or queued anew) or `over`.
    pub state: String,
    #[serde(default)]
    pub to: Option<String>,
    #[serde(default)]
    pub method: Option<MoveMethod>,
    /// Of a move that is under way, as in [`super::MoveView`].
    #[serde(default)]
    pub stage: Option<String>,
    /// By what rule it stays.
    #[serde(default)]
    pub rule: Option<String>,
    #[serde(default)]
    pub why: Option<String>,
    #[serde(default)]
    pub bytes: Option<u64>,
    #[serde(default)]
    pub took_ms: Option<u64>,
    #[serde(default)]
    pub downtime_ms: Option<u64>,
    #[serde(default)]
    pub quote: Option<QuoteView>,
}

/// A site that was opened again, and what belongs there and is elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HomecomingView {
    pub site: String,
    pub workloads: Vec<LeaverView>,
}

/// In a listing of sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DrainBrief {
    /// As in [`DrainView`].
    pub state: String,
    pub by: String,
    #[serde(default)]
    pub deadline: Option<i64>,
    pub left: u64,
}

impl LeaverView {
    pub fn new(workload: impl ToString, state: &str) -> LeaverView {
        LeaverView {
            workload: workload.to_string(),
            kind: None,
            state: state.to_owned(),
            to: None,
            method: None,
            stage: None,
            rule: None,
            why: None,
            bytes: None,
            took_ms: None,
            downtime_ms: None,
            quote: None,
        }
    }
}
