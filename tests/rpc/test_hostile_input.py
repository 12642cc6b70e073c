"""Wrong and hostile requests: the right code, details, little work, and a server that lives on."""

import asyncio
import time
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest
from google.longrunning import operations_pb2

from outlast.testing.clock import ManualClock

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
SERVICE = "google.longrunning.Operations"
SCRIPT = "outlastapi.script.v1.ScriptService"
MIB = 1024 * 1024


@pytest.fixture
def serving(serving):
    """Return what opens a server whose time stands still: what sleeps does not wake."""
    return partial(serving, clock=ManualClock())


@asynccontextmanager
async def quick():
    """Fail if what is done here costs a second of processor time, or waits for something.

    Neither depends on how busy the machine is: the servers' clocks do not move.
    """
    before = time.process_time()
    async with asyncio.timeout(10):
        yield
    assert time.process_time() - before < 1


FILTERS = {
    "64 KiB of letters": "a" * 64 * 1024,
    "64 KiB of spaces and a word": " " * 64 * 1024 + "a",
    "64 KiB of quotes": '"' * 64 * 1024,
    "10,000 terms": " AND ".join(["done=true"] * 10_000),
    "10,000 words": "a " * 10_000,
    "500 terms": " OR ".join(["done=true"] * 500),
    "10,000 parentheses": "(" * 10_000 + "done=true" + ")" * 10_000,
    "1,000 parentheses": "(" * 1000 + "done=true" + ")" * 1000,
    "parentheses that do not close": "(" * 8000,
    "10,000 negations": "NOT " * 10_000 + "done=true",
    "1,000 minus signs": "-" * 1000 + "done=true",
    "a path of 10,000 names": "metadata" + ".a" * 10_000 + "=1",
    "a path of 1,000 names": "metadata" + ".operation" * 700 + "=1",
    "a number of 8,000 digits": "attempt=" + "9" * 8000,
    "an exponent beyond measure": "attempt=1e999999999",
    "a duration beyond measure": "metadata.steps_taken=" + "9" * 400 + "s",
    "a date beyond measure": 'create_time>"99999-01-01T00:00:00Z"',
    "SQL": "'; DROP TABLE operations; --",
    "control characters": "\x00\x01\x02\x7f",
    "lone wildcards": "*=*",
    "a file of Python": "__class__.__mro__=1",
}


@pytest.mark.assertion(58, 106, 109)
@pytest.mark.parametrize("filter_", FILTERS.values(), ids=FILTERS.keys())
async def test_a_hostile_filter_is_refused(serving, filter_):
    async with serving() as client:
        await client.finished()
        async with quick():
            refusal = await client.refused(client.page(filter=filter_))
        assert (refusal.code, refusal.field) == (INVALID, "filter")
        assert refusal.info.reason == "INVALID_FILTER"
        assert len(refusal.message) < 1000
        await client.check_alive()


@pytest.mark.parametrize(
    "filter_",
    [
        pytest.param('name="' + "*a" * 4000 + '"', id="wildcards"),
        pytest.param('name="' + "*" * 8000 + '"', id="more wildcards"),
        pytest.param("a" * 8000, id="a long word"),
        pytest.param('"' + "\\\\" * 4000 + '"', id="escapes"),
        pytest.param('error.message="' + "*o*" * 2000 + 'x"', id="wildcards that backtrack"),
    ],
)
async def test_a_filter_that_is_merely_laborious_is_answered(serving, filter_):
    async with serving() as client:
        await client.finished({"fail": {"code": 9, "message": "o" * 20_000}})
        async with quick():
            try:
                await client.page(filter=filter_)
            except grpc.aio.AioRpcError as error:
                assert error.code() is INVALID  # noqa: PT017
        await client.check_alive()


