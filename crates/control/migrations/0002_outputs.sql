-- What runs have made, by name: one row for each output of a job that succeeded. The primary key finds the newest
-- of each name, and all of one name, without reading anything else.

CREATE TABLE outputs (
    project TEXT NOT NULL,
    output TEXT NOT NULL,
    -- The run's.
    number INTEGER NOT NULL,
    stage TEXT NOT NULL,
    version TEXT NOT NULL,
    at INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    PRIMARY KEY (project, output, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX outputs_by_output ON outputs (output, project, number);
CREATE INDEX outputs_by_version ON outputs (version);
CREATE INDEX datasets_by_version ON datasets (version);

INSERT INTO outputs (project, output, number, stage, version, at, cached)
SELECT r.project, made.key, r.number, w.name, made.value ->> '$.version',
       w.record ->> '$.state.at', coalesce(w.record ->> '$.state.cached', 0)
FROM workloads AS w
JOIN runs AS r ON r.id = w.run,
     json_each(w.record, '$.outputs') AS made
WHERE w.record ->> '$.state.state' = 'succeeded';
