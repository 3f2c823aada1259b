-- The site that keeps what people have logged to a run or a model. What a workload has logged is where it was.
CREATE TABLE artifact_homes (
    -- The id of a run or a model; a model's begins with `m-`.
    root TEXT PRIMARY KEY,
    site TEXT NOT NULL
) WITHOUT ROWID;
