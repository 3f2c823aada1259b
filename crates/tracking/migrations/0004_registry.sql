-- Registered models and their versions.

CREATE TABLE registered (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    description TEXT,
    -- The highest number that a version has had: none is given twice.
    last_version INTEGER NOT NULL DEFAULT 0,
    -- The project whose workload made it; none where a person did.
    project TEXT
);
CREATE INDEX registered_by_update ON registered (updated, name);

CREATE TABLE registered_tags (
    model INTEGER NOT NULL REFERENCES registered (number),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (model, key)
) WITHOUT ROWID;
CREATE INDEX registered_tags_by_value ON registered_tags (key, value);

CREATE TABLE versions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    model INTEGER NOT NULL REFERENCES registered (number),
    version INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    description TEXT,
    user TEXT NOT NULL,
    stage TEXT NOT NULL DEFAULT 'None',
    source TEXT NOT NULL,
    -- Where its bytes are, where the source is another version or a logged model.
    storage TEXT NOT NULL,
    run TEXT NOT NULL,
    run_link TEXT NOT NULL,
    logged_model TEXT NOT NULL,
    -- The workload that registered it; none where a person did.
    owner TEXT,
    UNIQUE (model, version)
);
CREATE INDEX versions_by_run ON versions (run);
CREATE INDEX versions_by_update ON versions (updated DESC);

CREATE TABLE version_tags (
    version INTEGER NOT NULL REFERENCES versions (number),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (version, key)
) WITHOUT ROWID;
CREATE INDEX version_tags_by_value ON version_tags (key, value);

CREATE TABLE registered_aliases (
    model INTEGER NOT NULL REFERENCES registered (number),
    alias TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (model, alias)
) WITHOUT ROWID;