NAMES = {
    "a megabyte": ("operations/" + "x" * MIB, INVALID),
    "nearly four megabytes": ("operations/" + "x" * (4 * MIB - 100), INVALID),
    "a megabyte of segments": ("a/" * (MIB // 2) + "operations/x", INVALID),
    "a thousand segments": ("a/" * 200 + "operations/x", NOT_FOUND),
    "nulls": ("operations/\0\0", NOT_FOUND),
    "SQL": ("operations/x' OR '1'='1", NOT_FOUND),
    "a path": ("../../etc/operations/passwd", NOT_FOUND),
    "characters beyond the basic plane": ("operations/" + "\U0001f600" * 100, NOT_FOUND),
    "a line feed": ("operations/a\nb", NOT_FOUND),
}


@pytest.mark.assertion(58)
@pytest.mark.parametrize(("name", "code"), NAMES.values(), ids=NAMES.keys())
async def test_a_hostile_name_is_refused(serving, name, code):
    async with serving() as client:
        for call in (client.get, client.wait, client.cancel, client.delete):
            async with quick():
                refusal = await client.refused(call(name))
            assert refusal.code is code
            if code is INVALID:
                assert refusal.field == "name"
            assert len(refusal.message) < 1000
        await client.check_alive()


@pytest.mark.assertion(58)
async def test_a_hostile_parent_is_refused(serving):
    async with serving() as client:
        for parent in ("p" * MIB, "p/" * 100_000 + "p", "../" * 10):
            async with quick():
                refusal = await client.refused(client.page(parent))
            assert (refusal.code, refusal.field) == (INVALID, "name")
            async with quick():
                refusal = await client.refused(client.run(parent=parent))
            assert (refusal.code, refusal.field) == (INVALID, "parent")
        await client.check_alive()


@pytest.mark.assertion(58)
async def test_a_long_exclusive_key_makes_no_long_error(serving):
    async with serving() as client:
        key = "k" * MIB
        await client.running(await client.run({"sleep": {"seconds": 60}}, exclusive_key=key))
        async with quick():
            refusal = await client.refused(client.run(exclusive_key=key))
        assert refusal.code is grpc.StatusCode.ABORTED
        await client.check_alive()


FIVE_MIB = b"\x0a" + b"\x80\x80\xc0\x02" + b"x" * 5 * MIB
"""A message whose first field is a text of so many letters."""


@pytest.mark.assertion(115)
@pytest.mark.parametrize(
    "method",
    [
        f"{SERVICE}/GetOperation",
        f"{SERVICE}/ListOperations",
        f"{SERVICE}/WaitOperation",
        f"{SERVICE}/CancelOperation",
        f"{SERVICE}/DeleteOperation",
        f"{SCRIPT}/RunScript",
        "outlastapi.v1.OperationsAdminService/ListOperationAttempts",
    ],
)
async def test_a_request_of_more_than_four_megabytes_is_refused(serving, method):
    async with serving() as client:
        call = client.channel.unary_unary(f"/{method}")
        async with quick():
            refusal = await client.refused(call(FIVE_MIB, timeout=20))
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.info.reason == "PAYLOAD_TOO_LARGE"
        assert refusal.info.metadata["limit"] == str(4 * MIB)
        assert await client.names() == []
        await client.check_alive()


@pytest.mark.assertion(115)
async def test_a_request_that_grpc_does_not_read_is_refused(serving):
    """Before Outlast sees it: hence without details."""
    async with serving() as client:
        call = client.channel.unary_unary(f"/{SERVICE}/GetOperation")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(bytes(16 * MIB + 1), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.check_alive()


@pytest.mark.assertion(115)
async def test_a_request_over_the_servers_own_limit_is_refused(serving):
    async with serving(max_request_bytes=1024) as client:
        for call in (client.run(exclusive_key="k" * 2000), client.page("p" * 2000)):
            refusal = await client.refused(call)
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.info.reason == "PAYLOAD_TOO_LARGE"
            assert refusal.info.metadata["limit"] == "1024"
        assert await client.names() == []
        await client.check_alive()


@pytest.mark.parametrize("mebibytes", [5, 20])
async def test_a_server_that_is_told_to_takes_larger_requests(serving, mebibytes):
    async with serving(max_request_bytes=(mebibytes + 1) * MIB, execute=False) as client:
        started = await client.run({"raise": "x" * mebibytes * MIB})
        assert await client.names() == [started.name]


BROKEN = {
    "invalid UTF-8": b"\x0a\x0coperations/\xff",
    "an encoded surrogate": b"\x0a\x0eoperations/\xed\xa0\x80",
    "a truncated field": b"\x0a\xff",
    "a varint that does not end": b"\xff" * 20,
    "a wire type that there is not": b"\x0f\x0f\x0f",
    "a group that does not end": b"\x0b" * 200,
    "random bytes": bytes(range(256)),
}


@pytest.mark.assertion(115)
@pytest.mark.parametrize("request_", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize(
    "method", [f"{SERVICE}/GetOperation", f"{SERVICE}/ListOperations", f"{SCRIPT}/RunScript"]
)
async def test_what_is_no_message_is_refused(serving, request_, method):
    async with serving() as client:
        call = client.channel.unary_unary(f"/{method}")
        async with quick():
            refusal = await client.refused(call(request_, timeout=20))
        assert (refusal.code, refusal.field) == (INVALID, "request")
        await client.check_alive()


@pytest.mark.assertion(116)
async def test_unknown_fields_are_ignored(serving):
    unknown = b"\xfa\x7f\x03abc" + b"\xf8\x7f\x05"  # field 2047: three bytes, and then a number
    async with serving() as client:
        done = await client.finished()
        for method, request in {
            "GetOperation": operations_pb2.GetOperationRequest(name=done.name),
            "WaitOperation": operations_pb2.WaitOperationRequest(name=done.name),
            "CancelOperation": operations_pb2.CancelOperationRequest(name=done.name),
            "ListOperations": operations_pb2.ListOperationsRequest(),
            "DeleteOperation": operations_pb2.DeleteOperationRequest(name=done.name),
        }.items():
            call = client.channel.unary_unary(f"/{SERVICE}/{method}")
            plain = request.SerializeToString()
            answer = await call(plain + unknown, timeout=20)
            if method != "DeleteOperation":
                assert answer == await call(plain, timeout=20)
        start = client.channel.unary_unary(f"/{SCRIPT}/RunScript")
        started = operations_pb2.Operation.FromString(await start(unknown))
        assert (await client.done(started)).HasField("response")


async def test_an_empty_request_is_a_request(serving):
    async with serving() as client:
        for method in ("GetOperation", "WaitOperation", "CancelOperation", "DeleteOperation"):
            call = client.channel.unary_unary(f"/{SERVICE}/{method}")
            refusal = await client.refused(call(b"", timeout=20))
            assert (refusal.code, refusal.field) == (INVALID, "name")
        await client.channel.unary_unary(f"/{SERVICE}/ListOperations")(b"", timeout=20)
