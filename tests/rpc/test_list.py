"""ListOperations: parents, pages, tokens."""

import asyncio
import base64
import re

import grpc
import pytest
from google.longrunning import operations_pb2

import outlast
from outlast.testing.clock import ManualClock

LONG = {"sleep": {"seconds": 60}}
DEAD = "dead_letter = true"
DEADLY = {"fail_attempts": {"attempts": 100, "code": 14}}


async def start(client, count, **fields):
    """Start operations, and return their names, the newest first."""
    return [(await client.run(**fields)).name for _ in range(count)][::-1]


@pytest.mark.assertion(92)
async def test_a_parent_lists_its_own_operations_under_both_of_its_names(serving):
    parents = ["", "p", "projects/p1", "projects/p10", "projects/p1/books/b", "projects"]
    async with serving(execute=False) as client:
        names = {parent: await start(client, 2, parent=parent) for parent in parents}
        for parent, expected in names.items():
            collection = f"{parent}/operations" if parent else "operations"
            assert await client.names(parent) == expected
            assert await client.names(collection) == expected


@pytest.mark.assertion(93)
@pytest.mark.parametrize("name", ["", "operations", "projects/none", "projects/none/operations"])
async def test_a_parent_without_operations_lists_none(serving, name):
    async with serving() as client:
        await client.run(parent="projects/p1")
        assert await client.page(name) == operations_pb2.ListOperationsResponse()


@pytest.mark.assertion(56, 93)
@pytest.mark.parametrize(
    "name", ["/", "a//b", "a/", "/operations", " ", "a b", "ü", "p\0", "p" * 2000]
)
async def test_a_parent_that_cannot_be_is_refused(serving, name):
    async with serving() as client:
        refusal = await client.refused(client.page(name))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "name")


@pytest.mark.parametrize("name", ["x/-", "x/-/operations", "x/-/y", "-/x"])
async def test_a_list_across_segments_is_said_not_to_be_supported(serving, name):
    async with serving() as client:
        refusal = await client.refused(client.page(name, filter=DEAD))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "name")
        assert "'-' in place of a segment is not supported" in refusal.message


@pytest.mark.parametrize(
    "filter_", ["", "done = true", f"{DEAD} OR done = true", "NOT dead_letter = true"]
)
@pytest.mark.parametrize("name", ["-", "-/operations"])
async def test_a_list_of_every_parent_is_of_dead_letters_only(serving, name, filter_):
    async with serving() as client:
        refusal = await client.refused(client.page(name, filter=filter_))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "name")
        assert "supported with `dead_letter = true` only" in refusal.message


async def test_dead_letters_of_every_parent_are_listed_page_by_page(serving, scripted):
    clock = ManualClock()

    async def work(request, _):
        code = outlast.Code.ABORTED if request.steps else outlast.Code.UNAVAILABLE
        raise outlast.OperationFailed(code, "out of paper")

    service = scripted(work, retry=outlast.RetryPolicy(max_attempts=1))
    async with serving(service, clock=clock) as client:
        expected: list[str] = []
        for parents in (["", "p/1", "p/2/books/3"], ["", "p/1"]):
            dead = [await client.finished(parent=parent) for parent in parents]
            expected = [*sorted(each.name for each in dead), *expected]
            clock.jump(1)
        failed = await client.finished(LONG, parent="p/1")
        assert not client.metadata(failed).dead_letter
        assert await client.names("-", filter=DEAD) == expected
        seen, token = [], ""
        for name, left in (("-", True), ("-/operations", True), ("-", False)):
            page = await client.page(name, filter=DEAD, page_size=2, page_token=token)
            seen += [each.name for each in page.operations]
            token = page.next_page_token
            assert bool(token) is left
        assert seen == expected
        narrow = f'{DEAD} AND name:"p/2/*"'
        (found,) = await client.names("-", filter=narrow)
        assert found.startswith("p/2/books/3/operations/")


