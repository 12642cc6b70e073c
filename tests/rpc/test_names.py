"""The names of operations."""

import asyncio
import re
from datetime import timedelta
from uuid import UUID

import grpc
import pytest

from outlast.testing.clock import ManualClock


@pytest.mark.assertion(8)
@pytest.mark.parametrize("parent", ["", "projects/p1", "a/b/c/d"])
async def test_a_name_is_the_servers_and_ends_in_an_id(serving, parent):
    async with serving() as client:
        operation = await client.run(parent=parent)
        prefix = f"{parent}/operations/" if parent else "operations/"
        assert operation.name.startswith(prefix)
        assert re.fullmatch(r"[a-z0-9-]{36}", operation.name.removeprefix(prefix))
        assert len(operation.name) <= 1024


@pytest.mark.assertion(9)
async def test_names_are_not_used_again_after_a_delete_or_an_expiry(serving):
    clock = ManualClock()
    names = set()
    async with serving(clock=clock) as client:
        for number in range(20):
            name = (await client.finished()).name
            assert name not in names
            names.add(name)
            if number % 2:
                await client.delete(name)
        clock.jump(timedelta(days=31).total_seconds())
        assert await client.names() == []
        names_after = {(await client.finished()).name for _ in range(20)}
    assert not names & names_after


@pytest.mark.assertion(9)
async def test_names_are_not_used_again_after_a_restart(serving):
    names = []
    for _ in range(2):
        async with serving() as client:
            names += [(await client.run()).name for _ in range(10)]
    assert len(set(names)) == 20


@pytest.mark.assertion(10)
async def test_the_name_is_the_same_in_every_answer(serving):
    async with serving() as client:
        started = await client.run({"sleep": {"seconds": 30}}, parent="projects/p")
        name = started.name
        running = await client.running(started)
        listed = (await client.page("projects/p")).operations[0]
        waited = await client.wait(name, 0)
        await client.cancel(name)
        done = await client.done(started)
        listed_done = (await client.page("projects/p/operations")).operations[0]
        got = await client.get(name)
    assert {each.name for each in (running, listed, waited, done, listed_done, got)} == {name}


@pytest.mark.assertion(11)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(str.upper, id="upper case"),
        pytest.param(lambda name: name + "/", id="slash at the end"),
        pytest.param(lambda name: "/" + name, id="slash at the beginning"),
        pytest.param(lambda name: name.replace("/operations/", "//operations/"), id="two slashes"),
        pytest.param(lambda name: name.replace("/", "%2F"), id="slashes percent-encoded"),
        pytest.param(lambda name: name.replace("-", "%2D"), id="percent-encoded"),
        pytest.param(lambda name: name + " ", id="space at the end"),
        pytest.param(lambda name: " " + name, id="space at the beginning"),
        pytest.param(lambda name: name + "\n", id="line feed"),
        pytest.param(lambda name: name + "\0", id="null"),
        pytest.param(lambda name: name.removeprefix("projects/p/"), id="without the parent"),
    ],
)
async def test_a_name_that_is_written_otherwise_is_not_the_operations(serving, change):
    async with serving() as client:
        name = (await client.finished(parent="projects/p")).name
        for call in (client.get, client.cancel, client.wait, client.delete):
            refusal = await client.refused(call(change(name)))
            assert refusal.code in {
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.INVALID_ARGUMENT,
            }
        assert (await client.get(name)).name == name


@pytest.mark.assertion(12)
async def test_ids_are_random_enough_not_to_be_guessed(serving):
    async with serving() as client:
        operations = await asyncio.gather(*(client.run() for _ in range(50)))
    ids = [UUID(operation.name.rpartition("/")[2]) for operation in operations]
    assert {each.version for each in ids} == {4}  # 122 random bits
    assert len({each.int >> 96 for each in ids}) > 45
