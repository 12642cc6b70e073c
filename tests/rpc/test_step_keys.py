"""The key of a step finds its record again in a later attempt: it has to be text."""

from typing import Any, cast

import pytest
from outlastapi.v1.operation_metadata_pb2 import OperationMetadata

from outlast.rpc.context import MAX_STEP_KEY_LENGTH, OperationContext


class Untouched:
    """An execution that must not be asked for anything."""


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (1, TypeError),
        (None, TypeError),
        (b"page", TypeError),
        ("", ValueError),
        ("x" * (MAX_STEP_KEY_LENGTH + 1), ValueError),
    ],
    ids=["number", "none", "bytes", "empty", "too long"],
)
async def test_a_key_that_is_no_text_of_some_length_is_refused(key, error):
    called = []
    operation = OperationContext(cast("Any", Untouched()), OperationMetadata())
    with pytest.raises(error, match="the key of a step"):
        await operation.step(key, called.append, 1)
    assert called == []
