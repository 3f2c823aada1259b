//! Experiments, runs and logged models, spoken to in MLflow's REST protocol by its unmodified clients.
//!
//! A database of its own beside the control plane's: what training scripts log, thousands of points at a time, never
//! waits for a placement, and no placement for it. What isn't served is listed in `docs/mlflow.md`.

mod artifacts;
mod db;
mod ends;
mod experiments;
mod fault;
mod filter;
mod http;
mod ids;
mod inputs;
mod limits;
mod log;
mod models;
mod registry;
mod room;
mod rows;
mod runs;
mod search;
mod standing;
mod weight;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub use artifacts::{Holder, Root};
pub use ends::End;
pub use fault::{Code, Fault};
pub use http::{PREFIXES, reads, router};
pub use standing::{Ask, Standing, Standings};
pub use tombolo_db::OpenError;

/// The store of all that is tracked. Cheap to clone.
#[derive(Clone)]
pub struct Tracking {
    db: db::Db,
    room: Arc<room::Room>,
}

impl Tracking {
    /// Opens the database, made where there is none; a file that isn't ours, or not whole, is refused. `ask` tells how
    /// workloads stand, for changes that are theirs.
    pub async fn open(path: &Path, ask: Ask) -> Result<Tracking, OpenError> {
        Ok(Tracking { db: db::Db::open(path, ask).await?, room: Arc::default() })
    }
}

/// Who asks; whoever serves the [`router`] puts it into each request's extensions, having checked the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    pub who: String,
    /// Set where it is a workload, which may read all and write its own.
    pub run: Option<Own>,
}

/// The workload that a token was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// `project-7/train`.
    pub workload: String,
    pub project: String,
    pub stage: String,
    pub site: String,
    pub epoch: u64,
    /// The run that `$MLFLOW_RUN_ID` says.
    pub run_id: String,
}

impl Access {
    /// Whose change it is, which counts only while they may write.
    fn own(&self) -> Option<Own> {
        self.run.clone()
    }

    fn people_only(&self, what: &str) -> Result<(), Fault> {
        match &self.run {
            Some(own) => Err(Fault::denied(format!("The token of {} is no person's and may not {what}", own.workload))),
            None => Ok(()),
        }
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    i64::try_from(since).unwrap_or(i64::MAX)
}
