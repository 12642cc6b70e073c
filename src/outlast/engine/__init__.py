"""Runs operations: use cases, the executor, waiters, retention. Knows no transport and no store."""
