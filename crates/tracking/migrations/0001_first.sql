-- Experiments, runs and logged models, as MLflow's clients know them. Times are milliseconds since 1970.

CREATE TABLE experiments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    artifact_location TEXT NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
);

CREATE TABLE experiment_tags (
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (experiment, key)
) WITHOUT ROWID;

CREATE TABLE runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    name TEXT NOT NULL,
    user TEXT NOT NULL,
    status TEXT NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER,
    deleted INTEGER NOT NULL DEFAULT 0,
    artifact_uri TEXT NOT NULL,
    -- The workload whose token made it; none where a person did.
    owner TEXT
);
CREATE INDEX runs_by_start ON runs (experiment, started DESC, id);
CREATE INDEX runs_by_owner ON runs (owner) WHERE owner IS NOT NULL;

-- A point that is logged twice is there once. A value that is no number is 0 with `nan` set, since SQLite has none.
CREATE TABLE metrics (
    run INTEGER NOT NULL REFERENCES runs (number),
    key TEXT NOT NULL,
    step INTEGER NOT NULL,
    at INTEGER NOT NULL,
    value REAL NOT NULL,
    nan INTEGER NOT NULL DEFAULT 0,
    model TEXT NOT NULL DEFAULT '',
    dataset TEXT NOT NULL DEFAULT '',
    digest TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, key, step, at, value, nan)
) WITHOUT ROWID;

-- Of each metric the point with the highest step, then time, then value.
CREATE TABLE latest_metrics (
    run INTEGER NOT NULL REFERENCES runs (number),
    key TEXT NOT NULL,
    step INTEGER NOT NULL,
    at INTEGER NOT NULL,
    value REAL NOT NULL,
    nan INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;

CREATE TABLE params (
    run INTEGER NOT NULL REFERENCES runs (number),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE INDEX params_by_value ON params (key, value);

CREATE TABLE tags (
    run INTEGER NOT NULL REFERENCES runs (number),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE INDEX tags_by_value ON tags (key, value);

CREATE TABLE datasets (
    id INTEGER PRIMARY KEY,
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    source_type TEXT NOT NULL,
    source TEXT NOT NULL,
    schema TEXT,
    profile TEXT,
    UNIQUE (experiment, name, digest)
);

CREATE TABLE dataset_inputs (
    run INTEGER NOT NULL REFERENCES runs (number),
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    -- A JSON list of {key, value}.
    tags TEXT NOT NULL,
    PRIMARY KEY (run, dataset)
) WITHOUT ROWID;

CREATE TABLE models (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    name TEXT NOT NULL,
    model_type TEXT NOT NULL,
    source_run TEXT NOT NULL,
    status TEXT NOT NULL,
    status_message TEXT NOT NULL DEFAULT '',
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    artifact_uri TEXT NOT NULL,
    owner TEXT
);
CREATE INDEX models_by_experiment ON models (experiment, created DESC, id);
CREATE INDEX metrics_by_model ON metrics (model) WHERE model <> '';

CREATE TABLE model_params (
    model INTEGER NOT NULL REFERENCES models (number),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (model, key)
) WITHOUT ROWID;

CREATE TABLE model_tags (
    model INTEGER NOT NULL REFERENCES models (number),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (model, key)
) WITHOUT ROWID;

-- Models that a run read (`input`) or made.
CREATE TABLE model_links (
    run INTEGER NOT NULL REFERENCES runs (number),
    model TEXT NOT NULL,
    input INTEGER NOT NULL,
    step INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, model, input)
) WITHOUT ROWID;

-- Where a run names no experiment. MLflow's clients know it by this number.
INSERT INTO experiments (id, name, artifact_location, created, updated)
VALUES (0, 'Default', 'mlflow-artifacts:/0', 0, 0);

-- Up to which of the control plane's events the ends of workloads were taken over.
CREATE TABLE followed (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    event INTEGER NOT NULL
);
INSERT INTO followed (one, event) VALUES (1, 0);
