"""The filter of ListOperations: what it finds, and what it refuses."""

from contextlib import asynccontextmanager

import grpc
import pytest

LONG = {"sleep": {"seconds": 60}}
RUN = "type.googleapis.com/outlastapi.script.v1.RunScriptMetadata"
ERASE = "type.googleapis.com/outlastapi.v1.OperationMetadata"

BOOLEANS = {
    "done=true": "succeeded failed cancelled erased",
    "done:true": "succeeded failed cancelled erased",
    "done = true": "succeeded failed cancelled erased",
    "done=false": "running quiet",
    "done!=true": "running quiet",
    "NOT done=true": "running quiet",
    "-done=true": "running quiet",
    "-done:true": "running quiet",
    "NOT (done=true)": "running quiet",
    "": "succeeded failed cancelled erased running quiet",
    "  ": "succeeded failed cancelled erased running quiet",
}
FIELDS = {
    "error:*": "failed cancelled",
    "NOT error:*": "succeeded erased running quiet",
    "response:*": "succeeded erased",
    "error.code=1": "cancelled",
    "error.code=9": "failed",
    "error.code=CANCELLED": "cancelled",
    "error.code>1": "failed",
    'error.message="no"': "failed",
    'error.message="n*"': "failed",
    "state=RUNNING": "running quiet",
    "state=FAILED OR state=CANCELLED": "failed cancelled",
    "state!=SUCCEEDED": "failed cancelled running quiet",
    'name="{failed}"': "failed",
    'name="operations/*"': "succeeded failed cancelled erased running quiet",
    'verb="outlastapi.script.v1.ScriptService/EraseScript"': "erased",
    "dead_letter=true": "",
    f'metadata.@type="{RUN}"': "succeeded failed cancelled running quiet",
    f"metadata.@type={ERASE}": "erased",
    'response.@type="type.googleapis.com/google.protobuf.Empty"': "erased",
    'metadata.create_time > "2024-01-01T00:00:00Z"': "erased",
    'metadata.operation.create_time > "2024-01-01T00:00:00Z"': (
        "succeeded failed cancelled running quiet"
    ),
    'create_time > "2024-01-01T00:00:00Z"': "succeeded failed cancelled erased running quiet",
    'create_time < "2024-01-01T00:00:00Z"': "",
    "end_time:*": "succeeded failed cancelled erased",
    "metadata.steps_taken=1": "running",
    "metadata.steps_taken>0": "running",
    "metadata.taken:progress": "running",
    "metadata.taken.progress=1": "running",
    "metadata.operation.progress.percent>=50": "running",
    "metadata.operation.state=RUNNING": "running quiet",
    "EraseScript": "erased",
}
PRECEDENCE = {
    "done=false AND state=RUNNING OR state=FAILED": "running quiet",
    "done=true AND state=SUCCEEDED OR state=FAILED": "succeeded erased failed",
    "state=FAILED OR state=SUCCEEDED AND done=false": "",
    "state=FAILED OR (state=SUCCEEDED AND done=true)": "succeeded erased failed",
    "(done=true AND error.code=1) OR done=false": "cancelled running quiet",
    "done=true state=FAILED": "failed",
    "done=true and state=FAILED": "",
    "NOT done=true AND state=RUNNING": "running quiet",
}
ABSENT = {
    'metadata.operation.progress.message != "z"': "running",
    'metadata.operation.progress.message = "half"': "running",
    "NOT metadata.operation.progress.percent=50": "succeeded failed cancelled erased quiet",
    "error.code != 9": "cancelled",
    'error.message != "x"': "failed cancelled",
}
INVALID = (
    "done=",
    "=true",
    "(done=true",
    "done=true)",
    "AND",
    "done=true AND",
    "NOT",
    'name="x',
    "done=maybe",
    'done="true" OR nothing.at.all=1',
    "unknown=1",
    "unknown:*",
    "metadata.unknown=1",
    "metadata.operation.unknown=1",
    "error.unknown=1",
    "error.code=abc",
    "error.code=NOTHING",
    "state=DONE",
    "state=done",
    "metadata.operation.state=WALKING",
    'create_time > "yesterday"',
    "create_time > 5",
    'create_time > "2024-13-01T00:00:00Z"',
    "metadata.steps_taken=many",
    "done>true",
    "regex(name)",
    "\0",
    "done=true;",
)


