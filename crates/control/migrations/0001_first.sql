-- Records are JSON as the core's types write them; columns exist for what is listed, searched or joined.

CREATE TABLE sites (
    name TEXT PRIMARY KEY NOT NULL,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE links (
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (source, target)
) STRICT;

CREATE TABLE runs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    project TEXT NOT NULL,
    number INTEGER NOT NULL,
    live INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX runs_by_project ON runs (project, place);
CREATE INDEX runs_by_number ON runs (project, number);
CREATE INDEX runs_live ON runs (id) WHERE live = 1;

CREATE TABLE workloads (
    run TEXT NOT NULL,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    placed INTEGER NOT NULL,
    final INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (run, name)
) STRICT;
CREATE INDEX workloads_live ON workloads (run) WHERE final = 0;

CREATE TABLE versions (
    id TEXT PRIMARY KEY NOT NULL,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE history (
    project TEXT NOT NULL,
    workload TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (project, workload)
) STRICT;

CREATE TABLE cached (
    key TEXT PRIMARY KEY NOT NULL,
    made_by TEXT NOT NULL,
    outputs TEXT NOT NULL
) STRICT;

CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    run TEXT NOT NULL,
    workload TEXT,
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL,
    site TEXT,
    text TEXT
) STRICT;
CREATE INDEX events_by_run ON events (run, number);

CREATE TABLE datasets (
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE tokens (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    hash TEXT UNIQUE NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    revoked INTEGER NOT NULL
) STRICT;

CREATE TABLE join_tokens (
    hash TEXT PRIMARY KEY NOT NULL,
    site TEXT,
    expires INTEGER NOT NULL
) STRICT;

CREATE TABLE secrets (
    name TEXT PRIMARY KEY NOT NULL,
    sealed BLOB NOT NULL,
    updated INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    subject TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT
) STRICT;

-- What happened stays, whoever holds the database's connection.
CREATE TRIGGER audit_is_not_rewritten BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_is_not_erased BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TABLE idempotent (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (token, key)
) STRICT;
CREATE INDEX idempotent_by_age ON idempotent (at);
