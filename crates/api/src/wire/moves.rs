//! Moves of workloads between sites.

use serde::{Deserialize, Serialize};
use tombolo_core::draining::Cause;
use tombolo_core::moving::{Method, Moved, Moving, Quote, Wish, lost_kernels, survives};
use tombolo_core::world::{Came, Stay};
use tombolo_core::{Millis, SiteId, Timestamp, WorkloadId};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    pub to: String,
    /// `switch`, `checkpoint` or `restart`; none: what suits the workload best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<MoveMethod>,
    /// From now; then the move is undone, unless the workload runs at its destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Undone, before anything is stopped, where the last round would take longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downtime_ms: Option<u64>,
    /// For the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How a workload gets from one site to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MoveMethod {
    /// Both run for a moment; requests go over when the new one answers.
    Switch,
    /// It ends, and goes on elsewhere from its state directory.
    Checkpoint,
    /// It ends, and begins elsewhere anew.
    Restart,
}

/// What a move would take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuoteView {
    /// `<run>/<name>`.
    pub workload: String,
    pub from: String,
    pub to: String,
    pub method: MoveMethod,
    /// The state's, and how much of it changes in a second; none where no copy of it was taken yet.
    #[serde(default)]
    pub state_bytes: Option<u64>,
    #[serde(default)]
    pub change_bytes_per_s: Option<f64>,
    /// Over the network, in all and in the last round.
    pub bytes: u64,
    pub last_bytes: u64,
    /// Rounds of copying ahead.
    pub rounds: u32,
    pub duration_ms: u64,
    pub downtime_ms: u64,
    /// Of the downtime what the program itself is expected to take: to end and leave its state, and to start.
    #[serde(default)]
    pub save_ms: u64,
    #[serde(default)]
    pub start_ms: u64,
    pub egress_price: f64,
    pub survives: Vec<String>,
    pub lost: Vec<String>,
}

/// A workload's stay at a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StayView {
    pub site: String,
    pub epoch: u64,
    pub from: i64,
    /// None while it lasts.
    #[serde(default)]
    pub to: Option<i64>,
    /// From its being placed to its end, or until now.
    pub lasted_ms: u64,
    /// How long the command ran, once it has ended.
    #[serde(default)]
    pub ran_ms: Option<u64>,
    /// Brought over the network for it.
    pub bytes_in: u64,
    /// So far.
    pub cost: f64,
    /// How it ended, in words; none while it lasts.
    #[serde(default)]
    pub ended: Option<String>,
    /// `placed`, `moved`, `returned`, `failed_over` or `again`.
    pub came: String,
    /// Why it came there, in words.
    pub why: String,
}

/// A move, under way or over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MoveView {
    pub workload: String,
    pub from: String,
    pub to: String,
    pub method: MoveMethod,
    pub by: String,
    #[serde(default)]
    pub why: Option<String>,
    pub at: i64,
    /// `copying ahead`, `starting beside`, `stopping`, `landing`, `returning`, `done` or `undone`.
    pub stage: String,
    /// Why it was undone, or is being.
    #[serde(default)]
    pub undone: Option<String>,
    #[serde(default)]
    pub ended: Option<i64>,
    pub rounds: u32,
    pub bytes: u64,
    pub last_bytes: u64,
    /// From the source's being told to end until the workload went on.
    #[serde(default)]
    pub downtime_ms: Option<u64>,
    /// Of this from the source's end, its state saved, until the command ran again.
    #[serde(default)]
    pub switch_ms: Option<u64>,
    pub quote: QuoteView,
}

impl From<MoveMethod> for Method {
    fn from(method: MoveMethod) -> Method {
        match method {
            MoveMethod::Switch => Method::Switch,
            MoveMethod::Checkpoint => Method::Checkpoint,
            MoveMethod::Restart => Method::Restart,
        }
    }
}

impl From<Method> for MoveMethod {
    fn from(method: Method) -> MoveMethod {
        match method {
            Method::Switch => MoveMethod::Switch,
            Method::Checkpoint => MoveMethod::Checkpoint,
            Method::Restart => MoveMethod::Restart,
        }
    }
}

impl MoveMethod {
    pub fn word(self) -> &'static str {
        Method::from(self).word()
    }
}

