//! The agent's stream: what agent and control plane, and agents among themselves, say over the transport.
//!
//! The agent dials the control plane under [`ALPN_AGENT`] and opens a first stream that begins with
//! [`Opening::Sync`]: then [`Up`] and [`Down`] messages go for as long as the connection lasts. Further
//! streams that the agent opens carry one question each ([`Opening::Sources`]); those that the control
//! plane opens on the same connection carry one [`Call`] each, answered by [`Said`] until the stream ends.
//! Every message is a frame as in [`crate::frames`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tombolo_core::site::{Limit, SiteInfo};
use tombolo_core::sync::{Desired, Report};
use tombolo_core::{Epoch, Millis, Name, SiteId, Timestamp, VersionId, WorkloadId};

pub const ALPN_AGENT: &[u8] = b"tombolo/agent/1";
/// Site to site: `tombolo_data::transfer`.
pub const ALPN_DATA: &[u8] = b"tombolo/data/1";

/// Why the control plane closes an agent's connection: its key is not known.
pub const CLOSE_UNKNOWN: u32 = 1;
/// The site is revoked.
pub const CLOSE_REVOKED: u32 = 2;
/// The same agent has connected again.
pub const CLOSE_REPLACED: u32 = 3;
/// The sync stream is gone, and with it what the connection is for.
pub const CLOSE_FAULT: u32 = 4;

/// How often an agent reports when nothing happens.
pub const HEARTBEAT: Millis = Millis::from_secs(3);

/// The first message of a stream that an agent opens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opening {
    Sync(Box<Hello>),
    /// From where may I fetch this version?
    Sources(VersionId),
    /// A workload has something to log: what follows is HTTP/1.1, one request and its answer.
    Track,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// The agent program's version.
    pub version: String,
    pub address: PeerAddress,
    /// What the agent itself sees of its machine; the operator's word goes before it.
    pub info: SiteInfo,
}

/// How to dial a peer: its key, and hints where it may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerAddress {
    /// Ed25519 public key in hex. What a peer says of its own is worth nothing: its connection proves its key.
    pub key: String,
    /// `ip:port`, UDP.
    pub direct: Vec<String>,
    #[serde(default)]
    pub relay: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Up {
    /// Grows with each message; the answer repeats it.
    pub number: u64,
    pub report: Report,
    /// What is being brought for placements, right now; kept by nobody.
    #[serde(default)]
    pub moving: BTreeMap<WorkloadId, Progress>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Down {
    /// The number of the newest report that was taken in before this was written, durably.
    pub answers: u64,
    pub desired: Desired,
    /// Secrets of the assignments, to be kept in memory only.
    #[serde(default)]
    pub secrets: BTreeMap<WorkloadId, BTreeMap<Name, String>>,
    /// The keys of all sites that are revoked, whatever grants they hold; none: as was said before.
    #[serde(default)]
    pub revoked: Option<BTreeSet<String>>,
    /// The control plane's time as this was written, by which its grants end.
    #[serde(default)]
    pub now: Option<Timestamp>,
}

/// The answer to [`Opening::Sources`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sources {
    From(Vec<Source>),
    /// Residency forbids it, or nobody knows the version: why.
    Refused(String),
}

/// The stream of a log's lines that Tombolo itself wrote.
pub const OWN_STREAM: &str = "tombolo";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    pub site: SiteId,
    pub address: PeerAddress,
    /// See [`crate::grant`].
    pub grant: String,
    /// What may be taken of the link from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// What the control plane asks of an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    Logs {
        workload: WorkloadId,
        epoch: Epoch,
        query: LogQuery,
    },
    /// Remove what no version of these needs.
    Gc {
        keep: Vec<VersionId>,
    },
    Verify,
    /// Have this version here.
    Fetch {
        version: VersionId,
    },
    /// The list of a version's files.
    List {
        version: VersionId,
    },
    /// Whether this version is here whole.
    Has {
        version: VersionId,
    },
    /// Leave this version alone for an hour, if it is here whole: it is about to get a name.
    Hold {
        version: VersionId,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogQuery {
    pub since: Option<Timestamp>,
    /// Only the last so many lines of what is there already.
    pub tail: Option<usize>,
    pub follow: bool,
}

/// One piece of an agent's answer to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    Log(LogLine),
    Progress(Progress),
    Done(serde_json::Value),
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogLine {
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub at: Timestamp,
    /// `stdout`, `stderr`, or [`OWN_STREAM`].
    pub stream: String,
    pub text: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    pub what: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
}
