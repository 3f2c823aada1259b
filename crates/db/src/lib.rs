//! Opening an embedded database: what is ours and whole is used, what is absent is made, everything else is refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, SqlitePool};

/// What a database is: whose it is, and the schemas that it has had.
pub struct Schema {
    /// In the file's header, so that a database of another program is not taken for ours.
    pub application_id: i32,
    /// One for each schema; its place, counted from one, is the schema's number.
    pub migrations: &'static [&'static str],
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the database {path} can't be used: {why}")]
    Unusable { path: String, why: String },
    #[error("the database {path} was written by a newer version of Tombolo (schema {found}, this one knows {known})")]
    Newer { path: String, found: i64, known: i64 },
}

const READERS_MAX: u32 = 4;
const BUSY_MAX: Duration = Duration::from_secs(10);
/// A check of a large database is broken off after this long; what it read until then was whole.
const CHECK_MAX: Duration = Duration::from_secs(10);
/// The log is cut back to this after it was folded into the database.
const LOG_BYTES_MAX: u32 = 64 << 20;

/// The one connection that writes, and a pool of those that read.
pub async fn open(path: &Path, schema: &Schema) -> Result<(SqliteConnection, SqlitePool), OpenError> {
    match fs::metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, schema).await?,
        Err(error) => return Err(unusable(path, error.to_string())),
    }
    look(path, schema)?;
    let options = options(path);
    let fault = |error: sqlx::Error| unusable(path, reason(&error));
    let mut writer = SqliteConnection::connect_with(&options).await.map_err(fault)?;
    check(&mut writer, path).await?;
    migrate(&mut writer, path, schema).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .acquire_timeout(BUSY_MAX)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.read_only(true))
        .await
        .map_err(fault)?;
    Ok((writer, readers))
}

/// Another connection that writes, in place of the one that a failed transaction has left in doubt.
pub async fn writer(path: &Path) -> Result<SqliteConnection, OpenError> {
    let opened = SqliteConnection::connect_with(&options(path)).await;
    opened.map_err(|error| unusable(path, reason(&error)))
}

/// Reads the header before SQLite opens the file, which might already change it (SQLite's file format, section
/// 1.3). SQLite takes an empty file for a new database; here it is one that has lost its content.
fn look(path: &Path, schema: &Schema) -> Result<(), OpenError> {
    let mut header = [0; 100];
    let read = fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut header));
    match read {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(unusable(path, "it is cut short".to_owned()));
        }
        Err(error) => return Err(unusable(path, error.to_string())),
    }
    if header[..16] != *b"SQLite format 3\0" {
        return Err(unusable(path, "it is not a database".to_owned()));
    }
    if header[68..72] != schema.application_id.to_be_bytes() {
        return Err(unusable(path, "it is the database of another program".to_owned()));
    }
    let found = u32::from_be_bytes(header[60..64].try_into().expect("four bytes"));
    known_schema(path, schema, found.into())
}

fn known_schema(path: &Path, schema: &Schema, found: i64) -> Result<(), OpenError> {
    let known = schema.migrations.len() as i64;
    match found > known {
        true => Err(OpenError::Newer { path: path.display().to_string(), found, known }),
        false => Ok(()),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_MAX)
        .pragma("journal_size_limit", LOG_BYTES_MAX.to_string())
}

/// Makes the database under another name and then gives it its own: a file of that name is always whole.
async fn create(path: &Path, schema: &Schema) -> Result<(), OpenError> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    if beside("-wal").exists() {
        let why = "it is missing, though its write-ahead log is there".to_owned();
        return Err(unusable(path, why));
    }
    let draft = beside(".draft");
    for leftover in [draft.clone(), beside(".draft-journal")] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(path, error.to_string())),
            _ => {}
        }
    }
    let options = options(&draft).journal_mode(SqliteJournalMode::Delete).create_if_missing(true);
    let fault = |error: sqlx::Error| unusable(path, reason(&error));
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(fault)?;
    let id = AssertSqlSafe(format!("PRAGMA application_id = {}", schema.application_id));
    sqlx::raw_sql(id).execute(&mut connection).await.map_err(fault)?;
    migrate(&mut connection, path, schema).await?;
    connection.close().await.map_err(fault)?;
    let named = fs::rename(&draft, path).and_then(|()| match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    });
    named.map_err(|error| unusable(path, error.to_string()))
}

async fn check(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let fault = |error: sqlx::Error| unusable(path, reason(&error));
    let until = Instant::now() + CHECK_MAX;
    connection.lock_handle().await.map_err(fault)?.set_progress_handler(10_000, move || Instant::now() < until);
    let checked = sqlx::query_scalar::<_, String>("PRAGMA quick_check(1)").fetch_one(&mut *connection).await;
    connection.lock_handle().await.map_err(fault)?.remove_progress_handler();
    match checked {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(unusable(path, format!("it is damaged ({verdict})"))),
        Err(_) if Instant::now() >= until => {
            tracing::info!("the database is large; not all of it was checked");
            Ok(())
        }
        Err(error) => Err(fault(error)),
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &Path, schema: &Schema) -> Result<(), OpenError> {
    let fault = |error: sqlx::Error| unusable(path, reason(&error));
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await.map_err(fault)?;
    known_schema(path, schema, found)?;
    for (number, migration) in (1..).zip(schema.migrations).filter(|(number, _)| *number > found) {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(fault)?;
        sqlx::raw_sql(*migration).execute(&mut *transaction).await.map_err(fault)?;
        let numbered = AssertSqlSafe(format!("PRAGMA user_version = {number}"));
        sqlx::raw_sql(numbered).execute(&mut *transaction).await.map_err(fault)?;
        transaction.commit().await.map_err(fault)?;
    }
    Ok(())
}

fn unusable(path: &Path, why: String) -> OpenError {
    OpenError::Unusable { path: path.display().to_string(), why }
}

fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        error => error.to_string(),
    }
}
