//! What the control plane keeps, behind one trait: an embedded database now, a server's later.
//!
//! Everything durable changes through [`Store::commit`], one transaction for a batch; the engine is its only
//! caller. Reads see what is committed.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use tombolo_api::wire::{AuditEntry, EventView, OutputQuery, Page, PageQuery, Role, SecretInfo, TokenInfo};
use tombolo_core::retention::Rules;
use tombolo_core::site::Link;
use tombolo_core::sketch::Sketch;
use tombolo_core::sync::Made;
use tombolo_core::world::{
    Dataset, EndpointToken, Event, Naming, PastRuns, Removed, RunRecord, SiteRecord, VersionRecord, WorkloadRecord,
};
use tombolo_core::{Epoch, Name, RunId, SiteId, Timestamp, VersionId, WorkloadId};

pub mod sqlite;

pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the database {path} can't be used: {why}\n\
         hint: nothing was changed; mend it or restore it from a backup; to begin with an empty one, move the whole directory away"
    )]
    Unusable { path: String, why: String },
    #[error(
        "the database {path} was written by a newer version of Tombolo (schema {found}, this one knows {known})\n\
         hint: start the newer version, or restore a backup from before the upgrade"
    )]
    Newer { path: String, found: i64, known: i64 },
    #[error("the database failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a record in the database can't be read: {0}")]
    Malformed(String),
    /// What a caller gave as [`PageQuery::after`] is no end of a page.
    #[error("{0:?} is no place in this listing: give `after` what `next` of the page before said")]
    BadPage(String),
}

/// One thing to write. Records are upserted whole.
#[derive(Debug, Clone)]
pub enum Write {
    Site(Box<SiteRecord>),
    Link {
        from: SiteId,
        to: SiteId,
        link: Link,
    },
    Run(Box<RunRecord>),
    Workload(Box<WorkloadRecord>),
    Version {
        id: VersionId,
        record: Box<VersionRecord>,
    },
    History {
        project: Name,
        workload: Name,
        past: PastRuns,
    },
    /// `key` is a hash of [`tombolo_core::world::World::cache_key`].
    Cached {
        key: String,
        made_by: WorkloadId,
        outputs: BTreeMap<Name, Made>,
    },
    Event(Box<Event>),
    /// A dataset's last number and its rules; its names and tags are written as they come and go.
    Dataset {
        name: Name,
        last: u64,
        rules: BTreeMap<Name, Rules>,
    },
    Naming(Box<Naming>),
    /// The name of what one run made.
    DropOutput {
        project: Name,
        output: Name,
        number: u64,
    },
    /// Of a version's chunks; the first one stays.
    Sketch {
        version: VersionId,
        sketch: Box<Sketch>,
    },
    /// Of a version that nothing live needs any more. It goes with its sketch if, after all else of the batch, no dataset
    /// and no output names it: only here both are known. The rules that it was under are kept.
    DropVersion {
        version: VersionId,
    },
    Token(Box<TokenRecord>),
    RevokeToken {
        id: String,
    },
    JoinToken {
        hash: String,
        site: Option<SiteId>,
        expires: Timestamp,
    },
    /// The join token was used; a second use finds it gone.
    SpendJoinToken {
        hash: String,
    },
    Secret {
        name: Name,
        sealed: Vec<u8>,
        updated: Timestamp,
    },
    DropSecret {
        name: Name,
    },
    EndpointToken(Box<EndpointToken>),
    DropEndpointToken {
        id: String,
    },
    Audit(Box<AuditEntry>),
    /// Forgets answers to creates that were given before this, and join and endpoint tokens that ended before it.
    Prune {
        before: Timestamp,
    },
    /// The answer to a create, so that the same key gets it again. The first answer under a key stays.
    Idempotent {
        token: String,
        key: String,
        request_hash: String,
        status: u16,
        body: String,
        at: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub info: TokenInfo,
    /// BLAKE3 of the token, in hex. A token is 256 random bits, so a slow hash would add nothing.
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotent {
    pub request_hash: String,
    pub status: u16,
    pub body: String,
}

/// All that is not over, for an empty [`tombolo_core::world::World`].
#[derive(Debug, Default)]
pub struct Live {
    pub sites: Vec<SiteRecord>,
    pub links: Vec<(SiteId, SiteId, Link)>,
    pub runs: Vec<RunRecord>,
    pub workloads: Vec<WorkloadRecord>,
    pub versions: Vec<(VersionId, VersionRecord)>,
    /// Those that are known no more, with the rules that they were under.
    pub forgotten: Vec<(VersionId, VersionRecord)>,
    /// Those that came last, in the order in which they came.
    pub sketches: Vec<(VersionId, Sketch)>,
    pub history: Vec<(Name, Name, PastRuns)>,
    pub counters: Vec<(Name, u64)>,
    pub datasets: Vec<(Name, Dataset)>,
    pub endpoint_tokens: Vec<EndpointToken>,
    /// The highest event number given out.
    pub last_event: i64,
}

/// What a batch came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// The highest event number given out.
    pub last_event: i64,
    /// Those of the versions to be dropped that nothing named.
    pub dropped: Vec<VersionId>,
}

/// What a run made under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedOutput {
    pub run: RunId,
    pub stage: Name,
    pub output: Name,
    pub version: VersionId,
    pub at: Timestamp,
    /// Whether an earlier run had made it.
    pub cached: bool,
}

