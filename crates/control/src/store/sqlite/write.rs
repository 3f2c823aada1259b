//! One batch of writes as statements: neighbours of one kind go into the database many rows at a time.

use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};
use tombolo_core::VersionId;
use tombolo_core::sync::Outcome;
use tombolo_core::workload::State;
use tombolo_core::world::{RunState, WorkloadRecord};

use super::{datasets, failed};
use crate::store::{StoreError, TokenRecord, Write};

/// Rows of one statement, from the largest: few different statements, so that all stay prepared.
const ROWS: [usize; 4] = [64, 16, 4, 1];

/// A version goes where nothing names it.
const UNNAMED: &str = "DELETE FROM versions WHERE id = ?1 \
    AND NOT EXISTS (SELECT 1 FROM dataset_versions WHERE version = ?1) \
    AND NOT EXISTS (SELECT 1 FROM outputs WHERE version = ?1) RETURNING record";
/// What is kept of a version that is forgotten, if it was under rules: those, and what made it.
const FORGET: &str = "INSERT INTO forgotten (id, record) \
    SELECT ?1, json_remove(?2, '$.replicas', '$.facts') WHERE json_extract(?2, '$.residency') <> '[]'";

/// A table's insert without its rows.
pub(super) struct Insert {
    pub head: &'static str,
    pub columns: usize,
    pub tail: &'static str,
}

pub(super) enum Cell {
    Text(String),
    Maybe(Option<String>),
    Int(i64),
    Blob(Vec<u8>),
}

