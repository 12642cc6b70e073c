"""Servers that end: what becomes of calls that they have taken up, and of those that they have not."""

import asyncio
import errno
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc

from outlast.server import app
from outlast_script import ScriptService

CALLERS = 20


class Slow(imaging_pb2_grpc.ImagingServiceServicer):
    """Answers when it is told to."""

    def __init__(self):
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def GetImage(self, request, context):
        self.asked.set()
        await self.go.wait()
        return imaging_pb2.Image(name=request.name)


async def test_a_server_that_ends_answers_the_calls_that_it_has_and_refuses_others(
    serving, monkeypatch
):
    monkeypatch.setattr(app, "_CLOSE_SECONDS", 20)
    servicer = Slow()
    async with serving(ScriptService(), servicer) as client:
        stub = imaging_pb2_grpc.ImagingServiceStub(client.channel)
        answer = stub.GetImage(imaging_pb2.GetImageRequest(name="images/1"), timeout=20)
        await servicer.asked.wait()
        stopping = asyncio.ensure_future(client.server.__aexit__(None, None, None))
        while (refusal := await client.refused(client.get("operations/any"))).info.reason != (
            "SERVER_STOPPING"
        ):
            assert refusal.code is grpc.StatusCode.NOT_FOUND
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        servicer.go.set()
        assert (await answer).name == "images/1"
        await stopping


async def test_calls_that_are_not_taken_up_when_a_server_ends_may_be_tried_again(
    serving, monkeypatch
):
    busy, find = threading.Event(), app.connections_to

    def found(address):
        return late(find(address))

    def late(connections):
        """Keep the event loop from taking up the calls that come for half a second."""
        busy.set()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
        yield from connections

    monkeypatch.setattr(app, "connections_to", found)
    async with serving(ScriptService()) as client:
        with (
            grpc.insecure_channel(client.server.address) as channel,
            ThreadPoolExecutor(CALLERS + 1) as pool,
        ):
            stub = operations_pb2_grpc.OperationsStub(channel)
            request = operations_pb2.GetOperationRequest(name="operations/any")

            def code():
                error = stub.GetOperation.future(request, timeout=20).exception()
                return error.code()

            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(pool, code) is grpc.StatusCode.NOT_FOUND
            calls = [pool.submit(lambda: busy.wait(20) and code()) for _ in range(CALLERS)]
            await client.server.__aexit__(None, None, None)
            codes = await asyncio.gather(*map(asyncio.wrap_future, calls))
        assert set(codes) == {grpc.StatusCode.UNAVAILABLE}


async def test_nobody_connects_any_more_to_a_server_that_hangs_up(serving, monkeypatch):
    find, connected = app.connections_to, []

    def found(address):
        host, _, port = address.rpartition(":")
        with socket.socket() as caller:
            connected.append(caller.connect_ex((host, int(port))))
        return find(address)

    monkeypatch.setattr(app, "connections_to", found)
    async with serving(ScriptService()) as client:
        await client.server.__aexit__(None, None, None)
    assert connected == [errno.ECONNREFUSED]
