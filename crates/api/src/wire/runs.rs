//! Runs, workloads, plans and events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tombolo_core::spec::{Objective, ProjectSpec};
use tombolo_core::{Name, VersionId};

/// A project to run, its code and data already in a site's store and made known as versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    #[schema(value_type = Object)]
    pub project: ProjectSpec,
    #[schema(value_type = String)]
    pub code: VersionId,
    /// A version for each dataset; one that is absent stands for its newest.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub data: BTreeMap<Name, VersionId>,
    /// Don't reuse outputs of earlier runs.
    #[serde(default)]
    pub force: bool,
}

/// A project to plan, without running it; what has no version yet is taken to have the size given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPlan {
    #[schema(value_type = Object)]
    pub project: ProjectSpec,
    /// Sizes in bytes of datasets that are not added yet, by name, and the site where they would be.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub expected: BTreeMap<Name, ExpectedData>,
    /// Versions of the other datasets; of those that are not here, the newest.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub data: BTreeMap<Name, VersionId>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub objective: Option<Objective>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExpectedData {
    pub bytes: u64,
    #[schema(value_type = String)]
    pub site: tombolo_core::SiteId,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RunView {
    pub id: String,
    pub project: String,
    /// `active`, `serving`, `succeeded`, `failed` or `stopped`.
    pub state: String,
    pub by: String,
    pub at: i64,
    #[serde(default)]
    pub ended: Option<i64>,
    pub code: String,
    /// In order of execution; empty in listings.
    #[serde(default)]
    pub workloads: Vec<WorkloadView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkloadView {
    /// `<run>/<name>`.
    pub id: String,
    pub name: String,
    /// `job` or `service`.
    pub kind: String,
    /// `waiting`, `queued`, `placed`, `preparing`, `running`, `ready`, `backoff`, `succeeded`, `cached`, `failed`,
    /// `stopped` or `skipped`.
    pub state: String,
    #[serde(default)]
    pub site: Option<String>,
    pub epoch: u64,
    /// Since when it is in its state.
    #[serde(default)]
    pub since: Option<i64>,
    /// Why it waits, failed or was skipped.
    #[serde(default)]
    pub why: Option<String>,
    /// A service's address, as seen from its site.
    #[serde(default)]
    pub address: Option<String>,
    /// A service's addresses that stay the same wherever it runs, one at each site's gateway, as of its endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<super::EndpointUrl>,
    /// Names of the inputs' sources, by alias.
    pub inputs: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, OutputView>,
    pub attempts: Vec<AttemptView>,
    /// What is being brought for it right now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<crate::stream::Progress>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutputView {
    pub version: String,
    pub bytes: u64,
    pub files: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AttemptView {
    pub epoch: u64,
    pub site: String,
    pub placed: i64,
    #[serde(default)]
    pub ended: Option<i64>,
    #[serde(default)]
    pub ran_ms: Option<u64>,
    /// In words: `exited with code 3`.
    #[serde(default)]
    pub outcome: Option<String>,
    pub bytes_in: u64,
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    #[serde(default)]
    pub metric: Option<f64>,
    pub cost: f64,
}

/// Where everything would go, or went, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlanView {
    /// Until the last job has ended and the last service has started; of a run, which was decided stage by stage, the
    /// longest way from one stage to the next.
    pub makespan_ms: u64,
    pub cost: f64,
    /// Whether it is proved to be the best there is.
    pub exact: bool,
    /// One for each stage, in order of execution: `task`; `outcome`, an object whose `status` is `planned` (with `site`,
    /// `start`, `terms`, `transfers`) or `refused` (with `why`); and `others`, for every other `site` an object whose
    /// `status` is `lost` (with `terms`, `by`) or `refused` (with `reason`).
    #[schema(value_type = Vec<Object>)]
    pub placements: Vec<tombolo_core::placement::Placement>,
}

/// Something that happened in a run; SSE `data` of `/v1/runs/{run}/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventView {
    pub number: i64,
    pub at: i64,
    pub run: String,
    #[serde(default)]
    pub workload: Option<String>,
    pub epoch: u64,
    /// The workload's new state, or the run's.
    pub state: String,
    #[serde(default)]
    pub site: Option<String>,
    #[serde(default)]
    pub text: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::IntoParams, utoipa::ToSchema)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// Milliseconds since 1970.
    pub since: Option<i64>,
    pub tail: Option<usize>,
    pub follow: bool,
    /// An earlier attempt; the newest unless given.
    pub epoch: Option<u64>,
}
