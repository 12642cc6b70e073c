-- One redrive of an operation at a time, unless it was deleted. What is done has no ready_time.
CREATE UNIQUE INDEX operations_redriving ON operations (retried_from)
    WHERE retried_from <> '' AND ready_time IS NOT NULL AND deleted = 0;

-- Whether an operation was redriven at all.
CREATE INDEX operations_redriven ON operations (retried_from) WHERE retried_from <> '';