async def test_a_token_of_every_parent_is_none_of_a_parents(serving):
    async with serving() as client:
        for _ in range(2):
            await client.finished(DEADLY)
        token = (await client.page("-", filter=DEAD, page_size=1)).next_page_token
        call = client.page("", filter=DEAD, page_token=token)
        assert (await client.refused(call)).info.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.assertion(94)
async def test_the_size_of_a_page_has_a_default_and_a_limit(serving):
    async with serving(execute=False) as client:
        names = await start(client, 52)
        page = await client.page()
        assert [each.name for each in page.operations] == names[:50]
        assert page.next_page_token
        assert len((await client.page(page_size=1)).operations) == 1
        page = await client.page(page_size=2**31 - 1)
        assert [each.name for each in page.operations] == names
        assert page.next_page_token == ""


@pytest.mark.assertion(94)
async def test_a_page_has_at_most_a_thousand_operations(serving):
    async with serving(execute=False) as client:
        await asyncio.gather(*(client.run() for _ in range(1001)))
        page = await client.page(page_size=5000)
        assert len(page.operations) == 1000
        (last,) = (await client.page(page_token=page.next_page_token)).operations
        assert last.name not in {each.name for each in page.operations}


@pytest.mark.assertion(56, 94)
@pytest.mark.parametrize("size", [-1, -(2**31)])
async def test_a_negative_page_size_is_refused(serving, size):
    async with serving() as client:
        refusal = await client.refused(client.page(page_size=size))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "page_size")
        await client.check_alive()


@pytest.mark.assertion(95)
async def test_pages_show_what_is_there_throughout_once_whatever_else_happens(serving):
    async with serving() as client:
        stays = set(await start(client, 20))
        goes = await start(client, 20)
        stays |= set(await start(client, 20))
        seen: list[str] = []
        token = ""
        while True:
            page = await client.page(page_size=7, page_token=token)
            seen += [each.name for each in page.operations]
            token = page.next_page_token
            if not token:
                break
            await start(client, 3)
            for _ in range(3):
                if goes:
                    await client.delete(goes.pop())
        assert len(set(seen)) == len(seen)
        assert stays <= set(seen)
        page = await client.page(page_size=1000)
        assert page.next_page_token == ""


@pytest.mark.assertion(96)
async def test_the_size_may_change_between_pages(serving):
    async with serving(execute=False) as client:
        names = await start(client, 12)
        seen, token = [], ""
        for size in (1, 5, 2, 100):
            page = await client.page(page_size=size, page_token=token)
            seen += [each.name for each in page.operations]
            token = page.next_page_token
        assert seen == names
        assert token == ""


@pytest.mark.assertion(97, 98)
@pytest.mark.parametrize(
    "change",
    [
        {"name": "p/2"},
        {"name": ""},
        {"filter": "done=false"},
        {"filter": "done = true"},
        {"filter": ""},
    ],
)
async def test_a_token_is_good_for_its_own_name_and_filter_only(serving, change):
    async with serving(execute=False) as client:
        await start(client, 3, parent="p/1")
        query = {"name": "p/1", "filter": "done=true OR done=false", "page_size": 1}
        token = (await client.page(**query)).next_page_token
        assert await client.page(**query, page_token=token)
        refusal = await client.refused(client.page(**query | change, page_token=token))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


