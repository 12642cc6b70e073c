"""Measurements on PostgreSQL: Outlast beside queues that keep their work there, and its nodes."""

import os

# Processes are started while gRPC is in use; none of them goes on with what it inherited.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
