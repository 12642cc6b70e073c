"""Servers whose files cannot grow for a while, as on a disk that is full or fails."""

import resource

import grpc
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from outlastapi.script.v1 import script_pb2

SECONDS = 2.5
"""How long callers wait while no write succeeds."""


def test_what_is_accepted_while_the_disk_fails_now_and_then_is_done_when_it_works(serve, folder):
    server = serve("--script")
    first = server.run_script()
    done = server.result(first)
    slow = server.run_script({"sleep": {"seconds": 1}})
    accepted, refused = [], []
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    room = (folder / "outlast.db-wal").stat().st_size + 50_000
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, limits[1]))
    while not refused:
        try:
            start = script_pb2.RunScriptRequest()
            accepted.append(server.script.RunScript(start, timeout=SECONDS).name)
        except grpc.RpcError as error:
            refused.append(error)
    assert server.get(first) == done
    listed = server.operations.ListOperations(operations_pb2.ListOperationsRequest(page_size=1000))
    assert {operation.name for operation in listed.operations} >= {first, slow, *accepted}
    assert refused[0].code() is grpc.StatusCode.UNAVAILABLE
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(refused[0]).details[0].Unpack(info)
    assert info.reason == "STORE_UNAVAILABLE"

    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    for name in (slow, *accepted, server.run_script()):
        assert server.result(name).HasField("response")
    server.terminate()
    assert server.process.wait(30) == 0
