-- A dataset's name is given to versions as entries with numbers, which stay however many others go. Tags are on versions;
-- rules say, by project, which entries are kept; what lost its name is remembered for those who want it back.

ALTER TABLE datasets RENAME TO names_before;

CREATE TABLE datasets (
    name TEXT PRIMARY KEY NOT NULL,
    -- The highest number given out.
    last INTEGER NOT NULL,
    rules TEXT NOT NULL
) STRICT;

CREATE TABLE dataset_versions (
    dataset TEXT NOT NULL,
    number INTEGER NOT NULL,
    version TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (dataset, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX dataset_versions_by_version ON dataset_versions (version);

CREATE TABLE tags (
    dataset TEXT NOT NULL,
    tag TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (dataset, tag)
) STRICT, WITHOUT ROWID;

CREATE TABLE removed (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    number INTEGER NOT NULL,
    version TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX removed_by_dataset ON removed (dataset, place);

-- The order in which they were listed until now, oldest first. A name whose version is not known any more was left by a
-- version that was dropped while it was being named, and stood for nothing.
INSERT INTO dataset_versions (dataset, number, version, record)
SELECT name, row_number() OVER (PARTITION BY name ORDER BY at, version DESC), version,
       json_object('version', version, 'at', at, 'seen', at)
FROM names_before WHERE version IN (SELECT id FROM versions);
INSERT INTO datasets (name, last, rules) SELECT dataset, count(*), '{}' FROM dataset_versions GROUP BY dataset;
DROP TABLE names_before;
