//! Datasets and versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tombolo_core::retention::Rules;

/// A version that is in a site's store, made known; under a dataset's name or, as code is, without one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVersion {
    /// 64 hex digits: the digest of the version's manifest.
    #[schema(value_type = String)]
    pub version: tombolo_core::VersionId,
    pub bytes: u64,
    pub files: u64,
    #[schema(value_type = String)]
    pub site: tombolo_core::SiteId,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub dataset: Option<tombolo_core::Name>,
    /// Selectors that all must pick a site for the bytes to be there; none: anywhere.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub residency: tombolo_core::Residency,
    /// Its schema and rows, and whether it is what it is expected to be, as the site found them.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub facts: tombolo_core::facts::Facts,
    /// A sample of its chunks: `chunks` and `bytes` without repetition, and of the up to 512 chunks whose BLAKE3 digests
    /// are the smallest, in order, 16 hex digits of the digest and 8 of the length each. By it a plan tells how much of
    /// the version a site has already in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub sketch: Option<tombolo_core::sketch::Sketch>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DatasetInfo {
    pub name: String,
    pub versions: u64,
    pub latest: VersionInfo,
    /// Tags, each with the version that it is on.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Which versions keep their names, as each project says that says it.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub retain: BTreeMap<tombolo_core::Name, Rules>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VersionInfo {
    #[schema(value_type = String)]
    pub version: tombolo_core::VersionId,
    /// The dataset or output that it is a version of, where it has a name.
    #[serde(default)]
    pub dataset: Option<String>,
    /// Its number in the dataset, written `v3`, where it is one of a dataset's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The tags that are on it in the dataset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whose doing it is that it is in the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why it is there again, where it was brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub bytes: u64,
    pub files: u64,
    /// In words: `anywhere`, `onprem`, `{region: eu}`.
    pub residency: String,
    /// Where its bytes are.
    pub replicas: Vec<String>,
    /// The workload that made it.
    #[serde(default)]
    pub made_by: Option<String>,
    pub at: i64,
    /// Its schema and rows, and whether it is what it is expected to be, as the site found them.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub facts: tombolo_core::facts::Facts,
}

/// Puts a tag on a version of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTag {
    #[schema(value_type = String)]
    pub version: tombolo_core::VersionId,
    /// Whether it may be taken from the version that it is on.
    #[serde(default, rename = "move")]
    pub may_move: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TagInfo {
    pub dataset: String,
    pub tag: String,
    pub version: String,
    /// The version's highest number in the dataset.
    pub number: u64,
    pub by: String,
    pub at: i64,
}

/// Makes a version the newest of its dataset again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRestore {
    /// Its number such as `v3`, or its 64 hex digits.
    pub version: String,
    /// Why; kept with it. At most 1000 characters.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Takes the names away of versions that no rule keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrune {
    /// Such as `last 10, daily for 30 days`; none: what the projects say that use the dataset.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub keep: Option<Rules>,
    /// Whether to tell only what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// What stays of a dataset and what goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pruned {
    /// By which rules, in words; none: there is no rule, and everything stays.
    #[serde(default)]
    pub rules: Option<String>,
    /// Newest first.
    pub versions: Vec<PrunedVersion>,
    /// Whether those that go have lost their names; else this only tells.
    pub done: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PrunedVersion {
    pub number: u64,
    #[schema(value_type = String)]
    pub version: tombolo_core::VersionId,
    pub bytes: u64,
    pub at: i64,
    /// Whether it loses its name.
    pub goes: bool,
    /// Why it stays: `the newest`, `last 10`, `tag prod`, `run flights-7`, ...
    pub because: Vec<String>,
}

/// A version that lost a dataset's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RemovedVersion {
    #[schema(value_type = String)]
    pub version: tombolo_core::VersionId,
    /// The number that it had.
    pub number: u64,
    pub bytes: u64,
    pub files: u64,
    /// When it had come under the name.
    pub at: i64,
    pub removed: i64,
    pub by: String,
    /// Such as `removed by hand`, or the rules that no longer kept it.
    pub why: String,
    /// The sites that had it then. Their bytes may be collected since.
    pub sites: Vec<String>,
}

/// What a run made, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutputInfo {
    pub project: String,
    pub output: String,
    /// The stage that makes it.
    pub stage: String,
    pub run: String,
    /// When that run had it.
    pub at: i64,
    /// Whether an earlier run had made the same, so that this one did not.
    pub cached: bool,
    pub version: VersionInfo,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::IntoParams, utoipa::ToSchema)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct OutputQuery {
    /// Only this project's.
    #[param(value_type = Option<String>)]
    #[schema(value_type = Option<String>)]
    pub project: Option<tombolo_core::Name>,
    /// Only outputs of this name.
    #[param(value_type = Option<String>)]
    #[schema(value_type = Option<String>)]
    pub output: Option<tombolo_core::Name>,
    /// Where the page before ended.
    pub after: Option<String>,
    /// Items, at most 500.
    pub limit: Option<u32>,
}

/// What made a version and what it fed, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Lineage {
    /// Stages that have it as an output.
    pub made: Vec<LineageStep>,
    /// Stages and services that have it as an input.
    pub fed: Vec<LineageStep>,
    /// How many of the newest runs were looked through.
    pub runs: u64,
    /// Whether there are older ones.
    pub partial: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageStep {
    /// `<run>/<name>`.
    pub workload: String,
    /// As in a run's view: `succeeded`, `failed`, ...
    pub state: String,
    /// When its run was submitted.
    pub at: i64,
    pub code: String,
    /// Versions by the names of datasets and outputs.
    pub inputs: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
}

/// Whether a version may be at a site, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Why {
    #[schema(value_type = String)]
    pub version: tombolo_core::VersionId,
    pub site: String,
    /// Whether its bytes may come to the site now.
    pub allowed: bool,
    /// Whether the site is revoked: then nothing goes there, whatever the rules.
    pub revoked: bool,
    /// Whether the site is draining: it is sent no work, though data may be there.
    pub draining: bool,
    /// The sites that have it.
    pub replicas: Vec<String>,
    /// Every rule that it is under; none: it may be anywhere.
    pub rules: Vec<WhyRule>,
    /// The releases between it and what it derives from, the nearest first.
    pub lifted: Vec<WhyLifted>,
    /// Whether there is more behind it than was looked at, or some of it is forgotten.
    pub partial: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhyRule {
    /// In words: `onprem`, `{region: eu}`.
    pub keep_at: String,
    /// Whether it lets the version be at the site.
    pub allows: bool,
    /// From the version itself to what was given the rule.
    pub chain: Vec<WhyStep>,
    /// Whether the chain's last was given the rule. If not, what it came from is not known any more.
    pub whole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhyStep {
    pub version: String,
    /// The dataset or output, as the runs call it.
    #[serde(default)]
    pub name: Option<String>,
    /// The stage that made it, `<run>/<stage>`; none: it was added as data.
    #[serde(default)]
    pub made_by: Option<String>,
}

/// A release that what the version derives from went through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhyLifted {
    /// `<run>/<stage>`.
    pub workload: String,
    pub output: String,
    /// Whose run it was.
    pub by: String,
    /// The rules, in words.
    pub rules: String,
}

/// Lifts every rule from a version, by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRelease {
    /// Why it may leave; kept in the audit log. At most 1000 characters.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SiteAnswer {
    pub site: String,
    /// What the site's agent says, as JSON.
    #[schema(value_type = Object)]
    pub answer: serde_json::Value,
}
