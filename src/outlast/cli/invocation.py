"""Calls of methods that are known through reflection only."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.longrunning.operations_pb2 import Operation
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from outlast.cli.channel import open_channel, rpc_errors_reported
from outlast.cli.client import OperationsClient
from outlast.cli.codec import snapshot_of
from outlast.cli.connection import Connection
from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.cli.messages import to_json
from outlast.cli.outcome import print_outcome, see_through
from outlast.cli.reflection import NoReflectionError, ServerTypes
from outlast.cli.render import print_json, print_result

_OPERATION = Operation.DESCRIPTOR.full_name


def invoke(
    connection: Connection, target: str, data: str, *, wait: bool = False, timeout: float = math.inf
) -> None:
    """Call `SERVICE/METHOD` and print what it returns, or what becomes of its operation."""
    with open_channel(connection) as channel:
        types = ServerTypes(channel, connection, timeout)
        with rpc_errors_reported(connection):
            method = _find_method(types, target, connection)
            requests = _requests(method, data, types.pool)
            if wait and (method.output_type.full_name != _OPERATION or method.server_streaming):
                raise Failure(
                    ExitCode.USAGE,
                    f"{method.full_name} does not return an operation: call it without --wait",
                )
            responses = _call(channel, connection, method, requests, timeout)
            if method.server_streaming:
                for each in responses:
                    print_json(_shown(each, types.pool))
                return
            received = list(responses)
        if not received:
            raise Failure(ExitCode.RPC_ERROR, f"{method.full_name} ended without a response")
        response = received[0]
        if not wait:
            print_result(_shown(response, types.pool))
            return
        snapshot = snapshot_of(Operation.FromString(response.SerializeToString()), types.pool)
        if snapshot.done:
            print_outcome(snapshot)
        else:
            client = OperationsClient(channel, connection, types.pool)
            see_through(client, snapshot.name, connection, timeout=timeout)


def _find_method(types: ServerTypes, target: str, connection: Connection) -> MethodDescriptor:
    target = target.removeprefix("/")
    service_name, separator, method_name = target.rpartition("/" if "/" in target else ".")
    if not separator:
        raise Failure(ExitCode.USAGE, f"{target!r} is not of the form SERVICE/METHOD")
    try:
        services = types.services()
    except NoReflectionError:
        raise Failure(
            ExitCode.RPC_ERROR,
            f"the server at {connection.address} has no reflection, which tells what it offers",
            "switch server reflection on, or call it with a client made from its protos",
        ) from None
    full_name = _full_service_name(service_name, services, connection)
    try:
        methods = types.pool.FindServiceByName(full_name).methods_by_name
    except (KeyError, TypeError):
        raise Failure(
            ExitCode.RPC_ERROR, f"the server lists {full_name} but does not describe it well"
        ) from None
    if method_name not in methods:
        raise Failure(
            ExitCode.NOT_FOUND,
            f"{full_name} has no method {method_name!r}",
            f"it has: {', '.join(methods)}",
        )
    method: MethodDescriptor = methods[method_name]
    return method


def _full_service_name(name: str, services: Sequence[str], connection: Connection) -> str:
    if name in services:
        return name
    candidates = [service for service in services if service.rpartition(".")[2] == name]
    if len(candidates) > 1:
        raise Failure(
            ExitCode.USAGE,
            f"{name!r} is the name of several services: give the full name",
            f"one of: {', '.join(candidates)}",
        )
    if not candidates:
        raise Failure(
            ExitCode.NOT_FOUND,
            f"the server at {connection.address} has no service {name!r}",
            f"it has: {', '.join(services)}",
        )
    return candidates[0]


def _requests(method: MethodDescriptor, data: str, pool: DescriptorPool) -> list[Message]:
    """Return the messages that `--data` stands for."""
    request_class = message_factory.GetMessageClass(method.input_type)
    try:
        documents = list(_documents(_content(data)))
        if not method.client_streaming:
            documents = documents or [{}]
        requests = [_parsed(document, request_class(), pool) for document in documents]
    except OSError as error:
        raise Failure(
            ExitCode.USAGE, f"--data: cannot read {error.filename}: {error.strerror}"
        ) from None
    except (ValueError, TypeError, RecursionError, json_format.Error) as error:
        raise Failure(ExitCode.USAGE, f"--data: {error}") from None
    if len(requests) > 1 and not method.client_streaming:
        raise Failure(ExitCode.USAGE, f"--data: {method.full_name} takes one request only")
    return requests


def _parsed(document: Any, request: Message, pool: DescriptorPool) -> Message:
    if not isinstance(document, dict) and request.DESCRIPTOR.file.package != "google.protobuf":
        raise ValueError("the request must be a JSON object, such as {}")
    return json_format.ParseDict(document, request, descriptor_pool=pool)


def _content(data: str) -> str:
    if data == "-":
        return sys.stdin.read()
    if data.startswith("@"):
        return Path(data[1:]).read_text(encoding="utf-8")
    return data


def _documents(text: str) -> Iterator[Any]:
    """Return the JSON documents that follow one another in a text."""
    decoder = json.JSONDecoder()
    text = text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:].lstrip()


def _call(
    channel: grpc.Channel,
    connection: Connection,
    method: MethodDescriptor,
    requests: Sequence[Message],
    timeout: float,
) -> Iterator[Message]:
    # A call with one message is on the wire what a stream of one is.
    call: grpc.StreamStreamMultiCallable[Message, Message] = channel.stream_stream(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    return call(
        iter(requests),
        timeout=None if math.isinf(timeout) else timeout,
        metadata=connection.headers,
    )


def _shown(response: Message, pool: DescriptorPool) -> Any:
    try:
        return to_json(response, pool)
    except ValueError as error:
        raise Failure(ExitCode.RPC_ERROR, f"the response cannot be shown: {error}") from None
