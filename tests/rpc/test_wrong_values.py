"""Values that cannot be sent are refused before they are written, and harm nothing if they were."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

import outlast
from outlast.domain.operation import Operation, Progress, State
from outlast.domain.status import Payload, Status
from outlast.rpc.codec import Codec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SURROGATE = "a\ud800b"


@pytest.mark.parametrize(
    ("report", "name"),
    [
        ({"completed": 0.5, "total": 1}, "completed"),
        ({"completed": "1"}, "completed"),
        ({"completed": None}, "completed"),
        ({"completed": -1}, "completed"),
        ({"completed": 2**63}, "completed"),
        ({"total": 2.0}, "total"),
        ({"total": -1}, "total"),
        ({"total": 2**70}, "total"),
        ({"message": SURROGATE}, "message"),
        ({"message": 5}, "message"),
        ({"stage": SURROGATE}, "stage"),
        ({"stage": b"bytes"}, "stage"),
    ],
    ids=str,
)
async def test_progress_that_cannot_be_sent_is_refused_and_not_written(
    serving, scripted, report, name
):
    caught = []

    async def work(_, operation):
        await operation.progress(completed=2**63 - 1, total=2**63 - 1, message="ünder way")
        try:
            await operation.progress(**report)
        except (TypeError, ValueError) as error:
            caught.append(str(error))

    async with serving(scripted(work)) as client:
        done = await client.finished()
        assert done.HasField("response")
        assert client.metadata(done).progress.completed == 2**63 - 1
        assert client.metadata(done).progress.message == "ünder way"
        assert caught[0].startswith(f"{name} must be ")
        assert await client.names() == [done.name]


@pytest.mark.parametrize("kind", [outlast.ServiceError, outlast.OperationFailed])
@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((10, 5), {}, "message must be a str, not 5"),
        ((10, SURROGATE), {}, "message must be text that UTF-8 can encode"),
        ((0, "m"), {}, "code OK"),
        ((grpc.StatusCode.OK, "m"), {}, "code OK"),
        ((99, "m"), {}, "99 is not a valid Code"),
        (("ABORTED", "m"), {}, "'ABORTED' is not a valid Code"),
        ((10, "m"), {"details": ["text"]}, "details must be protobuf messages, not 'text'"),
    ],
    ids=str,
)
def test_an_error_that_cannot_be_sent_is_refused_where_it_is_made(kind, arguments, options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        kind(*arguments, **options)


def test_a_retry_delay_is_a_time():
    with pytest.raises(TypeError, match=r"retry_delay must be a datetime\.timedelta, not 5"):
        outlast.OperationFailed(outlast.Code.ABORTED, "m", retry_delay=5)


async def test_codes_of_grpc_are_codes_wherever_one_is_given(serving, scripted):
    attempts = []

    def validate(request):
        if request.parent:
            raise outlast.ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "no")

    async def work(*_):
        attempts.append(None)
        code = grpc.StatusCode.DATA_LOSS if len(attempts) == 1 else grpc.StatusCode.NOT_FOUND
        raise outlast.OperationFailed(code, "gone")

    retry = outlast.RetryPolicy(
        initial_backoff=timedelta(milliseconds=5), codes={grpc.StatusCode.DATA_LOSS}
    )
    async with serving(scripted(work, retry=retry, validate=validate)) as client:
        done = await client.finished()
        assert done.error.code == outlast.Code.NOT_FOUND
        assert len(attempts) == 2
        refusal = await client.refused(client.run(parent="p/1"))
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION


def broken(**fields):
    return Operation(
        name="operations/1",
        parent="",
        method="a/b",
        create_time=NOW,
        update_time=NOW,
        metadata=Payload("type.googleapis.com/outlastapi.v1.OperationMetadata"),
        **fields,
    )


@pytest.mark.parametrize(
    ("progress", "sent"),
    [
        (Progress(0.5, 1), (0, 1, "")),
        (Progress(2**70, 2**71), (2**63 - 1, 2**63 - 1, "")),
        (Progress(-(2**70), 3), (0, 3, "")),
        (Progress(float("nan"), float("inf")), (0, 2**63 - 1, "")),
        (Progress(1, 2, message=SURROGATE), (1, 2, "a?b")),
        (Progress(1, 2, message=5), (1, 2, "5")),
    ],
    ids=str,
)
def test_progress_that_was_stored_unchecked_is_sent_as_far_as_it_can_be(progress, sent):
    proto = Codec().to_proto(broken(progress=progress))
    found = OperationMetadata.FromString(proto.metadata.value).progress
    assert (found.completed, found.total, found.message) == sent


@pytest.mark.parametrize(("message", "sent"), [(SURROGATE, "a?b"), (5, "5")])
def test_an_error_that_was_stored_unchecked_is_sent_as_far_as_it_can_be(message, sent):
    status = Status(outlast.Code.ABORTED, message)
    proto = Codec().to_proto(broken(state=State.FAILED, error=status, last_error=status))
    assert (proto.error.code, proto.error.message) == (10, sent)
    assert OperationMetadata.FromString(proto.metadata.value).last_error.message == sent


@pytest.mark.parametrize("filter_", ["", "metadata.operation.attempt > 0"])
async def test_a_record_that_cannot_be_shown_hides_no_other(serving, monkeypatch, caplog, filter_):
    async with serving() as client:
        broken, *others = [(await client.finished()).name for _ in range(3)]
        original = Codec.metadata

        def metadata(self, operation):
            if operation.name == broken:
                raise KeyError(broken)
            return original(self, operation)

        monkeypatch.setattr(Codec, "metadata", metadata)
        assert sorted(await client.names(filter=filter_)) == sorted(others)
        assert broken in caplog.text
