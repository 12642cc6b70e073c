"""Services and servers that are put together wrongly fail when they start, and say where."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib import resources
from pathlib import Path

import grpc
import grpc_tools
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from grpc_tools import protoc
from outlastapi.script.v1 import script_pb2, script_pb2_grpc

import outlast
from outlast_script import ScriptService

RUN = "outlastapi.script.v1.ScriptService/RunScript"
ERASE = "outlastapi.script.v1.ScriptService/EraseScript"
HERE = Path(__file__).parent
THIRD_PARTY = HERE.parents[1] / "protos" / "third_party"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Return what grpc_tools makes of configuration.proto: messages, and services."""
    folder = tmp_path_factory.mktemp("generated")
    builtin = resources.files(grpc_tools) / "_proto"
    arguments = [
        "protoc",
        *(f"-I{path}" for path in (HERE, THIRD_PARTY, builtin)),
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        "configuration.proto",
    ]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, str(folder))
    try:
        return (
            importlib.import_module("configuration_pb2"),
            importlib.import_module("configuration_pb2_grpc"),
        )
    finally:
        sys.path.remove(str(folder))


def servicer_of(services, name, **options):
    """Return a servicer of a service, whose only RPC is long-running."""

    class Servicer(getattr(services, f"{name}Servicer")):
        @outlast.long_running(**options)
        async def Run(self, request, operation):
            raise NotImplementedError

    return Servicer()


async def refusal_of(*services, **config):
    """Return how a server of these services fails to start."""
    settings = {"store": "memory:", "listen": "127.0.0.1:0"} | config
    with pytest.raises(outlast.ConfigurationError) as caught:
        async with outlast.Server(services=services, config=outlast.ServerConfig(**settings)):
            pass
    return str(caught.value)


@pytest.mark.assertion(4)
@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("NoInfoService", "no response_type"),
        ("NoResponseTypeService", "no response_type"),
        ("NoMetadataTypeService", "no metadata_type"),
        ("UnknownResponseTypeService", "'configuration.v1.Nowhere'"),
        ("UnknownMetadataTypeService", "'nowhere.v1.Metadata'"),
        ("OtherOutputService", "must return one google.longrunning.Operation"),
        ("StreamService", "one google.longrunning.Operation, without streams"),
        ("RequestStreamService", "must take one request"),
    ],
)
async def test_a_proto_that_does_not_say_what_an_operation_leads_to(generated, service, said):
    message = await refusal_of(servicer_of(generated[1], service))
    assert "configuration.proto" in message
    assert f"configuration.v1.{service}.Run" in message
    assert said in message


async def test_a_decorated_method_that_is_no_rpc():
    class Servicer(script_pb2_grpc.ScriptServiceServicer):
        @outlast.long_running()
        async def RunSkript(self, request, operation):
            raise NotImplementedError

        async def RunScript(self, request, context):
            raise NotImplementedError

        async def EraseScript(self, request, context):
            raise NotImplementedError

    message = await refusal_of(Servicer())
    assert "outlastapi/script/v1/script.proto" in message
    assert "has no RPC RunSkript" in message


class Undecorated(script_pb2_grpc.ScriptServiceServicer):
    async def RunScript(self, request, context):
        raise NotImplementedError


class Derived(Undecorated):
    """Has the method from its base."""


@pytest.mark.parametrize("servicer", [Undecorated(), Derived()], ids=["written", "inherited"])
async def test_a_long_running_method_whose_decorator_was_forgotten(servicer):
    assert await refusal_of(servicer) == (
        "outlastapi/script/v1/script.proto: outlastapi.script.v1.ScriptService.RunScript has "
        f"operation_info, and {type(servicer).__name__}.RunScript is not decorated: "
        "write @outlast.long_running() above it"
    )


