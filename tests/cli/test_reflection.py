"""Reading the types of servers that are old, new, or not what they should be."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from outlast.cli.connection import Connection
from outlast.cli.messages import MAX_DEPTH, to_json, unpack
from outlast.cli.reflection import NoReflectionError, ServerTypes

V1 = "grpc.reflection.v1.ServerReflection"
V1_ALPHA = "grpc.reflection.v1alpha.ServerReflection"


@contextmanager
def types_of(
    service: str, files: list[FileDescriptorProto], asked: list[str] | None = None
) -> Iterator[ServerTypes]:
    """Open the types of a server that answers every question with one file of that name."""

    def answer(requests, _):
        for request in requests:
            wanted = request.file_by_filename or request.file_containing_symbol
            if asked is not None:
                asked.append(wanted)
            found = [
                file.SerializeToString()
                for file in files
                if file.name == wanted or wanted in {f"loose.{m.name}" for m in file.message_type}
            ]
            response = reflection_pb2.ServerReflectionResponse()
            if request.HasField("list_services"):
                response.list_services_response.service.add(name="loose.Service")
            elif found:
                response.file_descriptor_response.file_descriptor_proto.extend(found)
            else:
                response.error_response.error_code = 5
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        answer,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    connection = Connection(address=f"127.0.0.1:{port}")
    try:
        with grpc.insecure_channel(connection.address) as channel:
            yield ServerTypes(channel, connection)
    finally:
        server.stop(grace=None).wait()


def file(name: str, *imports: str, message: str, text_field: bool = True) -> FileDescriptorProto:
    proto = FileDescriptorProto(name=name, package="loose", syntax="proto3", dependency=imports)
    declared = proto.message_type.add(name=message)
    if text_field:
        declared.field.add(name="text", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    return proto


@pytest.mark.parametrize("service", [V1, V1_ALPHA])
def test_both_versions_of_the_protocol_are_understood(service):
    with types_of(service, [file("a.proto", message="A")]) as types:
        assert types.services() == ["loose.Service"]
        assert types.pool.FindMessageTypeByName("loose.A").fields_by_name["text"]


def test_files_that_a_file_imports_are_asked_for_one_by_one():
    files = [file("a.proto", "b.proto", message="A"), file("b.proto", message="B")]
    with types_of(V1, files) as types:
        assert types.pool.FindMessageTypeByName("loose.A").file.dependencies[0].name == "b.proto"


def test_a_file_that_a_server_keeps_to_itself_is_taken_from_our_own():
    files = [file("a.proto", "google/protobuf/timestamp.proto", message="A")]
    with types_of(V1, files) as types:
        assert types.pool.FindMessageTypeByName("loose.A")


def test_files_that_import_one_another_in_a_circle_are_refused():
    files = [file("a.proto", "b.proto", message="A"), file("b.proto", "a.proto", message="B")]
    with types_of(V1, files) as types, pytest.raises((KeyError, TypeError)):
        types.pool.FindMessageTypeByName("loose.A")


def test_a_server_without_reflection_is_told_from_an_empty_one():
    with types_of("some.other.Service", []) as types, pytest.raises(NoReflectionError):
        types.services()


def test_a_type_that_a_server_does_not_have_is_asked_for_once():
    asked = []
    with types_of(V1, [], asked) as types:
        for _ in range(3):
            with pytest.raises(KeyError):
                types.pool.FindMessageTypeByName("loose.Missing")
    assert asked == ["loose.Missing"]


def nested(depth: int) -> any_pb2.Any:
    packed = any_pb2.Any(type_url="example.com/nobody.v1.Knows", value=b"\x08\x01")
    for _ in range(depth):
        outer = any_pb2.Any()
        outer.Pack(packed)
        packed = outer
    return packed


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH, 2000])
def test_an_any_in_an_any_is_taken_apart_as_deep_as_is_sensible(types, depth):
    shown = to_json(nested(depth), types.pool)
    for _ in range(min(depth, MAX_DEPTH)):
        shown = shown["value"]
    assert set(shown) == {"@type", "value"}
    assert isinstance(shown["value"], str)


def test_broken_content_is_shown_as_it_came(types):
    broken = any_pb2.Any(type_url="type.googleapis.com/foreign.v1.EchoReply", value=b"\x0a\xff")
    assert unpack(broken, types.pool) is None
    assert to_json(broken, types.pool) == {"@type": broken.type_url, "value": "Cv8="}


def test_a_time_that_does_not_exist_is_no_reason_to_show_nothing(types):
    content = types.packed("Holder", time={"seconds": 10**15})
    assert to_json(content, types.pool)["@type"] == content.type_url
    with pytest.raises(ValueError, match="no JSON form"):
        to_json(types.message("Holder", time={"seconds": 10**15}), types.pool)
