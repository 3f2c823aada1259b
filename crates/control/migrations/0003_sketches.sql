-- Samples of versions' chunks. Beside the versions, whose records are written anew with each replica.

CREATE TABLE sketches (
    place INTEGER PRIMARY KEY,
    version TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT;