async def test_a_long_running_method_that_is_not_written_is_told_once(caplog, serving):
    class Partial(script_pb2_grpc.ScriptServiceServicer):
        @outlast.long_running()
        async def RunScript(self, request, operation):
            raise NotImplementedError

    async with serving(Partial()) as client:
        stub = script_pb2_grpc.ScriptServiceStub(client.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.EraseScript(script_pb2.EraseScriptRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    told = [it.getMessage() for it in caplog.records if it.levelname == "WARNING"]
    assert told == ["Partial.EraseScript is not written: it answers UNIMPLEMENTED"]


async def test_a_method_without_operation_info_may_hand_an_operation_on(generated, serving):
    messages, services = generated

    class Handing(services.NoInfoServiceServicer):
        async def Run(self, request, context):
            return operations_pb2.Operation(name=f"operations/{request.name}")

    async with serving(Handing()) as client:
        stub = services.NoInfoServiceStub(client.channel)
        operation = await stub.Run(messages.Request(name="elsewhere"))
    assert operation.name == "operations/elsewhere"


@pytest.mark.parametrize("servicer", [object(), outlast.RetryPolicy()])
async def test_what_is_no_servicer(servicer):
    message = await refusal_of(servicer)
    assert type(servicer).__name__ in message
    assert "derive it from the …Servicer class of the service's _pb2_grpc module" in message


async def test_a_class_in_the_place_of_a_servicer():
    message = await refusal_of(ScriptService)
    assert message == "ScriptService is a class; hand in a servicer, such as ScriptService()"


async def test_a_service_that_is_served_twice():
    class Second(script_pb2_grpc.ScriptServiceServicer):
        """Without a method of its own."""

    message = await refusal_of(ScriptService(), Second())
    assert message == (
        "outlastapi.script.v1.ScriptService is served twice, by ScriptService and by Second"
    )


async def test_a_service_that_is_served_here_already():
    class Mine(operations_pb2_grpc.OperationsServicer):
        """In the place of the framework's."""

    message = await refusal_of(Mine())
    assert "google.longrunning.Operations is served twice, by Mine and by" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"services": ScriptService()}, "services must be a list of servicers"),
        ({"services": [], "settings": {"concurrency": 1}}, "settings must be outlast.Engine"),
        ({"services": [], "store": Path("outlast.db")}, "store must be a str, the path to a file"),
        ({"services": [], "methods": RUN}, "methods must be a list of names, not 'outlastapi"),
        ({"services": [], "except_methods": 1}, "except_methods must be a list of names, not 1"),
        ({"services": [], "methods": [b"x"]}, "each of methods must be a str: package"),
        ({"services": [], "methods": [RUN]}, f"method '{RUN}'; there are: none"),
        ({"services": [ScriptService()], "methods": []}, "no methods are left to run"),
        (
            {"services": [ScriptService()], "except_methods": ["RunScript"]},
            f"method 'RunScript'; there are: {ERASE}, {RUN}",
        ),
    ],
)
async def test_operations_that_cannot_be_opened(arguments, said):
    with pytest.raises(outlast.ConfigurationError, match=said):
        async with outlast.Operations.open(**({"store": "memory:"} | arguments)):
            pass


async def test_operations_run_the_methods_that_they_are_told_to():
    methods = {"methods": [ERASE]}, {"except_methods": {RUN}}
    for choice in methods:
        opening = outlast.Operations.open("memory:", services=[ScriptService()], **choice)
        async with opening as operations:
            assert [*operations.engine.taken] == [ERASE]


async def test_operations_that_are_not_open_say_how_to_open_them():
    with pytest.raises(AttributeError, match=r"async with Operations\.open"):
        outlast.Operations.open("memory:", services=[]).add_to(grpc.aio.server())


async def test_a_server_of_threads_is_refused():
    server = grpc.server(ThreadPoolExecutor(1))
    async with outlast.Operations.open("memory:", services=[]) as operations:
        with pytest.raises(outlast.ConfigurationError, match=r"of grpc\.aio\.server\(\)"):
            operations.add_to(server)
    server.stop(None)


