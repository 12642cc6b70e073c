"""The `outlast` command: serve, call, and look after the operations of any server."""
