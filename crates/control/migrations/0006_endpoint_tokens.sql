-- Tokens of services' endpoints, by their hashes: who brings one may use the endpoint, and nothing of the API.

CREATE TABLE endpoint_tokens (
    id TEXT PRIMARY KEY NOT NULL,
    expires INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
