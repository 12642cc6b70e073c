"""What a handler hands in to be kept is checked before it is."""

from typing import Any, cast

import pytest
from google.protobuf.empty_pb2 import Empty
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.rpc.context import MAX_STEP_KEY_BYTES, OperationContext


class Untouched:
    """An execution that is asked for no write."""

    def estimate_end(self, completed, total):
        return None


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (1, TypeError),
        (None, TypeError),
        (b"page", TypeError),
        ("", ValueError),
        ("x" * (MAX_STEP_KEY_BYTES + 1), ValueError),
        ("ж" * (MAX_STEP_KEY_BYTES // 2 + 1), ValueError),
        ("a\ud800", ValueError),
    ],
    ids=["number", "none", "bytes", "empty", "too long", "too many bytes", "surrogate"],
)
async def test_a_key_that_is_no_text_of_some_length_is_refused(key, error):
    called = []
    operation = OperationContext(cast("Any", Untouched()), OperationMetadata())
    with pytest.raises(error, match="the key of a step"):
        await operation.step(key, called.append, 1)
    assert called == []


async def test_metadata_of_another_type_is_not_reported():
    operation = OperationContext(cast("Any", Untouched()), OperationMetadata())
    operation.metadata = cast("Any", Empty())
    with pytest.raises(TypeError, match=r"must stay a outlastapi\.v1\.OperationMetadata"):
        await operation.progress()