pub trait Store: Send + Sync + 'static {
    /// All of it or nothing, in the order given; durable when it answers.
    fn commit(&self, batch: Vec<Write>) -> Answer<'_, Committed>;
    fn live(&self) -> Answer<'_, Live>;

    fn run(&self, id: &RunId) -> Answer<'_, Option<(RunRecord, Vec<WorkloadRecord>)>>;
    /// Newest first; of one project, or of all.
    fn runs(&self, project: Option<&Name>, page: &PageQuery) -> Answer<'_, Page<RunRecord>>;
    fn workload(&self, id: &WorkloadId) -> Answer<'_, Option<WorkloadRecord>>;
    /// Of the workloads that are known, the newest epoch and whether it is over.
    fn epochs(&self, ids: Vec<WorkloadId>) -> Answer<'_, Vec<(WorkloadId, Epoch, bool)>>;
    /// Events with a number above `after`, in order, at most `limit`; of one run, or of all.
    fn events(&self, run: Option<&RunId>, after: i64, limit: u32) -> Answer<'_, Vec<EventView>>;
    /// The outputs of those of the keys that are known.
    fn cached(&self, keys: Vec<String>) -> Answer<'_, BTreeMap<String, BTreeMap<Name, Made>>>;

    fn version(&self, id: &VersionId) -> Answer<'_, Option<VersionRecord>>;
    /// The newest of each output, by project and name.
    fn outputs(&self, query: &OutputQuery) -> Answer<'_, Page<NamedOutput>>;
    /// What runs of a project have made under a name, newest first.
    fn output(&self, project: &Name, output: &Name, page: &PageQuery) -> Answer<'_, Page<NamedOutput>>;
    /// What lost a dataset's name, newest first.
    fn removed(&self, dataset: &Name, page: &PageQuery) -> Answer<'_, Page<(u64, Removed)>>;
    /// All versions. [`crate::engine::Engine::kept`] adds those on their way.
    fn versions(&self) -> Answer<'_, Vec<VersionId>>;

    /// The token with this hash, revoked and expired ones included.
    fn token(&self, hash: &str) -> Answer<'_, Option<TokenInfo>>;
    fn tokens(&self, page: &PageQuery) -> Answer<'_, Page<TokenInfo>>;
    /// Whether any token of this role was ever made.
    fn has_token(&self, role: Role) -> Answer<'_, bool>;
    /// An unspent join token: the site that it is bound to, if any, and when it ends.
    fn join_token(&self, hash: &str) -> Answer<'_, Option<(Option<SiteId>, Timestamp)>>;
    fn secret(&self, name: &Name) -> Answer<'_, Option<Vec<u8>>>;
    fn secrets(&self, page: &PageQuery) -> Answer<'_, Page<SecretInfo>>;
    /// Newest first.
    fn audit(&self, page: &PageQuery) -> Answer<'_, Page<AuditEntry>>;
    /// The answer that a token's holder got under this key.
    fn idempotent(&self, token: &str, key: &str) -> Answer<'_, Option<Idempotent>>;
}