impl MoveRequest {
    /// Longest `why`, in characters.
    pub const WHY_CHARS_MAX: usize = 1000;

    pub fn wish(self, by: String) -> Result<Wish, String> {
        if self.why.as_ref().is_some_and(|why| why.chars().count() > MoveRequest::WHY_CHARS_MAX) {
            return Err(format!("the reason is longer than {} characters", MoveRequest::WHY_CHARS_MAX));
        }
        Ok(Wish {
            to: SiteId::new(self.to).map_err(|fault| fault.to_string())?,
            method: self.method.map(Method::from),
            deadline: self.deadline_ms.map(Millis),
            max_downtime: self.max_downtime_ms.map(Millis),
            by,
            why: self.why,
            cause: Cause::Asked,
        })
    }
}

impl QuoteView {
    pub fn new(workload: &WorkloadId, from: &SiteId, to: &SiteId, method: Method, quote: &Quote) -> QuoteView {
        let (kept, lost) = survives(method);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut lost: Vec<String> = words(lost);
        lost.extend(lost_kernels(workload).map(str::to_owned));
        QuoteView {
            workload: workload.to_string(),
            from: from.to_string(),
            to: to.to_string(),
            method: method.into(),
            state_bytes: quote.state_bytes,
            change_bytes_per_s: quote.change_bytes_per_s,
            bytes: quote.bytes,
            last_bytes: quote.last_bytes,
            rounds: quote.rounds,
            duration_ms: quote.duration.0,
            downtime_ms: quote.downtime.0,
            save_ms: quote.save.0,
            start_ms: quote.start.0,
            egress_price: quote.egress_price,
            survives: words(kept),
            lost,
        }
    }
}

impl StayView {
    pub fn new(stay: &Stay, now: Timestamp) -> StayView {
        let came = match stay.came {
            Came::Placed => "placed",
            Came::Moved { .. } => "moved",
            Came::Returned { .. } => "returned",
            Came::FailedOver { .. } => "failed_over",
            Came::Again { .. } => "again",
        };
        StayView {
            site: stay.site.to_string(),
            epoch: stay.epoch.0,
            from: stay.from.0,
            to: stay.to.map(|to| to.0),
            lasted_ms: stay.to.unwrap_or(now).since(stay.from).0,
            ran_ms: stay.ran.map(|ran| ran.0),
            bytes_in: stay.bytes_in,
            cost: stay.cost,
            ended: stay.outcome.as_ref().map(ToString::to_string),
            came: came.to_owned(),
            why: stay.came.to_string(),
        }
    }
}

impl MoveView {
    pub fn under_way(workload: &WorkloadId, moving: &Moving) -> MoveView {
        let last = moving.rounds.iter().rev().find_map(|round| round.taken.as_ref());
        MoveView {
            workload: workload.to_string(),
            from: moving.from.to_string(),
            to: moving.to.to_string(),
            method: moving.method.into(),
            by: moving.by.clone(),
            why: moving.why.clone(),
            at: moving.at.0,
            stage: moving.stage.word().to_owned(),
            undone: moving.off.clone(),
            ended: None,
            rounds: moving.rounds.len() as u32,
            bytes: moving.bytes,
            last_bytes: last.map_or(0, |taken| taken.fresh_bytes),
            downtime_ms: None,
            switch_ms: None,
            quote: QuoteView::new(workload, &moving.from, &moving.to, moving.method, &moving.quote),
        }
    }

    pub fn over(workload: &WorkloadId, moved: &Moved) -> MoveView {
        MoveView {
            workload: workload.to_string(),
            from: moved.from.to_string(),
            to: moved.to.to_string(),
            method: moved.method.into(),
            by: moved.by.clone(),
            why: moved.why.clone(),
            at: moved.at.0,
            stage: if moved.undone.is_some() { "undone" } else { "done" }.to_owned(),
            undone: moved.undone.clone(),
            ended: Some(moved.ended.0),
            rounds: moved.rounds,
            bytes: moved.bytes,
            last_bytes: moved.last_bytes,
            downtime_ms: moved.downtime.map(|span| span.0),
            switch_ms: moved.switch.map(|span| span.0),
            quote: QuoteView::new(workload, &moved.from, &moved.to, moved.method, &moved.quote),
        }
    }
}
