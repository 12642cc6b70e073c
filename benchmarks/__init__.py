"""Measurements: Outlast against a bare grpc.aio handler, in one run on one machine."""
