//! What can go wrong with an import, with what it was about and what to do.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{address} can't be read: {why}\nhint: {hint}")]
    Unreachable { address: String, why: String, hint: &'static str },
    #[error("nothing is at {address}\nhint: check the bucket and the prefix")]
    Nothing { address: String },
    #[error("{object} changed while it was read\nhint: run the import again when nobody writes there")]
    Changed { object: String },
    #[error("{object} has a name that can't be a path here\nhint: name a prefix that leaves it out")]
    BadName { object: String },
    #[error("the query failed: {why}\nhint: try it with psql as the same user")]
    Query { why: String },
    #[error("column {column:?}, row {row}: {why}\nhint: cast the column in the query, such as {column}::text")]
    Value { column: String, row: u64, why: String },
    #[error("the server's answer ended in the middle or can't be understood: {why}\nhint: run the import again")]
    Malformed { why: String },
    #[error("topic {topic:?} is not there\nhint: check its name; the broker knows {known}")]
    NoTopic { topic: String, known: String },
    #[error("{path}: what the last import left can't be read: {why}\nhint: run with --force to begin anew")]
    State { path: PathBuf, why: String },
    #[error("{path} can't be written")]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} can't be written as Parquet: {why}")]
    Parquet { path: PathBuf, why: String },
}

impl ConnectError {
    pub fn is_no_space(&self) -> bool {
        match self {
            ConnectError::Write { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            ConnectError::Parquet { why, .. } => why.contains("No space left on device"),
            _ => false,
        }
    }
}

/// Turns an IO error into ours, with the path that it happened at.
pub(crate) fn at(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> ConnectError + use<'_> {
    move |source| ConnectError::Write { path: path.to_owned(), source }
}
