"""`outlast call`, through reflection, against services that it has never heard of."""

import json

import pytest

from outlast.cli.exit_codes import ExitCode


def call(run, server, method, *arguments, **options):
    return run("call", method, *arguments, server=server, **options)


def test_a_method_is_called_and_its_response_printed_as_proto_json(run, foreign):
    data = '{"text": "hello", "count": "7"}'
    result = call(run, foreign, "foreign.v1.EchoService/Echo", "--data", data)
    assert result.exit_code == ExitCode.OK
    assert result.stdout == '{"text": "hello", "count": "7"}\n'


def test_the_last_part_of_the_name_of_a_service_is_enough(run, foreign):
    result = call(run, foreign, "EchoService/Echo")
    assert result.stdout == "{}\n"


@pytest.mark.parametrize(
    "target",
    ["/foreign.v1.EchoService/Echo", "foreign.v1.EchoService.Echo", "EchoService.Echo"],
)
def test_other_ways_to_write_a_method_are_understood(run, foreign, target):
    assert call(run, foreign, target).stdout == "{}\n"


def test_a_name_that_several_services_have_is_refused_with_their_names(run, serve_foreign):
    with serve_foreign(
        reflection_names=("foreign.v1.EchoService", "other.v1.EchoService")
    ) as server:
        result = call(run, server, "EchoService/Echo")
    assert result.exit_code == ExitCode.USAGE
    assert "foreign.v1.EchoService, other.v1.EchoService" in result.stderr


def test_a_stream_of_responses_is_a_line_of_json_each(run, foreign):
    result = call(run, foreign, "EchoService/Expand", "--data", '{"text": "a", "count": 3}')
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"text": "a"},
        {"text": "a", "count": "1"},
        {"text": "a", "count": "2"},
    ]


def test_a_stream_of_requests_is_a_document_each_from_stdin(run, foreign):
    documents = '{"text": "a"}\n{"text": "b"} {"text": "c"}'
    result = call(run, foreign, "EchoService/Collect", "--data", "-", input=documents)
    assert json.loads(result.stdout) == {"text": "a+b+c", "count": "3"}


def test_streams_in_both_directions_work(run, foreign):
    result = call(run, foreign, "EchoService/Chat", "--data", '{"text": "a"} {"text": "b"}')
    assert result.stdout == '{"text": "a"}\n{"text": "b"}\n'


def test_the_request_can_come_from_a_file(run, foreign, tmp_path):
    file = tmp_path / "request.json"
    file.write_text('{"text": "grüße"}', encoding="utf-8")
    result = call(run, foreign, "EchoService/Echo", "--data", f"@{file}")
    assert result.stdout == '{"text": "grüße"}\n'


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "[]",
        "3",
        "null",
        '{"txt": "a"}',
        '{"count": "many"}',
        '{"text": "a"} {"text": "b"}',
        "@no/such/file",
        "[" * 100_000,
    ],
    ids=["broken", "list", "number", "null", "field", "value", "two", "file", "deep"],
)
def test_bad_data_is_a_usage_error_in_one_line(run, foreign, data):
    result = call(run, foreign, "EchoService/Echo", "--data", data)
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith("Error: --data: ")
    assert result.stderr.count("\n") == 1
    assert "Errno" not in result.stderr


def test_an_unknown_service_or_method_is_not_found_and_what_there_is_is_named(run, foreign):
    result = call(run, foreign, "NoService/Echo")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "foreign.v1.EchoService" in result.stderr
    result = call(run, foreign, "EchoService/Eko")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "Echo, Expand, Collect" in result.stderr


def test_a_method_without_a_service_is_a_usage_error(run, foreign):
    assert call(run, foreign, "Echo").exit_code == ExitCode.USAGE


