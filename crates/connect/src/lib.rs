//! Connectors: data that lives in an object store, on the web, in PostgreSQL or in Kafka, brought into a directory of
//! files.
//!
//! An import runs at a site, as a stage does: what it writes becomes a version like any output. Tables come as Parquet.
//! Credentials come by the environment that the stage was given, never by the source's address.

mod copy;
mod error;
mod kafka;
mod objects;
mod parts;
mod postgres;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tombolo_core::source::Source;

pub use error::ConnectError;

/// One import: what from, and where to.
#[derive(Debug, Clone)]
pub struct Import {
    pub source: Source,
    /// An empty directory that gets the files.
    pub output: PathBuf,
    /// What the last import left for this one, and this one leaves for the next; only incremental sources use it.
    pub state: PathBuf,
    /// Credentials and settings, by the names that the source's own tools know (`AWS_ACCESS_KEY_ID`, `PGPASSWORD`).
    pub env: BTreeMap<String, String>,
}

/// What an import brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Brought {
    pub files: u64,
    pub bytes: u64,
    /// Of tables.
    pub rows: Option<u64>,
    /// What a person should know of it.
    pub warnings: Vec<String>,
}

/// Brings it all. On an error the output directory holds what had come, and must not be used.
pub async fn bring(import: &Import) -> Result<Brought, ConnectError> {
    match &import.source {
        Source::Objects { url } => objects::bring(url, import).await,
        Source::Web { url } => objects::bring_file(url, import).await,
        Source::Postgres { url, query } => postgres::bring(url, query, import).await,
        Source::Kafka { brokers, topic } => kafka::bring(brokers, topic, import).await,
    }
}
