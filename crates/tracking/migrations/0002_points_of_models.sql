-- Equal points of two models are two: each model has its own.
CREATE TABLE points (
    run INTEGER NOT NULL REFERENCES runs (number),
    key TEXT NOT NULL,
    step INTEGER NOT NULL,
    at INTEGER NOT NULL,
    value REAL NOT NULL,
    nan INTEGER NOT NULL DEFAULT 0,
    model TEXT NOT NULL DEFAULT '',
    dataset TEXT NOT NULL DEFAULT '',
    digest TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, key, step, at, value, nan, model, dataset, digest)
) WITHOUT ROWID;
INSERT INTO points SELECT run, key, step, at, value, nan, model, dataset, digest FROM metrics;
DROP TABLE metrics;
ALTER TABLE points RENAME TO metrics;
CREATE INDEX metrics_by_model ON metrics (model) WHERE model <> '';

-- Whether its own client has begun it. Until then its workload may choose its experiment.
ALTER TABLE runs ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
UPDATE runs SET begun = 1 WHERE status NOT IN ('RUNNING', 'SCHEDULED');
