//! Datasets and versions.

use serde::{Deserialize, Serialize};

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
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DatasetInfo {
    pub name: String,
    pub versions: u64,
    pub latest: VersionInfo,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VersionInfo {
    #[schema(value_type = String)]
    pub version: tombolo_core::VersionId,
    /// The dataset or output that it is a version of, where it has a name.
    #[serde(default)]
    pub dataset: Option<String>,
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
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SiteAnswer {
    pub site: String,
    /// What the site's agent says, as JSON.
    #[schema(value_type = Object)]
    pub answer: serde_json::Value,
}
