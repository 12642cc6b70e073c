-- How often in a row a lease was lost, and a history in which each lease has its attempt:
-- a lost attempt that does not count gives its number to the next one.

ALTER TABLE operations ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;

-- What may have to run on trial.
CREATE INDEX operations_interrupted ON operations (method, ready_time)
    WHERE ready_time IS NOT NULL AND interruptions > 0;

CREATE TABLE attempts_by_epoch (
    operation INTEGER NOT NULL REFERENCES operations ON DELETE CASCADE,
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    worker TEXT NOT NULL,
    start_time INTEGER NOT NULL,
    end_time INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    error TEXT,
    counted INTEGER NOT NULL,
    PRIMARY KEY (operation, epoch)
) STRICT, WITHOUT ROWID;

-- Until now every attempt counted. Which epoch an earlier one had is not known any more;
-- the latest one had the operation's.
INSERT INTO attempts_by_epoch
SELECT a.operation, iif(a.number = o.attempt, o.lease_epoch, a.number), a.number, a.worker,
    a.start_time, a.end_time, a.outcome, a.error, 1
FROM attempts a JOIN operations o ON o.id = a.operation;

DROP TABLE attempts;
ALTER TABLE attempts_by_epoch RENAME TO attempts;
