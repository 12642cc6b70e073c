"""What a server shows of itself: services, methods, descriptors."""

import asyncio
import importlib
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from google.api import annotations_pb2, field_behavior_pb2
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

GENERATED = Path(__file__).parents[2] / "generated"
METHODS = (
    "ListOperations",
    "GetOperation",
    "DeleteOperation",
    "CancelOperation",
    "WaitOperation",
)


async def ask(channel, **request):
    """Ask the reflection service one thing."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [reflection_pb2.ServerReflectionRequest(**request)]
    (answer,) = [each async for each in stub.ServerReflectionInfo(iter(requests))]
    return answer


async def files_of(channel, symbol):
    """Return the descriptors that the server has for a symbol."""
    answer = await ask(channel, file_containing_symbol=symbol)
    assert not answer.HasField("error_response"), (symbol, answer.error_response)
    files = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(each) for each in files]


def our_files():
    """Return the descriptors of every proto of ours."""
    names = sorted(
        str(path.relative_to(GENERATED).with_suffix("")).replace("/", ".")
        for path in GENERATED.rglob("*_pb2.py")
    )
    assert names
    return [importlib.import_module(name).DESCRIPTOR for name in names]


def our_methods():
    return [
        method
        for file in our_files()
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def request_fields():
    """Return every field that callers of our methods set, at any depth."""
    found = {}
    left = [method.input_type for method in our_methods()]
    while left:
        message = left.pop()
        if message.full_name.startswith("outlastapi.") and message.full_name not in found:
            found[message.full_name] = message.fields
            left += [field.message_type for field in message.fields if field.message_type]
    return [field for fields in found.values() for field in fields]


def long_running_methods():
    """Return the methods that start operations of a type of their own."""
    return [
        method
        for method in our_methods()
        if method.output_type.full_name == "google.longrunning.Operation"
        and method.name != "RedriveOperation"  # as GetOperation: it returns those of any method
    ]


@pytest.mark.assertion(1)
async def test_reflection_lists_the_operations_service_with_the_published_fields(serving):
    async with serving() as client:
        listed = await ask(client.channel, list_services="")
        names = {each.name for each in listed.list_services_response.service}
        assert "google.longrunning.Operations" in names
        assert "outlastapi.script.v1.ScriptService" in names
        files = await files_of(client.channel, "google.longrunning.Operations")
    (file,) = (each for each in files if each.package == "google.longrunning")
    (service,) = (each for each in file.service if each.name == "Operations")
    fields = {
        message.name: {field.name: field.number for field in message.field}
        for message in file.message_type
    }
    assert sorted(method.name for method in service.method) == sorted(METHODS)
    assert fields["Operation"] == {
        "name": 1,
        "metadata": 2,
        "done": 3,
        "error": 4,
        "response": 5,
    }
    assert fields["GetOperationRequest"] == {"name": 1}
    assert fields["CancelOperationRequest"] == {"name": 1}
    assert fields["DeleteOperationRequest"] == {"name": 1}
    assert fields["WaitOperationRequest"] == {"name": 1, "timeout": 2}
    assert fields["ListOperationsRequest"] == {
        "name": 4,
        "filter": 1,
        "page_size": 2,
        "page_token": 3,
        "return_partial_success": 5,
    }
    assert fields["ListOperationsResponse"] == {
        "operations": 1,
        "next_page_token": 2,
        "unreachable": 3,
    }


@pytest.mark.assertion(2)
async def test_every_standard_method_is_implemented_for_known_and_unknown_names(serving):
    async with serving() as client:
        known = (await client.finished()).name
        await client.page()
        await client.get(known)
        await client.wait(known)
        await client.cancel(known)
        await client.delete(known)
        for call in (client.get, client.wait, client.cancel, client.delete):
            refusal = await client.refused(call("operations/unknown"))
            assert refusal.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.assertion(3)
@pytest.mark.parametrize(
    "method", ["google.longrunning.Operations/Nope", "outlastapi.script.v1.Nope/RunScript"]
)
async def test_an_undefined_method_is_unimplemented(serving, method):
    async with serving() as client:
        call = client.channel.unary_unary(f"/{method}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await client.finished()).done


@pytest.mark.assertion(4)
def test_every_method_that_returns_an_operation_says_what_it_leads_to():
    pool = descriptor_pool.Default()
    methods = long_running_methods()
    assert len(methods) >= 2
    for method in methods:
        info = method.GetOptions().Extensions[operations_pb2.operation_info]
        for name in (info.response_type, info.metadata_type):
            assert name, method.full_name
            package = method.containing_service.file.package
            assert pool.FindMessageTypeByName(name if "." in name else f"{package}.{name}")
        assert not method.client_streaming
        assert not method.server_streaming


def test_every_method_has_a_path_in_http():
    assert len(our_methods()) >= 7
    for method in our_methods():
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        assert rule.WhichOneof("pattern"), method.full_name


def test_every_field_of_a_request_says_how_it_behaves():
    fields = request_fields()
    assert len(fields) >= 40
    for field in fields:
        assert field.GetOptions().Extensions[field_behavior_pb2.field_behavior], field.full_name


@pytest.mark.assertion(5)
def test_no_proto_of_ours_creates_or_copies_operations():
    for file in our_files():
        assert not {"Operation", "OperationInfo"} & set(file.message_types_by_name), file.name
        for service in file.services_by_name.values():
            assert "CreateOperation" not in service.methods_by_name, service.full_name
    pb2 = importlib.import_module("google.longrunning.operations_pb2")
    assert Path(pb2.__file__).is_relative_to(sys.prefix)


@pytest.mark.assertion(6)
async def test_reflection_resolves_every_response_and_metadata_type(serving):
    async with serving() as client:
        for method in long_running_methods():
            info = method.GetOptions().Extensions[operations_pb2.operation_info]
            package = method.containing_service.file.package
            for name in (info.response_type, info.metadata_type):
                full = name if "." in name else f"{package}.{name}"
                files = await files_of(client.channel, full)
                assert any(full.startswith(f"{file.package}.") for file in files)


SERVED = (
    "",
    "google.longrunning.Operations",
    "outlastapi.script.v1.ScriptService",
    "outlastapi.v1.OperationsAdminService",
)


async def test_the_health_of_every_service_is_told(serving):
    async with serving() as client:
        stub = health_pb2_grpc.HealthStub(client.channel)
        for name in SERVED:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="unknown"), timeout=20)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_no_service_is_healthy_while_the_server_stops(serving, connected):
    async with AsyncExitStack() as outlasting:
        async with serving() as client:
            elsewhere = await outlasting.enter_async_context(connected(client.server.address))
            stub = health_pb2_grpc.HealthStub(elsewhere.channel)
            watches = [
                stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=20)
                for name in SERVED
            ]
            for watch in watches:
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            # Who does not read when the server hangs up has no more to read.
            following = [asyncio.ensure_future(watch.read()) for watch in watches]
        for response in await asyncio.gather(*following):
            assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
        for watch in watches:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
