-- What must not run again, once it is ready.
CREATE INDEX operations_overdue ON operations (deadline)
    WHERE deadline IS NOT NULL AND ready_time IS NOT NULL;
CREATE INDEX operations_stopping ON operations (ready_time)
    WHERE cancel_requested_time IS NOT NULL AND ready_time IS NOT NULL;
