//! Sites, links and how a site joins.

use serde::{Deserialize, Serialize};
use tombolo_core::site::{Labels, Prices};
use tombolo_core::{Resources, SiteId};

use crate::stream::PeerAddress;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SiteView {
    pub name: String,
    #[schema(value_type = Object)]
    pub labels: Labels,
    #[schema(value_type = Object)]
    pub capacity: Resources,
    #[schema(value_type = Object)]
    pub free: Resources,
    #[schema(value_type = Object)]
    pub prices: Prices,
    /// `up`, `unreachable`, `never seen` or `revoked`.
    pub status: String,
    pub draining: bool,
    /// How its leaving stands, where all that is there is to go elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<super::DrainBrief>,
    /// When it was last heard of.
    #[serde(default)]
    pub heard: Option<i64>,
    pub workloads: u64,
    /// The agent's public key.
    pub key: String,
    /// Where it serves endpoints, as it has said since the control plane was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// What an operator may say of a site; what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SitePatch {
    #[schema(value_type = Option<Object>)]
    pub labels: Option<Labels>,
    #[schema(value_type = Option<Object>)]
    pub prices: Option<Prices>,
    #[schema(value_type = Option<Object>)]
    pub capacity: Option<Resources>,
    /// Nothing new is placed at a draining site.
    pub draining: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LinkView {
    pub from: String,
    pub to: String,
    pub bytes_per_s: f64,
    pub latency_ms: u64,
    /// The most that transfers may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes_per_s: Option<u64>,
    /// When the limit holds, such as `08:00-18:00`, by the clock of the site that fetches; nothing: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_hours: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewLink {
    /// What is left out stays as it is.
    pub bytes_per_s: Option<f64>,
    pub latency_ms: Option<u64>,
    /// The most that transfers may take; 0 lifts the limit.
    pub limit_bytes_per_s: Option<u64>,
    /// When the limit holds; nothing: always.
    pub limit_hours: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewJoinToken {
    /// Only a site of this name may use it.
    #[schema(value_type = Option<String>)]
    pub site: Option<SiteId>,
    /// Seconds until it ends; an hour unless given.
    pub expires_in_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JoinTokenMade {
    /// Good for one site, once.
    pub token: String,
    pub expires: i64,
}

/// An agent asks to be let in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub token: String,
    /// The agent's public key in hex; it is known by it from now on.
    pub key: String,
    /// Name, labels, capacity, prices, containers.
    #[schema(value_type = Object)]
    pub info: tombolo_core::site::SiteInfo,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Joined {
    /// Where the control plane listens for agents.
    pub control: PeerAddress,
    /// The key that signs grants, in hex.
    pub grant_key: String,
}
