//! The embedded database: SQLite with a write-ahead log, one writer, a few readers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;
use tombolo_api::wire::{AuditEntry, EventView, OutputQuery, Page, PageQuery, Role, SecretInfo, TokenInfo};
use tombolo_core::sync::Made;
use tombolo_core::world::{Removed, RunRecord, VersionRecord, WorkloadRecord};
use tombolo_core::{Epoch, Name, RunId, SiteId, Timestamp, VersionId, WorkloadId};

use super::{Answer, Committed, Idempotent, Live, NamedOutput, Store, StoreError, Write};

mod access;
mod datasets;
mod open;
mod outputs;
mod read;
mod write;

pub struct SqliteStore {
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
    last_event: AtomicI64,
    commits: AtomicU64,
}

impl SqliteStore {
    /// Opens the database; where there is no file of this name a new one is made, whole or not at all. A
    /// file that can't be read as this database is refused and left as it is.
    pub async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
        let (writer, readers) = open::open(path).await?;
        let last = read::last_event(&readers).await?;
        let (last_event, commits) = (AtomicI64::new(last), AtomicU64::new(0));
        Ok(SqliteStore { writer: Mutex::new(writer), readers, last_event, commits })
    }

    /// Transactions committed since the start.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Folds the log into the database file and closes it. A process that is killed instead loses nothing.
    pub async fn close(self) -> Result<(), StoreError> {
        self.readers.close().await;
        self.writer.into_inner().close().await.map_err(failed)
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Committed, StoreError> {
        let steps = write::steps(batch)?;
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let write::Performed { last_event, dropped } = write::perform(&mut transaction, steps).await?;
        transaction.commit().await.map_err(failed)?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        if let Some(last) = last_event {
            self.last_event.store(last, Ordering::Relaxed);
        }
        Ok(Committed { last_event: self.last_event.load(Ordering::Relaxed), dropped })
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Failed(Box::new(error))
}

impl Store for SqliteStore {
    fn commit(&self, batch: Vec<Write>) -> Answer<'_, Committed> {
        Box::pin(self.write(batch))
    }

    fn live(&self) -> Answer<'_, Live> {
        Box::pin(read::live(&self.readers))
    }

    fn run(&self, id: &RunId) -> Answer<'_, Option<(RunRecord, Vec<WorkloadRecord>)>> {
        let id = id.to_string();
        Box::pin(read::run(&self.readers, id))
    }

    fn runs(&self, project: Option<&Name>, page: &PageQuery) -> Answer<'_, Page<RunRecord>> {
        let (project, page) = (project.map(Name::to_string), page.clone());
        Box::pin(read::runs(&self.readers, project, page))
    }

    fn workload(&self, id: &WorkloadId) -> Answer<'_, Option<WorkloadRecord>> {
        let id = id.clone();
        Box::pin(read::workload(&self.readers, id))
    }

    fn epochs(&self, ids: Vec<WorkloadId>) -> Answer<'_, Vec<(WorkloadId, Epoch, bool)>> {
        Box::pin(read::epochs(&self.readers, ids))
    }

    fn events(&self, run: Option<&RunId>, after: i64, limit: u32) -> Answer<'_, Vec<EventView>> {
        let run = run.map(RunId::to_string);
        Box::pin(read::events(&self.readers, run, after, limit))
    }

    fn cached(&self, keys: Vec<String>) -> Answer<'_, BTreeMap<String, BTreeMap<Name, Made>>> {
        Box::pin(read::cached(&self.readers, keys))
    }

    fn version(&self, id: &VersionId) -> Answer<'_, Option<VersionRecord>> {
        let id = id.to_string();
        Box::pin(read::version(&self.readers, id))
    }

    fn outputs(&self, query: &OutputQuery) -> Answer<'_, Page<NamedOutput>> {
        let query = query.clone();
        Box::pin(outputs::newest(&self.readers, query))
    }

    fn output(&self, project: &Name, output: &Name, page: &PageQuery) -> Answer<'_, Page<NamedOutput>> {
        let (project, output, page) = (project.to_string(), output.to_string(), page.clone());
        Box::pin(outputs::of(&self.readers, project, output, page))
    }

    fn removed(&self, dataset: &Name, page: &PageQuery) -> Answer<'_, Page<(u64, Removed)>> {
        let (dataset, page) = (dataset.to_string(), page.clone());
        Box::pin(datasets::removed(&self.readers, dataset, page))
    }

    fn versions(&self) -> Answer<'_, Vec<VersionId>> {
        Box::pin(read::versions(&self.readers))
    }

    fn token(&self, hash: &str) -> Answer<'_, Option<TokenInfo>> {
        let hash = hash.to_owned();
        Box::pin(access::token(&self.readers, hash))
    }

    fn tokens(&self, page: &PageQuery) -> Answer<'_, Page<TokenInfo>> {
        let page = page.clone();
        Box::pin(access::tokens(&self.readers, page))
    }

    fn has_token(&self, role: Role) -> Answer<'_, bool> {
        Box::pin(access::has_token(&self.readers, role))
    }

    fn join_token(&self, hash: &str) -> Answer<'_, Option<(Option<SiteId>, Timestamp)>> {
        let hash = hash.to_owned();
        Box::pin(access::join_token(&self.readers, hash))
    }

    fn secret(&self, name: &Name) -> Answer<'_, Option<Vec<u8>>> {
        let name = name.to_string();
        Box::pin(access::secret(&self.readers, name))
    }

    fn secrets(&self, page: &PageQuery) -> Answer<'_, Page<SecretInfo>> {
        let page = page.clone();
        Box::pin(access::secrets(&self.readers, page))
    }

    fn audit(&self, page: &PageQuery) -> Answer<'_, Page<AuditEntry>> {
        let page = page.clone();
        Box::pin(access::audit(&self.readers, page))
    }

    fn idempotent(&self, token: &str, key: &str) -> Answer<'_, Option<Idempotent>> {
        let (token, key) = (token.to_owned(), key.to_owned());
        Box::pin(access::idempotent(&self.readers, token, key))
    }
}
