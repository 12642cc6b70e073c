-- One row is an operation and its queue entry. Times are microseconds since 1970 in UTC.

CREATE TABLE operations (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    parent TEXT NOT NULL,
    method TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    request_digest BLOB NOT NULL,
    target TEXT NOT NULL,
    exclusive_key TEXT NOT NULL,
    max_attempts INTEGER NOT NULL,
    timeout INTEGER,
    retention INTEGER NOT NULL,
    retried_from TEXT NOT NULL,
    state TEXT NOT NULL,
    revision INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    lease_epoch INTEGER NOT NULL,
    ready_time INTEGER,
    worker TEXT NOT NULL,
    update_time INTEGER NOT NULL,
    start_time INTEGER,
    attempt_start_time INTEGER,
    deadline INTEGER,
    end_time INTEGER,
    expire_time INTEGER,
    cancel_requested_time INTEGER,
    dead_letter INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    progress TEXT,
    metadata_type TEXT NOT NULL,
    metadata_value BLOB NOT NULL,
    last_error TEXT,
    error TEXT,
    response_type TEXT,
    response_value BLOB
) STRICT;

CREATE UNIQUE INDEX operations_name ON operations (name);

-- Idempotent starts. A deleted operation has given its request_id back.
CREATE UNIQUE INDEX operations_request ON operations (request_id, method, parent, principal)
    WHERE request_id <> '';

-- Work on one resource at a time. What is done has no ready_time.
CREATE UNIQUE INDEX operations_exclusive ON operations (exclusive_key)
    WHERE exclusive_key <> '' AND ready_time IS NOT NULL;

-- What is not done, in the order in which it is taken; the state is there to be counted.
CREATE INDEX operations_ready ON operations (method, ready_time, state)
    WHERE ready_time IS NOT NULL;
CREATE INDEX operations_listed ON operations (parent, create_time DESC, name) WHERE deleted = 0;
CREATE INDEX operations_expired ON operations (expire_time) WHERE expire_time IS NOT NULL;
CREATE INDEX operations_dead ON operations (method) WHERE dead_letter = 1;

-- The request is read once per attempt, and never rewritten with its operation.
CREATE TABLE requests (
    operation INTEGER PRIMARY KEY REFERENCES operations ON DELETE CASCADE,
    type_url TEXT NOT NULL,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE steps (
    operation INTEGER NOT NULL REFERENCES operations ON DELETE CASCADE,
    key TEXT NOT NULL,
    type_url TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (operation, key)
) STRICT, WITHOUT ROWID;

-- Attempts that ended without ending their operation.
CREATE TABLE attempts (
    operation INTEGER NOT NULL REFERENCES operations ON DELETE CASCADE,
    number INTEGER NOT NULL,
    worker TEXT NOT NULL,
    start_time INTEGER NOT NULL,
    end_time INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    error TEXT,
    PRIMARY KEY (operation, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO settings VALUES ('secret', randomblob(32));