@asynccontextmanager
async def populated(serving):
    """Yield a client and the names of one operation of each kind."""
    async with serving() as client:
        half = {"progress": {"completed": 1, "total": 2, "message": "half"}}
        kinds = {
            "succeeded": await client.finished(),
            "failed": await client.finished({"fail": {"code": 9, "message": "no"}}),
            "erased": await client.done(await client.erase()),
            "running": await client.run(half, LONG),
            "quiet": await client.run(LONG),
            "cancelled": await client.run(LONG),
        }
        await client.cancel(kinds["cancelled"].name)
        await client.done(kinds["cancelled"])
        for kind in ("running", "quiet"):
            await client.running(kinds[kind])
        running = kinds["running"].name
        while not client.unpack((await client.get(running)).metadata).steps_taken:
            await client.wait(running, 0.01)
        yield client, {kind: operation.name for kind, operation in kinds.items()}


async def check(serving, cases):
    async with populated(serving) as (client, names):
        kinds = {name: kind for kind, name in names.items()}
        for filter_, expected in cases.items():
            found = await client.names(filter=filter_.format(**names))
            assert {kinds[name] for name in found} == set(expected.split()), filter_
            paged = await client.names(filter=filter_.format(**names), page_size=1)
            assert paged == found


@pytest.mark.assertion(103)
async def test_booleans_filter(serving):
    await check(serving, BOOLEANS)


@pytest.mark.assertion(104)
async def test_every_documented_field_filters(serving):
    await check(serving, FIELDS)


@pytest.mark.assertion(105)
async def test_or_binds_tighter_than_and(serving):
    await check(serving, PRECEDENCE)


@pytest.mark.assertion(108)
async def test_what_is_not_set_matches_no_comparison(serving):
    await check(serving, ABSENT)


@pytest.mark.assertion(56, 106)
async def test_what_is_no_filter_is_refused(serving):
    async with populated(serving) as (client, _):
        for filter_ in INVALID:
            refusal = await client.refused(client.page(filter=filter_))
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT, filter_
            assert (refusal.field, refusal.info.reason) == ("filter", "INVALID_FILTER")


@pytest.mark.assertion(107)
@pytest.mark.parametrize("page_size", [1, 2, 3, 10])
async def test_pages_are_made_of_what_the_filter_leaves(serving, page_size):
    async with serving(execute=False) as client:
        wanted = set()
        for number in range(200):
            operation = await client.run()
            if number % 70 == 0:
                await client.cancel(operation.name)
                wanted.add(operation.name)
        assert len(wanted) == 3
        for filter_ in ("done=true", "error.code=1", "metadata.operation.state=CANCELLED"):
            pages, token = [], ""
            while True:
                page = await client.page(filter=filter_, page_size=page_size, page_token=token)
                pages.append({each.name for each in page.operations})
                token = page.next_page_token
                if not token:
                    break
            assert set.union(*pages) == wanted
            assert sum(map(len, pages)) == 3
            assert len(pages) <= 3 // page_size + 1
            assert page_size == 10 or len(pages[0]) == page_size


async def test_a_list_call_looks_at_a_bounded_number_of_operations(serving):
    async with serving(execute=False, max_scanned=64) as client:
        oldest = await client.run(parent="p/1")
        await client.cancel(oldest.name)
        for _ in range(150):
            await client.run(parent="p/1")
        page = await client.page("p/1", filter="metadata.operation.state=CANCELLED")
        assert not page.operations
        assert page.next_page_token
        found = await client.names("p/1", filter="metadata.operation.state=CANCELLED")
        assert found == [oldest.name]
