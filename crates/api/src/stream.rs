//! The agent's stream: what agent and control plane, and agents among themselves, say over the transport.
//!
//! The agent dials the control plane under [`ALPN_AGENT`] and opens a first stream that begins with
//! [`Opening::Sync`]: then [`Up`] and [`Down`] messages go for as long as the connection lasts. Further
//! streams that the agent opens carry one question each ([`Opening::Sources`]); those that the control
//! plane opens on the same connection carry one [`Call`] each, answered by [`Said`] until the stream ends.
//! Every message is a frame as in [`crate::frames`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tombolo_core::routes::{EndpointId, Route};
use tombolo_core::site::{Limit, SiteInfo};
use tombolo_core::sync::{Desired, Report};
use tombolo_core::{Epoch, Millis, Name, SiteId, Timestamp, VersionId, WorkloadId};

pub const ALPN_AGENT: &[u8] = b"tombolo/agent/1";
/// Site to site: `tombolo_data::transfer`.
pub const ALPN_DATA: &[u8] = b"tombolo/data/1";
/// Site to site: one request of an endpoint a stream, which begins with a [`Passage`].
pub const ALPN_GATEWAY: &[u8] = b"tombolo/gateway/1";

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
    /// Where it serves endpoints, as `http://ip:port`.
    #[serde(default)]
    pub gateway: Option<String>,
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
    /// What is news of endpoints.
    #[serde(default)]
    pub routes: Option<RoutesNews>,
}

/// What has changed of endpoints and of the sites that serve them. What is not named stays as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RoutesNews {
    #[serde(default)]
    pub set: Vec<(EndpointId, Route)>,
    /// These are all endpoints that there are; what else is known is no more.
    #[serde(default)]
    pub only: Option<Vec<EndpointId>>,
    /// All sites that are not revoked.
    #[serde(default)]
    pub peers: Option<Vec<Peer>>,
}

/// A site, as others send requests of endpoints there and take them from there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub site: SiteId,
    /// Its agent's public key in hex.
    pub key: String,
    /// From the site that is told this.
    pub latency: Millis,
    /// None where it has not connected since the control plane began: it is where it was.
    #[serde(default)]
    pub address: Option<PeerAddress>,
}

/// The first message of a request from one site's gateway to another's: then HTTP follows, the request and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    pub endpoint: EndpointId,
    /// The placement that shall answer.
    pub workload: WorkloadId,
    pub epoch: Epoch,
    /// It has been sent on by a site at which it should have been answered: nobody sends it on again.
    pub sent_on: bool,
    /// Whether to say, by a [`Leave`], before the request is sent, if it will be taken: it can be sent only once.
    pub asks: bool,
}

/// The answer to a [`Passage`] that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leave {
    Taken,
    Refused(Absent),
}

/// Why a placement takes no request. Where there was no leave to ask for, it comes as HTTP's answer 421 with its word
/// in [`ABSENT_HEADER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absent {
    /// It is not there, any more or yet.
    Gone,
    /// It is about to end, and something will soon answer in its place.
    Leaving,
}

impl Absent {
    pub fn word(self) -> &'static str {
        match self {
            Absent::Gone => "gone",
            Absent::Leaving => "leaving",
        }
    }

    pub fn of_word(word: &str) -> Option<Absent> {
        [Absent::Gone, Absent::Leaving].into_iter().find(|absent| absent.word() == word)
    }
}

pub const ABSENT_HEADER: &str = "x-tombolo-absent";

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
    /// Whether this version is here whole: false, or what it comes to, `{"bytes": .., "files": ..}`; an older agent says
    /// only true.
    Has {
        version: VersionId,
    },
    /// Something about artifacts that are kept here: what follows is HTTP/1.1, one request and its answer. Whoever asks has
    /// been let in.
    Artifacts,
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
    /// Of the last seconds; none where too little is known yet, or an older agent says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// Until the rest is there, at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}