def flipped(token, position):
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[position] ^= 1
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.assertion(56, 98)
@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda _: "garbage", id="garbage"),
        pytest.param(lambda _: "50", id="an offset"),
        pytest.param(lambda _: " ", id="a space"),
        pytest.param(lambda _: "ü" * 40, id="no ASCII"),
        pytest.param(lambda _: "\0" * 40, id="nulls"),
        pytest.param(lambda _: "A" * 100_000, id="long"),
        pytest.param(lambda token: token[:-1], id="truncated"),
        pytest.param(lambda token: token[:10], id="truncated to less than a nonce"),
        pytest.param(lambda token: token + "AAAA", id="longer"),
        pytest.param(lambda token: token + token, id="twice"),
        pytest.param(lambda token: token.swapcase(), id="in the other case"),
        pytest.param(lambda token: flipped(token, 0), id="another version"),
        pytest.param(lambda token: flipped(token, 5), id="another nonce"),
        pytest.param(lambda token: flipped(token, 20), id="another position"),
        pytest.param(lambda token: flipped(token, -1), id="another seal"),
    ],
)
async def test_a_token_that_was_not_issued_is_refused(serving, forge):
    async with serving(execute=False) as client:
        await start(client, 3)
        token = (await client.page(page_size=1)).next_page_token
        refusal = await client.refused(client.page(page_token=forge(token)))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")
        assert refusal.info.reason == "INVALID_PAGE_TOKEN"
        assert len((await client.page(page_token=token)).operations) == 2


@pytest.mark.assertion(98)
async def test_a_token_of_another_server_is_refused(serving, tmp_path):
    tokens = []
    for number in range(2):
        async with serving(execute=False, store=str(tmp_path / f"{number}.db")) as client:
            await start(client, 3)
            tokens.append((await client.page(page_size=1)).next_page_token)
            refusal = client.page(page_token=tokens[0])
            if number:
                assert (await client.refused(refusal)).field == "page_token"
            else:
                assert await refusal


@pytest.mark.assertion(99)
async def test_a_token_tells_nothing_and_fits_into_an_address(serving):
    async with serving(execute=False) as client:
        (newest, *_) = await start(client, 3, parent="projects/secret")
        pages = [await client.page("projects/secret", page_size=1) for _ in range(5)]
    tokens = {page.next_page_token for page in pages}
    assert len(tokens) == 5  # sealed anew each time: equal tokens would tell
    for token in tokens:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for told in (b"operations", b"secret", newest.rpartition("/")[2].encode()):
            assert told not in raw


@pytest.mark.assertion(100)
async def test_the_newest_come_first_and_ties_by_name(serving):
    clock = ManualClock()
    async with serving(clock=clock, execute=False) as client:
        older = sorted(await start(client, 10))
        clock.jump(1)
        newer = sorted(await start(client, 10))
        for size in (3, 1000):
            for _ in range(2):
                assert await client.names(page_size=size) == newer + older


@pytest.mark.assertion(101)
async def test_a_page_of_large_operations_is_short(serving):
    async with serving() as client:
        answer = {"answer": {"size": 1024 * 1024}}
        names = {(await client.finished(answer)).name for _ in range(7)}
        seen, token, pages = [], "", 0
        while True:
            request = operations_pb2.ListOperationsRequest(page_size=1000, page_token=token)
            page = await client.operations.ListOperations(request)
            assert page.ByteSize() < 4 * 1024 * 1024
            assert page.operations
            seen += [each.name for each in page.operations]
            pages += 1
            token = page.next_page_token
            if not token:
                break
        assert set(seen) == names
        assert len(seen) == len(names)
        assert pages > 2


@pytest.mark.assertion(102)
async def test_a_list_shows_what_a_get_shows(serving):
    async with serving() as client:
        await client.finished({"answer": {"text": "x"}})
        await client.finished({"fail": {"code": 9, "message": "no"}})
        await client.running(await client.run({"progress": {"completed": 1}}, LONG))
        cancelled = await client.run(LONG)
        await client.cancel(cancelled.name)
        await client.done(cancelled)
        page = await client.page()
        assert len(page.operations) == 4
        for listed in page.operations:
            assert listed == await client.get(listed.name)


@pytest.mark.assertion(110)
@pytest.mark.parametrize("name", ["", "p/1", "p/-"])
async def test_partial_success_is_not_supported(serving, name):
    async with serving() as client:
        refusal = await client.refused(client.page(name, return_partial_success=True))
        assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
        assert refusal.info.metadata["field"] == "return_partial_success"
        await client.page("p/1", return_partial_success=False)
