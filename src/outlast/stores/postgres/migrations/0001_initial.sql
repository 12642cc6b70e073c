-- One row is an operation and its queue entry. Times are microseconds since 1970 in UTC.

CREATE TABLE outlast.operations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL COLLATE "C",
    parent text NOT NULL COLLATE "C",
    method text NOT NULL COLLATE "C",
    create_time bigint NOT NULL,
    principal text NOT NULL COLLATE "C",
    request_id text NOT NULL COLLATE "C",
    request_digest bytea NOT NULL,
    target text NOT NULL,
    exclusive_key text NOT NULL,
    exclusive_digest bytea NOT NULL,
    max_attempts bigint NOT NULL,
    timeout bigint,
    retention bigint NOT NULL,
    retried_from text NOT NULL COLLATE "C",
    state text NOT NULL COLLATE "C",
    revision bigint NOT NULL,
    attempt bigint NOT NULL,
    interruptions bigint NOT NULL,
    lease_epoch bigint NOT NULL,
    ready_time bigint,
    worker text NOT NULL,
    update_time bigint NOT NULL,
    start_time bigint,
    attempt_start_time bigint,
    deadline bigint,
    end_time bigint,
    expire_time bigint,
    cancel_requested_time bigint,
    dead_letter boolean NOT NULL,
    deleted boolean NOT NULL,
    progress text,
    metadata_type text NOT NULL,
    metadata_value bytea NOT NULL,
    last_error text,
    error text,
    response_type text,
    response_value bytea
) WITH (
    -- Rows are rewritten three times and more, and most of that need not touch an index.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

CREATE UNIQUE INDEX operations_name ON outlast.operations (name);

-- Idempotent starts. A deleted operation has given its request_id back.
CREATE UNIQUE INDEX operations_request
    ON outlast.operations (request_id, method, parent, principal) WHERE request_id <> '';

-- Work on one resource at a time, by the SHA-256 of its key. What is done has no ready_time.
CREATE UNIQUE INDEX operations_exclusive ON outlast.operations (exclusive_digest)
    WHERE exclusive_digest <> '' AND ready_time IS NOT NULL;

-- One redrive of an operation at a time, unless it was deleted.
CREATE UNIQUE INDEX operations_redriving ON outlast.operations (retried_from)
    WHERE retried_from <> '' AND ready_time IS NOT NULL AND NOT deleted;
CREATE INDEX operations_redriven ON outlast.operations (retried_from) WHERE retried_from <> '';

-- What is not done, in the order in which it is taken.
CREATE INDEX operations_ready ON outlast.operations (method, ready_time, id)
    WHERE ready_time IS NOT NULL;
CREATE INDEX operations_interrupted ON outlast.operations (method, ready_time, id)
    WHERE ready_time IS NOT NULL AND interruptions > 0;
CREATE INDEX operations_pending ON outlast.operations (method) WHERE state = 'PENDING';

-- What runs, to be counted for methods that have a limit, whatever waits.
CREATE INDEX operations_running ON outlast.operations (method, ready_time, id)
    WHERE state = 'RUNNING';

-- What must not run again, once it is ready.
CREATE INDEX operations_overdue ON outlast.operations (deadline)
    WHERE deadline IS NOT NULL AND ready_time IS NOT NULL;
CREATE INDEX operations_stopping ON outlast.operations (ready_time)
    WHERE cancel_requested_time IS NOT NULL AND ready_time IS NOT NULL;

CREATE INDEX operations_listed ON outlast.operations (parent, create_time DESC, name)
    WHERE NOT deleted;
CREATE INDEX operations_dead ON outlast.operations (create_time DESC, name)
    WHERE dead_letter AND NOT deleted;
CREATE INDEX operations_expired ON outlast.operations (expire_time)
    WHERE expire_time IS NOT NULL;

-- The request is read once per attempt, and never rewritten with its operation.
CREATE TABLE outlast.requests (
    operation bigint PRIMARY KEY REFERENCES outlast.operations ON DELETE CASCADE,
    type_url text NOT NULL,
    value bytea NOT NULL
);

CREATE TABLE outlast.steps (
    operation bigint NOT NULL REFERENCES outlast.operations ON DELETE CASCADE,
    key text NOT NULL COLLATE "C",
    type_url text NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (operation, key)
);

-- Attempts that ended without ending their operation.
CREATE TABLE outlast.attempts (
    operation bigint NOT NULL REFERENCES outlast.operations ON DELETE CASCADE,
    epoch bigint NOT NULL,
    number bigint NOT NULL,
    worker text NOT NULL,
    start_time bigint NOT NULL,
    end_time bigint NOT NULL,
    outcome text NOT NULL,
    error text,
    counted boolean NOT NULL,
    PRIMARY KEY (operation, epoch)
);