def test_a_handler_that_is_not_async():
    with pytest.raises(outlast.ConfigurationError, match=r"test_configuration\.\S+RunScript must"):

        class Servicer(ScriptService):
            @outlast.long_running()
            def RunScript(self, request, operation):
                raise NotImplementedError


async def test_an_rpc_beside_it_that_is_not_async():
    class Servicer(ScriptService):
        def EraseScript(self, request, context):
            raise NotImplementedError

    message = await refusal_of(Servicer())
    assert message == "Servicer.EraseScript must be an async def"


async def test_an_rpc_that_the_servicer_leaves_out_is_unimplemented(serving):
    class Half(script_pb2_grpc.ScriptServiceServicer):
        @outlast.long_running()
        async def RunScript(self, request, operation):
            return script_pb2.RunScriptResponse()

    async with serving(Half()) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.erase()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await client.finished()).HasField("response")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": timedelta()}, "timeout must be more than 0"),
        ({"timeout": timedelta(seconds=-1)}, "timeout must be more than 0"),
        ({"timeout": 10}, r"timeout must be a datetime\.timedelta, not 10"),
        ({"retention": timedelta(seconds=-1)}, "retention must be more than 0"),
        ({"retention": timedelta()}, "retention must be more than 0"),
        ({"retention": 5}, r"retention must be a datetime\.timedelta"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"concurrency": "1"}, "concurrency must be a whole number"),
        ({"max_running": 0}, "max_running must be at least 1"),
        ({"retry": 3}, "retry must be a RetryPolicy, not 3"),
        ({"retry": 0}, "retry must be a RetryPolicy, not 0"),
        ({"validate": "check"}, "validate must be a function"),
        ({"validate": lambda: None}, "validate must take the request, or the servicer and"),
        ({"validate": lambda _a, _b, _c: None}, "validate must take the request, or the"),
        ({"exclusive": lambda: ""}, "exclusive must take the request"),
        ({"target": lambda _a, _b: ""}, "target must take the request"),
    ],
)
def test_options_that_cannot_be(generated, options, said):
    with pytest.raises(outlast.ConfigurationError, match=rf"Servicer\.Run: {said}"):
        servicer_of(generated[1], "PlainService", **options)


def test_the_decorator_without_parentheses():
    with pytest.raises(outlast.ConfigurationError, match="with parentheses"):

        class Servicer(ScriptService):
            @outlast.long_running
            async def RunScript(self, request, operation):
                raise NotImplementedError


def test_a_handler_that_takes_something_else():
    with pytest.raises(outlast.ConfigurationError, match=r"RunScript must take self, the request"):

        class Servicer(ScriptService):
            @outlast.long_running()
            async def RunScript(self, request):
                raise NotImplementedError


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"multiplier": 0.5},
        {"jitter": 1},
        {"jitter": -0.1},
        {"initial_backoff": timedelta()},
        {"initial_backoff": timedelta(hours=1)},
    ],
)
def test_a_retry_policy_that_leaves_nothing(options):
    with pytest.raises(outlast.ConfigurationError, match=next(iter(options))):
        outlast.RetryPolicy(**options)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"store": "mysql://me:secret@there"}, "there is no store for 'mysql://me@there'"),
        ({"store": "host=db password=secret"}, "named by a postgresql:// URL, not by key words"),
        ({"store": "memory:", "store_direct": "postgresql://db"}, "both have to be postgresql://"),
        ({"store": "postgresql://db", "store_direct": "a.db"}, "both have to be postgresql://"),
        ({"listen": "192.0.2.1:0"}, "cannot listen on 192.0.2.1:0"),
        ({"tls": outlast.TlsFiles(certificate=Path("/no/c"), key=Path("/no/k"))}, "/no/c"),
    ],
)
async def test_a_server_that_cannot_be(config, said):
    assert said in await refusal_of(ScriptService(), **config)


async def test_a_port_that_is_taken():
    config = outlast.ServerConfig(store="memory:", listen="127.0.0.1:0")
    async with outlast.Server(services=[], config=config) as server:
        message = await refusal_of(listen=server.address)
    assert server.address in message
    assert "in use" in message


