"""An operation that kills its process whenever it runs, and its neighbours."""

from datetime import timedelta

import grpc
from outlastapi.script.v1 import script_pb2
from outlastapi.v1 import operations_admin_pb2, operations_admin_pb2_grpc

SERVICE = """
import outlast
from outlast_script.run import Run
from outlastapi.script.v1 import script_pb2_grpc


class Thrice(script_pb2_grpc.ScriptServiceServicer):
    @outlast.long_running(retry=outlast.RetryPolicy(max_attempts=3))
    async def RunScript(self, request, operation):
        run = Run(operation)
        for step in request.steps:
            await run.take(step)
        return run.response
"""
ARGUMENTS = ("--service", "thrice:Thrice", "--lease", "1s")
KILLED = 137
ATTEMPTS = 3
FORGIVEN = 2
"""The losses before an operation is on trial."""
OUTLIVED = 1
"""A trial that it may outlive on a machine that is slow: then the next one is longer."""


def test_a_poison_ends_as_a_dead_letter_and_costs_no_neighbour_an_attempt(serve, folder, state_of):
    (folder / "thrice.py").write_text(SERVICE, encoding="utf-8")
    server = serve(*ARGUMENTS)
    innocents = [server.run_script({"sleep": timedelta(milliseconds=700)}) for _ in range(5)]
    poison = server.run_script({"sleep": timedelta(milliseconds=500)}, {"kill_attempts": {}})

    deaths = 0
    while True:
        try:
            dead = server.result(poison)
        except grpc.RpcError:
            assert server.process.wait(30) == KILLED
            deaths += 1
            assert deaths <= FORGIVEN + OUTLIVED + ATTEMPTS
            server = serve(*ARGUMENTS)
        else:
            break

    assert deaths >= FORGIVEN + ATTEMPTS
    assert state_of(dead).dead_letter
    assert state_of(dead).attempt == ATTEMPTS
    for name in innocents:
        answer = script_pb2.RunScriptResponse()
        assert server.result(name).response.Unpack(answer)
        assert answer.attempt == 1, attempts_of(server, name)
    attempts = attempts_of(server, poison)
    assert [each.outcome for each in attempts] == [attempts[0].LOST] * deaths
    assert sum(each.counted for each in attempts) == ATTEMPTS
    assert all(not each.counted for name in innocents for each in attempts_of(server, name)[:-1])


def attempts_of(server, name):
    admin = operations_admin_pb2_grpc.OperationsAdminServiceStub(server.channel)
    request = operations_admin_pb2.ListOperationAttemptsRequest(name=name)
    return list(admin.ListOperationAttempts(request, timeout=30).attempts)
