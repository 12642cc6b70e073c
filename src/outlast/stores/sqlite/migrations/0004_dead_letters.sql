-- Dead letters of every parent, in the order in which they are listed.
DROP INDEX operations_dead;
CREATE INDEX operations_dead ON operations (create_time DESC, name)
    WHERE dead_letter = 1 AND deleted = 0;