pub(super) enum Step {
    Insert(&'static Insert, Vec<Cell>),
    Run(&'static str, Vec<Cell>),
    Drop(VersionId),
}

/// What the steps of a batch came to.
#[derive(Default)]
pub(super) struct Performed {
    /// The number of the last event, if there was any.
    pub last_event: Option<i64>,
    pub dropped: Vec<VersionId>,
}

static SITES: Insert = Insert {
    head: "INSERT INTO sites (name, record) VALUES ",
    columns: 2,
    tail: " ON CONFLICT (name) DO UPDATE SET record = excluded.record",
};
static LINKS: Insert = Insert {
    head: "INSERT INTO links (source, target, record) VALUES ",
    columns: 3,
    tail: " ON CONFLICT (source, target) DO UPDATE SET record = excluded.record",
};
static RUNS: Insert = Insert {
    head: "INSERT INTO runs (id, project, number, live, record) VALUES ",
    columns: 5,
    tail: " ON CONFLICT (id) DO UPDATE SET live = excluded.live, record = excluded.record",
};
static WORKLOADS: Insert = Insert {
    head: "INSERT INTO workloads (run, name, epoch, placed, final, record) VALUES ",
    columns: 6,
    tail: " ON CONFLICT (run, name) DO UPDATE SET epoch = excluded.epoch, placed = excluded.placed, \
           final = excluded.final, record = excluded.record",
};
static VERSIONS: Insert = Insert {
    head: "INSERT INTO versions (id, record) VALUES ",
    columns: 2,
    tail: " ON CONFLICT (id) DO UPDATE SET record = excluded.record",
};
static SKETCHES: Insert = Insert {
    head: "INSERT INTO sketches (version, record) VALUES ",
    columns: 2,
    tail: " ON CONFLICT (version) DO NOTHING",
};
static HISTORY: Insert = Insert {
    head: "INSERT INTO history (project, workload, record) VALUES ",
    columns: 3,
    tail: " ON CONFLICT (project, workload) DO UPDATE SET record = excluded.record",
};
static CACHED: Insert = Insert {
    head: "INSERT INTO cached (key, made_by, outputs) VALUES ",
    columns: 3,
    tail: " ON CONFLICT (key) DO UPDATE SET made_by = excluded.made_by, outputs = excluded.outputs",
};
static EVENTS: Insert =
    Insert { head: "INSERT INTO events (at, run, workload, epoch, state, site, text) VALUES ", columns: 7, tail: "" };
static OUTPUTS: Insert = Insert {
    head: "INSERT INTO outputs (project, output, number, stage, version, at, cached) VALUES ",
    columns: 7,
    tail: " ON CONFLICT (project, output, number) DO UPDATE SET stage = excluded.stage, version = excluded.version, \
           at = excluded.at, cached = excluded.cached",
};
static TOKENS: Insert = Insert {
    head: "INSERT INTO tokens (id, hash, name, role, created, expires, revoked) VALUES ",
    columns: 7,
    tail: " ON CONFLICT (id) DO UPDATE SET hash = excluded.hash, name = excluded.name, role = excluded.role, \
           created = excluded.created, expires = excluded.expires, revoked = excluded.revoked",
};
static JOIN_TOKENS: Insert =
    Insert { head: "INSERT INTO join_tokens (hash, site, expires) VALUES ", columns: 3, tail: "" };
static SECRETS: Insert = Insert {
    head: "INSERT INTO secrets (name, sealed, updated) VALUES ",
    columns: 3,
    tail: " ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, updated = excluded.updated",
};
static ENDPOINT_TOKENS: Insert = Insert {
    head: "INSERT INTO endpoint_tokens (id, expires, record) VALUES ",
    columns: 3,
    tail: " ON CONFLICT (id) DO UPDATE SET expires = excluded.expires, record = excluded.record",
};
static AUDIT: Insert =
    Insert { head: "INSERT INTO audit (at, who, what, subject, outcome, detail) VALUES ", columns: 6, tail: "" };
static IDEMPOTENT: Insert = Insert {
    head: "INSERT INTO idempotent (token, key, request_hash, status, body, at) VALUES ",
    columns: 6,
    tail: " ON CONFLICT (token, key) DO NOTHING",
};

/// The statements of a batch, in its order. What can't be written is found here, before anything is.
pub(super) fn steps(batch: Vec<Write>) -> Result<Vec<Step>, StoreError> {
    let mut steps = Vec::with_capacity(batch.len());
    // After everything else, so that what is between two workloads does not part their rows.
    let mut named = Vec::new();
    // After all names of the batch, as what is named in it stays.
    let mut dropped = Vec::new();
    for write in batch {
        match &write {
            Write::Workload(record) => name_outputs(record, &mut named)?,
            Write::DropVersion { version } => {
                dropped.push(Step::Drop(*version));
                continue;
            }
            _ => {}
        }
        steps_of(write, &mut steps)?;
    }
    steps.append(&mut named);
    steps.append(&mut dropped);
    Ok(steps)
}

fn steps_of(write: Write, steps: &mut Vec<Step>) -> Result<(), StoreError> {
    let step = match write {
        Write::Site(site) => Step::Insert(&SITES, vec![text(&site.info.id), json(&site)?]),
        Write::Link { from, to, link } => Step::Insert(&LINKS, vec![text(from), text(to), json(&link)?]),
        Write::Run(run) => {
            let live = matches!(run.state, RunState::Active | RunState::Serving);
            let cells =
                vec![text(&run.id), text(run.id.project()), int(run.id.number())?, Cell::Int(live.into()), json(&run)?];
            Step::Insert(&RUNS, cells)
        }
        Write::Workload(record) => Step::Insert(&WORKLOADS, workload(&record)?),
        Write::Version { id, record } => Step::Insert(&VERSIONS, vec![text(id), json(&record)?]),
        Write::Sketch { version, sketch } => Step::Insert(&SKETCHES, vec![text(version), json(&sketch)?]),
        Write::History { project, workload, past } => {
            Step::Insert(&HISTORY, vec![text(project), text(workload), json(&past)?])
        }
        Write::Cached { key, made_by, outputs } => {
            Step::Insert(&CACHED, vec![Cell::Text(key), text(made_by), json(&outputs)?])
        }
        Write::Event(event) => {
            let cells = vec![
                Cell::Int(event.at.0),
                text(&event.run),
                maybe(&event.workload),
                int(event.epoch.0)?,
                Cell::Text(event.state),
                maybe(&event.site),
                Cell::Maybe(event.text),
            ];
            Step::Insert(&EVENTS, cells)
        }
        Write::Dataset { name, last, rules } => datasets::head(&name, last, &rules)?,
        Write::Naming(naming) => return datasets::naming(&naming, steps),
        Write::DropOutput { project, output, number } => Step::Run(
            "DELETE FROM outputs WHERE project = ? AND output = ? AND number = ?",
            vec![text(project), text(output), int(number)?],
        ),
        Write::DropVersion { version } => Step::Drop(version),
        Write::Token(token) => Step::Insert(&TOKENS, token_cells(*token)),
        Write::RevokeToken { id } => Step::Run("UPDATE tokens SET revoked = 1 WHERE id = ?", vec![Cell::Text(id)]),
        Write::JoinToken { hash, site, expires } => {
            Step::Insert(&JOIN_TOKENS, vec![Cell::Text(hash), maybe(&site), Cell::Int(expires.0)])
        }
        Write::SpendJoinToken { hash } => Step::Run("DELETE FROM join_tokens WHERE hash = ?", vec![Cell::Text(hash)]),
        Write::Secret { name, sealed, updated } => {
            Step::Insert(&SECRETS, vec![text(name), Cell::Blob(sealed), Cell::Int(updated.0)])
        }
        Write::DropSecret { name } => Step::Run("DELETE FROM secrets WHERE name = ?", vec![text(name)]),
        Write::EndpointToken(token) => {
            Step::Insert(&ENDPOINT_TOKENS, vec![text(&token.id), Cell::Int(token.expires.0), json(&token)?])
        }
        Write::DropEndpointToken { id } => Step::Run("DELETE FROM endpoint_tokens WHERE id = ?", vec![Cell::Text(id)]),
        Write::Audit(entry) => {
            let words = [entry.who, entry.what, entry.on, entry.outcome].map(Cell::Text);
            let cells = std::iter::once(Cell::Int(entry.at)).chain(words).chain([Cell::Maybe(entry.detail)]);
            Step::Insert(&AUDIT, cells.collect())
        }
        Write::Prune { before } => {
            steps.push(Step::Run("DELETE FROM join_tokens WHERE expires < ?", vec![Cell::Int(before.0)]));
            steps.push(Step::Run("DELETE FROM endpoint_tokens WHERE expires < ?", vec![Cell::Int(before.0)]));
            Step::Run("DELETE FROM idempotent WHERE at < ?", vec![Cell::Int(before.0)])
        }
        Write::Idempotent { token, key, request_hash, status, body, at } => {
            let [token, key, request_hash, body] = [token, key, request_hash, body].map(Cell::Text);
            Step::Insert(&IDEMPOTENT, vec![token, key, request_hash, Cell::Int(status.into()), body, Cell::Int(at.0)])
        }
    };
    steps.push(step);
    Ok(())
}

/// The outputs of a job that succeeded get their names, and so do those that are kept although they are not what they
/// are expected to be; what another has left is nobody's to use.
fn name_outputs(record: &WorkloadRecord, steps: &mut Vec<Step>) -> Result<(), StoreError> {
    let (at, cached) = match &record.state {
        State::Succeeded { at, cached } => (at, *cached),
        State::Failed { at, outcome: Outcome::ExpectationsFailed { .. }, .. } => (at, false),
        _ => return Ok(()),
    };
    let run = &record.id.run;
    for (output, made) in &record.outputs {
        let cells = vec![
            text(run.project()),
            text(output),
            int(run.number())?,
            text(&record.id.name),
            text(made.version),
            Cell::Int(at.0),
            Cell::Int(cached.into()),
        ];
        steps.push(Step::Insert(&OUTPUTS, cells));
    }
    Ok(())
}

fn workload(record: &WorkloadRecord) -> Result<Vec<Cell>, StoreError> {
    let placed = record.state.site().is_some();
    Ok(vec![
        text(&record.id.run),
        text(&record.id.name),
        int(record.newest_epoch().0)?,
        Cell::Int(placed.into()),
        Cell::Int(record.is_over().into()),
        json(record)?,
    ])
}

fn token_cells(TokenRecord { info, hash }: TokenRecord) -> Vec<Cell> {
    vec![
        Cell::Text(info.id),
        Cell::Text(hash),
        Cell::Text(info.name),
        text(info.role),
        Cell::Int(info.created),
        Cell::Int(info.expires),
        Cell::Int(info.revoked.into()),
    ]
}

pub(super) fn text(value: impl ToString) -> Cell {
    Cell::Text(value.to_string())
}

fn maybe(value: &Option<impl ToString>) -> Cell {
    Cell::Maybe(value.as_ref().map(ToString::to_string))
}

pub(super) fn int(value: u64) -> Result<Cell, StoreError> {
    let fault = |_| StoreError::Malformed(format!("the number {value} is too large"));
    i64::try_from(value).map(Cell::Int).map_err(fault)
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<Cell, StoreError> {
    serde_json::to_string(value).map(Cell::Text).map_err(|error| StoreError::Malformed(error.to_string()))
}

/// Performs the steps within the caller's transaction.
pub(super) async fn perform(connection: &mut SqliteConnection, steps: Vec<Step>) -> Result<Performed, StoreError> {
    let (mut told, mut dropped) = (false, Vec::new());
    let mut steps = steps.into_iter().peekable();
    while let Some(step) = steps.next() {
        let (insert, first) = match step {
            Step::Run(sql, cells) => {
                let query = cells.into_iter().fold(sqlx::query(sql), bind);
                query.execute(&mut *connection).await.map_err(failed)?;
                continue;
            }
            Step::Drop(version) => {
                if drop_version(connection, version).await? {
                    dropped.push(version);
                }
                continue;
            }
            Step::Insert(insert, cells) => (insert, cells),
        };
        told |= std::ptr::eq(insert, &EVENTS);
        let mut rows = vec![first];
        while let Some(Step::Insert(_, cells)) =
            steps.next_if(|step| matches!(step, Step::Insert(next, _) if std::ptr::eq(*next, insert)))
        {
            rows.push(cells);
        }
        insert_all(connection, insert, rows).await?;
    }
    if !told {
        return Ok(Performed { last_event: None, dropped });
    }
    let last = sqlx::query_scalar("SELECT max(number) FROM events").fetch_one(connection).await.map_err(failed)?;
    Ok(Performed { last_event: Some(last), dropped })
}

/// Drops a version that nothing names, with its sketch, and keeps the rules that it was under: whether it did.
async fn drop_version(connection: &mut SqliteConnection, version: VersionId) -> Result<bool, StoreError> {
    let id = version.to_string();
    let gone: Option<String> =
        sqlx::query_scalar(UNNAMED).bind(&id).fetch_optional(&mut *connection).await.map_err(failed)?;
    let Some(record) = gone else { return Ok(false) };
    for (sql, second) in [
        ("DELETE FROM sketches WHERE version = ?1", None),
        ("DELETE FROM forgotten WHERE id = ?1", None),
        (FORGET, Some(&record)),
    ] {
        let query = sqlx::query(sql).bind(&id);
        let query = second.into_iter().fold(query, |query, record| query.bind(record));
        query.execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(true)
}

async fn insert_all(
    connection: &mut SqliteConnection,
    insert: &Insert,
    rows: Vec<Vec<Cell>>,
) -> Result<(), StoreError> {
    let mut left = rows.len();
    let mut rows = rows.into_iter();
    for size in ROWS {
        while left >= size {
            left -= size;
            let sql = AssertSqlSafe(insert.sql(size));
            let query = rows.by_ref().take(size).flatten().fold(sqlx::query(sql), bind);
            query.execute(&mut *connection).await.map_err(failed)?;
        }
    }
    Ok(())
}

impl Insert {
    fn sql(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        format!("{}{}{}", self.head, vec![row; rows].join(", "), self.tail)
    }
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

fn bind(query: Query<'_>, cell: Cell) -> Query<'_> {
    match cell {
        Cell::Text(text) => query.bind(text),
        Cell::Maybe(text) => query.bind(text),
        Cell::Int(int) => query.bind(int),
        Cell::Blob(blob) => query.bind(blob),
    }
}
