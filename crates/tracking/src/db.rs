//! The database and its one writer, which takes all changes that wait into one transaction.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};
use tombolo_db::{OpenError, Schema};

use crate::Own;
use crate::fault::{Code, Fault};
use crate::standing::{Ask, Standings};

const SCHEMA: Schema = Schema {
    // "TomT".
    application_id: 0x546f_6d54,
    migrations: &[
        include_str!("../migrations/0001_first.sql"),
        include_str!("../migrations/0002_points_of_models.sql"),
        include_str!("../migrations/0003_artifacts.sql"),
        include_str!("../migrations/0004_registry.sql"),
    ],
};

/// Changes that may wait for the writer; who comes later waits for room.
const QUEUE_MAX: usize = 1024;
/// How long after the database could not be opened it is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// Changes in one transaction.
const BATCH_MAX: usize = 256;

/// A change: what it answers is told only when the transaction is durable.
struct Change {
    /// The workloads whose standing it depends on.
    about: BTreeSet<String>,
    make: Make,
    /// Held by whoever asked for it, for as long as they wait. Who was told that it is late sends it again.
    asker: Weak<()>,
}

type Make = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection, Option<&'c Standings>) -> BoxFuture<'c, Changed> + Send>;

struct Changed {
    /// Whether what it wrote stays.
    kept: bool,
    answer: Answer,
}

type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;

#[derive(Clone)]
pub struct Db {
    changes: mpsc::Sender<Change>,
    readers: SqlitePool,
}

impl Db {
    pub async fn open(path: &Path, ask: Ask) -> Result<Db, OpenError> {
        let (connection, readers) = tombolo_db::open(path, &SCHEMA).await?;
        let (changes, waiting) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { connection, path: path.to_owned(), ask };
        tokio::spawn(writer.run(waiting));
        Ok(Db { changes, readers })
    }

    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Makes a change, whole or, where it answers with a fault, not at all. One of a workload is made only if its
    /// placement may write when its turn has come.
    pub async fn change<T, F>(&self, own: Option<Own>, change: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Fault>> + Send + 'static,
    {
        let about = own.iter().map(|own| own.workload.clone()).collect();
        let fenced =
            self.change_knowing(about, move |connection, standings| match may_write(own.as_ref(), standings) {
                Ok(()) => change(connection),
                Err(refused) => Box::pin(std::future::ready(Err(refused))),
            });
        fenced.await
    }

    /// Makes a change that depends on how workloads stand, by what was true after all changes before it.
    pub async fn change_knowing<T, F>(&self, about: BTreeSet<String>, change: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection, Option<&'c Standings>) -> BoxFuture<'c, Result<T, Fault>>
            + Send
            + 'static,
    {
        let (tell, told) = oneshot::channel();
        let waits = Arc::new(());
        let asker = Arc::downgrade(&waits);
        let make: Make = Box::new(move |connection, standings| {
            Box::pin(async move {
                let done = change(connection, standings).await;
                let kept = done.is_ok();
                Changed {
                    kept,
                    answer: Box::new(move |committed: Result<(), Fault>| drop(tell.send(committed.and(done)))),
                }
            })
        });
        let gone = || unwritten("the database could not be written to, or the control plane is stopping");
        self.changes.send(Change { about, make, asker }).await.map_err(|_| gone())?;
        let answer = told.await.map_err(|_| gone())?;
        drop(waits);
        answer
    }
}

fn unwritten(why: &str) -> Fault {
    Fault::new(Code::TemporarilyUnavailable, format!("it was not written: {why}"))
}

fn may_write(own: Option<&Own>, standings: Option<&Standings>) -> Result<(), Fault> {
    let Some(own) = own else { return Ok(()) };
    let standings = standings.ok_or_else(|| unwritten("the control plane is stopping"))?;
    own.may_write(standings.get(&own.workload)).map_err(Fault::denied)
}

struct Writer {
    connection: SqliteConnection,
    path: PathBuf,
    ask: Ask,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Change>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
            batch.retain(|change: &Change| change.asker.strong_count() > 0);
            let about: BTreeSet<String> = batch.iter().flat_map(|change| change.about.iter().cloned()).collect();
            // After the batch was taken: whatever became of a placement before its change was sent is known here.
            let standings = match about.is_empty() {
                true => None,
                false => (self.ask)(about).await,
            };
            let mut answers = Vec::with_capacity(batch.len());
            let committed = transact(&mut self.connection, batch.drain(..), standings.as_ref(), &mut answers).await;
            let failed = committed.is_err();
            let committed = committed.map_err(|error| Fault::internal(&error));
            answers.into_iter().for_each(|answer| answer(committed.clone()));
            if failed {
                // What SQLite rolled back by itself, as when the disk is full, sqlx still counts as begun.
                self.connection = anew(&self.path).await;
            }
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

async fn transact(
    connection: &mut SqliteConnection,
    batch: impl Iterator<Item = Change>,
    standings: Option<&Standings>,
    answers: &mut Vec<Answer>,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for change in batch {
        sqlx::query("SAVEPOINT change").execute(&mut *transaction).await?;
        let Changed { kept, answer } = (change.make)(&mut transaction, standings).await;
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

    fn nobody() -> Ask {
        Arc::new(|_| Box::pin(std::future::ready(Some(Standings::new()))))
    }

    async fn run(db: &Db, sql: &'static str) -> Result<(), Fault> {
        db.change(None, move |connection| {
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
        let db = Db::open(&dir.path().join("tracking.db"), nobody()).await.unwrap();
        run(&db, "CREATE TABLE filler (x)").await.unwrap();
        // Of this connection, which is the writer's.
        run(&db, "PRAGMA max_page_count = 1").await.unwrap();
        run(&db, "INSERT INTO filler VALUES (zeroblob(10000000))").await.unwrap_err();
        run(&db, "INSERT INTO filler VALUES (zeroblob(10000000))").await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let (go, gate) = tokio::sync::watch::channel(false);
        let (asked, mut asks) = mpsc::channel(1);
        let ask: Ask = Arc::new(move |_| {
            let (mut gate, asked) = (gate.clone(), asked.clone());
            Box::pin(async move {
                asked.send(()).await.unwrap();
                gate.wait_for(|open| *open).await.unwrap();
                Some(Standings::new())
            })
        });
        let db = Db::open(&dir.path().join("tracking.db"), ask).await.unwrap();
        run(&db, "CREATE TABLE filler (x)").await.unwrap();
        // While the writer waits for this one, another comes and is given up.
        let slow = db.change_knowing(["p-1/a".to_owned()].into(), |_, _| Box::pin(async { Ok(()) }));
        let others = async {
            asks.recv().await.unwrap();
            {
                let given_up = run(&db, "INSERT INTO filler VALUES (1)");
                tokio::pin!(given_up);
                assert!(futures_util::poll!(&mut given_up).is_pending());
            }
            go.send(true).unwrap();
            run(&db, "INSERT INTO filler VALUES (2)").await.unwrap();
        };
        let (slow, ()) = tokio::join!(slow, others);
        slow.unwrap();
        let kept: Vec<i64> = sqlx::query_scalar("SELECT x FROM filler").fetch_all(db.readers()).await.unwrap();
        assert_eq!(kept, [2]);
    }
}
