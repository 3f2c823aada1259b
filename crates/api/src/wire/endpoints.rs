//! Endpoints of services, and the tokens that open them.

use serde::{Deserialize, Serialize};

/// A service's stable address, whichever site answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EndpointView {
    /// `project/service`.
    pub name: String,
    /// `token`, `token-passed` or `public`.
    pub access: String,
    /// What it does, where no replica answers.
    pub state: String,
    /// Whether requests wait at the gateways, since it is in the gap of a move.
    pub waits: bool,
    pub replicas: Vec<ReplicaView>,
    /// Its addresses, one at each site's gateway; any of them reaches any replica.
    pub urls: Vec<EndpointUrl>,
    /// Tokens that are good now.
    pub tokens: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReplicaView {
    pub workload: String,
    pub site: String,
    pub epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EndpointUrl {
    pub site: String,
    pub url: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewEndpointToken {
    /// Seconds until it ends; 90 days unless given.
    pub expires_in_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EndpointTokenMade {
    pub id: String,
    /// Shown this once; only its hash is kept.
    pub token: String,
    pub expires: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EndpointTokenInfo {
    pub id: String,
    /// `project/service`.
    pub endpoint: String,
    pub by: String,
    pub created: i64,
    pub expires: i64,
}
