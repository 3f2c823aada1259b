-- Versions that nobody names any more and that were under rules: their bytes may still be at sites, and whoever makes
-- them known again gets them under the same rules.

CREATE TABLE forgotten (
    id TEXT PRIMARY KEY NOT NULL,
    record TEXT NOT NULL
) STRICT;