@pytest.mark.parametrize(
    "config",
    [
        {"listen": "here"},
        {"listen": 50051},
        {"store": Path("outlast.db")},
        {"grace": timedelta(seconds=-1)},
        {"grace": 5},
        {"tls": "server.pem"},
        {"engine": {"concurrency": 1}},
        {"execute": "no"},
        {"methods": RUN},
        {"api": "no"},
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be(config):
    (name,) = config
    with pytest.raises(outlast.ConfigurationError, match=f"{name} must "):
        outlast.ServerConfig(**config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"execute": False, "api": False}, "there is nothing to do"),
        ({"execute": False, "methods": [RUN]}, "with execute=False no methods are run"),
        ({"execute": False, "except_methods": [RUN]}, "with execute=False no methods are run"),
        ({"methods": [RUN], "except_methods": [ERASE]}, "give one of them"),
        ({"listen": None}, "only a worker, with api=False, can do without"),
    ],
)
def test_a_configuration_that_contradicts_itself(config, said):
    with pytest.raises(outlast.ConfigurationError, match=said):
        outlast.ServerConfig(**config)


def test_tls_files_are_paths():
    with pytest.raises(outlast.ConfigurationError, match=r"key must be a pathlib\.Path"):
        outlast.TlsFiles(certificate=Path("server.crt"), key="server.key")


async def test_a_servicer_that_was_handed_to_nobody_says_so_when_it_is_called():
    server = grpc.aio.server()
    script_pb2_grpc.add_ScriptServiceServicer_to_server(ScriptService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = script_pb2_grpc.ScriptServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RunScript(script_pb2.RunScriptRequest())
        assert "ScriptService.RunScript" in caught.value.details()
        assert "outlast.Operations" in caught.value.details()
    finally:
        await server.stop(None)


async def test_fields_of_other_types_have_no_meaning(generated, serving):
    """And metadata without a field for the framework is the service's own alone."""
    messages, services = generated

    class Plain(services.PlainServiceServicer):
        @outlast.long_running(target=lambda request: f"books/{request.name}")
        async def Run(self, request, operation):
            operation.metadata.pages = 7
            await operation.progress(completed=1)
            return messages.Response(text=" ".join(request.parent))

    async with serving(Plain()) as client:
        stub = services.PlainServiceStub(client.channel)
        fields = {"request_id": "any text", "validate_only": "yes", "parent": ["a", "b"]}
        started = await stub.Run(messages.Request(name="n", **fields))
        again = await stub.Run(messages.Request(name="n", **fields))
        assert started.name.startswith("operations/")
        assert again.name == started.name
        request = operations_pb2.WaitOperationRequest(name=started.name)
        done = await client.operations.WaitOperation(request)
        assert client.unpack(done.metadata) == messages.Metadata(pages=7)
        assert client.unpack(done.response) == messages.Response(text="a b")
        listing = operations_pb2.ListOperationsRequest(filter='target="books/n" metadata.pages=7')
        assert list((await client.operations.ListOperations(listing)).operations) == [done]
        for text in ("a" * 129, "a" * 100_000):
            call = stub.Run(messages.Request(request_id=text))
            assert (await client.refused(call)).field == "request_id"


async def test_a_server_of_somebody_elses_takes_operations_in(store):
    server = grpc.aio.server()
    async with outlast.Operations.open(store, services=[ScriptService()]) as operations:
        operations.add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = script_pb2_grpc.ScriptServiceStub(channel)
                started = await stub.EraseScript(script_pb2.EraseScriptRequest())
                wait = channel.unary_unary(
                    "/google.longrunning.Operations/WaitOperation",
                    request_serializer=operations_pb2.WaitOperationRequest.SerializeToString,
                    response_deserializer=operations_pb2.Operation.FromString,
                )
                done = await wait(operations_pb2.WaitOperationRequest(name=started.name))
                assert done.response.Is(empty_pb2.Empty.DESCRIPTOR)
        finally:
            await server.stop(None)
