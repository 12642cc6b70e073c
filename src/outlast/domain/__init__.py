"""Frozen data and pure functions: what an operation is and how it may change.

Nothing here does input or output, reads a clock or knows gRPC.
"""
