"""Servers whose store another program keeps locked."""

import sqlite3
from contextlib import closing, contextmanager

import grpc
import pytest
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from outlastapi.script.v1 import script_pb2

from outlast.stores.sqlite.connection import BUSY_TIMEOUT_SECONDS


@contextmanager
def locked(path):
    """Hold the lock that a program takes to write to an SQLite file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def unanswerable(call):
    """Return the reason that a call fails with, if it is one to try again."""
    with pytest.raises(grpc.RpcError) as refused:
        call.result()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(refused.value).details[0].Unpack(info)
    return info.reason


@pytest.mark.parametrize("more", [0.2, 0.6, BUSY_TIMEOUT_SECONDS + 0.1])
def test_a_call_is_answered_before_its_deadline_however_long_the_store_takes(serve, folder, more):
    server = serve("--script")
    name = server.run_script()
    server.result(name)
    operations, timeout = server.operations, BUSY_TIMEOUT_SECONDS + more
    with locked(folder / "outlast.db"):
        calls = [
            server.script.RunScript.future(script_pb2.RunScriptRequest(), timeout=timeout),
            operations.CancelOperation.future(
                operations_pb2.CancelOperationRequest(name=name), timeout=timeout
            ),
            operations.DeleteOperation.future(
                operations_pb2.DeleteOperationRequest(name=name), timeout=timeout
            ),
        ]
        assert server.get(name).done
        assert {unanswerable(call) for call in calls} == {"STORE_UNAVAILABLE"}
    assert server.result(server.run_script()).done
