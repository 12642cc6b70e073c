"""google.rpc.Status in words, whatever a server puts into it."""

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from outlast.cli.status import describe


def status(code: int, message: str, *details) -> status_pb2.Status:
    result = status_pb2.Status(code=code, message=message)
    for detail in details:
        result.details.add().Pack(detail)
    return result


def test_a_status_is_its_message_its_code_and_its_reason():
    told = describe(status(5, "gone", error_details_pb2.ErrorInfo(reason="GONE", domain="shop")))
    assert told.line == "gone (NOT_FOUND, GONE of shop)"


def test_a_field_that_the_message_names_already_is_not_said_twice():
    request = error_details_pb2.BadRequest(
        field_violations=[
            {"field": "size", "description": "must be positive"},
            {"field": "name", "description": "must not be empty"},
        ]
    )
    told = describe(status(3, "size: must be positive", request))
    assert told.details == ("name: must not be empty",)


def test_what_says_nothing_is_left_out():
    told = describe(status(99, "", error_details_pb2.DebugInfo(detail="secret")))
    assert told.line == "no message (code 99)"
    assert told.details == ()


def test_broken_details_do_no_harm():
    broken = status(3, "bad")
    broken.details.append(
        any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    )
    assert describe(broken).line == "bad (INVALID_ARGUMENT)"