def test_an_error_names_reason_and_fields_and_is_safe_to_show(run, foreign):
    result = call(run, foreign, "EchoService/Refuse")
    assert result.exit_code == ExitCode.RPC_ERROR
    assert result.stderr.splitlines() == [
        "Error: no such text (INVALID_ARGUMENT, BAD_TEXT of foreign)",
        "  text: must not be [2Jrude",
    ]


def test_a_method_that_the_server_describes_but_does_not_have_is_explained(run, serve_foreign):
    with serve_foreign(with_operations=False) as server:
        result = call(run, server, "Operations/ListOperations")
    assert result.exit_code == ExitCode.RPC_ERROR
    assert "UNIMPLEMENTED" in result.stderr


def test_a_call_that_ends_without_a_response_is_an_error(run, foreign):
    result = call(run, foreign, "EchoService/Silent")
    assert result.exit_code == ExitCode.RPC_ERROR
    assert "without a response" in result.stderr


def test_a_server_without_reflection_is_explained(run, bare):
    result = call(run, bare, "EchoService/Echo")
    assert result.exit_code == ExitCode.RPC_ERROR
    assert "has no reflection" in result.stderr


def test_without_a_server_the_person_is_told_how_to_start_one(run):
    result = run("call", "EchoService/Echo", "--address", "127.0.0.1:1")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "outlast serve" in result.stderr


def test_wait_prints_the_result_of_the_operation(run, foreign):
    foreign.on_wait = lambda operation: foreign.succeed(operation.name, "hello")
    result = call(run, foreign, "EchoService/Start", "--wait", "-H", "x-tenant: acme")
    assert result.exit_code == ExitCode.OK
    assert json.loads(result.stdout)["text"] == "hello"
    assert "operations/echo: UNFINISHED" in result.stderr
    assert foreign.headers["x-tenant"] == "acme"


def test_wait_asks_nothing_more_of_an_operation_that_is_done_already(run, foreign):
    result = call(run, foreign, "EchoService/Start", "--data", '{"text": "at once"}', "--wait")
    assert json.loads(result.stdout)["text"] == "at once"
    assert foreign.called == []


def test_without_wait_the_operation_itself_is_printed(run, foreign):
    result = call(run, foreign, "EchoService/Start")
    assert json.loads(result.stdout) == {"name": "operations/echo"}


def test_wait_times_out_like_operations_wait(run, foreign):
    result = call(run, foreign, "EchoService/Start", "--wait", "--timeout", "1s")
    assert result.exit_code == ExitCode.TIMEOUT
    assert "outlast operations wait operations/echo" in result.stderr


def test_wait_for_a_method_that_returns_no_operation_is_refused_before_the_call(run, foreign):
    result = call(run, foreign, "EchoService/Echo", "--wait")
    assert result.exit_code == ExitCode.USAGE
    assert "does not return an operation" in result.stderr


def test_a_type_that_nobody_knows_is_kept_as_base64_wherever_it_stands(run, foreign, types):
    unknown = {"type_url": "example.com/nobody.v1.Knows", "value": b"\x08\x01"}
    known = types.packed("EchoReply", text="known")
    outer = types.packed("Holder", content=unknown, time={"seconds": 1})
    message = types.message(
        "Holder",
        content={"type_url": outer.type_url, "value": outer.value},
        others=[unknown, {"type_url": known.type_url, "value": known.value}],
        named={"a": unknown},
        counts={True: 2},
        inner={"raw": b"\xff"},
    )
    foreign.held = message
    result = call(run, foreign, "EchoService/Hold")
    shown = {"@type": "example.com/nobody.v1.Knows", "value": "CAE="}
    assert json.loads(result.stdout) == {
        "content": {
            "@type": "type.googleapis.com/foreign.v1.Holder",
            "content": shown,
            "time": "1970-01-01T00:00:01Z",
        },
        "others": [shown, {"@type": "type.googleapis.com/foreign.v1.EchoReply", "text": "known"}],
        "named": {"a": shown},
        "counts": {"true": "2"},
        "inner": {"raw": "/w=="},
    }
