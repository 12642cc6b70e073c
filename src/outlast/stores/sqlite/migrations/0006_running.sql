-- What runs, to be counted for methods that have a limit, whatever waits; the state is there
-- for that too.
CREATE INDEX operations_running ON operations (method, ready_time, state)
    WHERE state = 'RUNNING';
