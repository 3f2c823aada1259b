//! The database and its one writer, which takes all changes that wait into one transaction.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};
use tombolo_db::{OpenError, Schema};

use crate::fault::{Code, Fault};

const SCHEMA: Schema = Schema {
    // "TomT".
    application_id: 0x546f_6d54,
    migrations: &[include_str!("../migrations/0001_first.sql")],
};

/// Changes that may wait for the writer; who comes later waits for room.
const QUEUE_MAX: usize = 1024;
/// How long after the database could not be opened it is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// Changes in one transaction.
const BATCH_MAX: usize = 256;

/// A change: what it answers is told only when the transaction is durable.
type Change = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Changed> + Send>;

struct Changed {
    /// Whether what it wrote stays.
    kept: bool,
    answer: Box<dyn FnOnce(Result<(), Fault>) + Send>,
}

#[derive(Clone)]
pub struct Db {
    changes: mpsc::Sender<Change>,
    readers: SqlitePool,
}

impl Db {
    pub async fn open(path: &Path) -> Result<Db, OpenError> {
        let (writer, readers) = tombolo_db::open(path, &SCHEMA).await?;
        let (changes, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write(writer, path.to_owned(), waiting));
        Ok(Db { changes, readers })
    }

    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Makes a change, whole or, where it answers with a fault, not at all.
    pub async fn change<T, F>(&self, change: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Fault>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let boxed: Change = Box::new(move |connection| {
            Box::pin(async move {
                let done = change(connection).await;
                let kept = done.is_ok();
                let answer = move |committed: Result<(), Fault>| drop(tell.send(committed.and(done)));
                Changed { kept, answer: Box::new(answer) }
            })
        });
        let why = "it was not written: the database could not be written to, or the control plane is stopping";
        let gone = || Fault::new(Code::TemporarilyUnavailable, why);
        self.changes.send(boxed).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }
}

async fn write(mut connection: SqliteConnection, path: PathBuf, mut waiting: mpsc::Receiver<Change>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut answers = Vec::with_capacity(batch.len());
        let committed = transact(&mut connection, batch.drain(..), &mut answers).await;
        let failed = committed.is_err();
        let committed = committed.map_err(|error| Fault::internal(&error));
        answers.into_iter().for_each(|answer| answer(committed.clone()));
        if failed {
            // What SQLite rolled back by itself, as when the disk is full, sqlx still counts as begun.
            connection = anew(&path).await;
        }
    }
}

async fn anew(path: &Path) -> SqliteConnection {
    loop {
        match tombolo_db::writer(path).await {
            Ok(connection) => return connection,
            Err(error) => tracing::error!(%error, "what is tracked can't be written"),
        }
        tokio::time::sleep(OPEN_AGAIN).await;
    }
}

type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;

async fn transact(
    connection: &mut SqliteConnection,
    batch: impl Iterator<Item = Change>,
    answers: &mut Vec<Answer>,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for change in batch {
        sqlx::query("SAVEPOINT change").execute(&mut *transaction).await?;
        let Changed { kept, answer } = change(&mut transaction).await;
        answers.push(answer);
        if !kept {
            sqlx::query("ROLLBACK TO change").execute(&mut *transaction).await?;
        }
        sqlx::query("RELEASE change").execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(db: &Db, sql: &'static str) -> Result<(), Fault> {
        db.change(move |connection| {
            Box::pin(async move {
                sqlx::query(sql).execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_disk_that_was_full_is_written_to_again() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("tracking.db")).await.unwrap();
        run(&db, "CREATE TABLE filler (x)").await.unwrap();
        // Of this connection, which is the writer's.
        run(&db, "PRAGMA max_page_count = 1").await.unwrap();
        run(&db, "INSERT INTO filler VALUES (zeroblob(10000000))").await.unwrap_err();
        run(&db, "INSERT INTO filler VALUES (zeroblob(10000000))").await.unwrap();
    }
}
