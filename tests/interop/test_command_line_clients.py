"""grpcurl and `buf curl`, which know the service by reflection alone."""

import base64
import json
import subprocess

import pytest
from google.protobuf import json_format
from grpc import StatusCode

IMAGING = "outlastapi.imaging.v1.ImagingService"
OPERATIONS = "google.longrunning.Operations"
ANY = "type.googleapis.com/outlastapi.imaging.v1"


def run(*command, request=None):
    return subprocess.run(
        [str(each) for each in command],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


class Grpcurl:
    def __init__(self, program, address):
        self._command = [program, "-plaintext"]
        self._address = address

    def services(self):
        return run(*self._command, self._address, "list").stdout.split()

    def methods(self, service):
        return run(*self._command, self._address, "list", service).stdout.split()

    def describe(self, symbol):
        return run(*self._command, self._address, "describe", symbol).stdout

    def call(self, method, request):
        """Return the JSON that a method answered, the status, and what was said of it."""
        options = ("-format-error", "-d", "@")
        ended = run(*self._command, *options, self._address, method, request=request)
        # It adds 64 to the status.
        status = ended.returncode - 64 if ended.returncode else 0
        return _json(ended), status, ended.stderr


class BufCurl:
    def __init__(self, program, address):
        self._command = [program, "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
        self._address = f"http://{address}"

    def services(self):
        return run(*self._command, "--list-services", self._address).stdout.split()

    def methods(self, service):
        listed = run(*self._command, "--list-methods", self._address).stdout.split()
        return [each.replace("/", ".") for each in listed if each.startswith(f"{service}/")]

    def call(self, method, request):
        url = f"{self._address}/{method}"
        ended = run(*self._command, "-d", "@-", url, request=request)
        # It shifts the status to the left.
        return _json(ended), ended.returncode >> 3, ended.stderr


def _json(ended):
    return json.loads(ended.stdout) if ended.returncode == 0 else None


@pytest.fixture(params=["grpcurl", "buf"])
def client(request, server):
    program = request.getfixturevalue(request.param)
    return {"grpcurl": Grpcurl, "buf": BufCurl}[request.param](program, server.address)


@pytest.fixture
def answer(client):
    """Call a method that answers."""

    def answer(method, **request):
        response, status, said = client.call(method, request)
        assert status == 0, said
        return response

    return answer


@pytest.fixture
def refusal(client):
    """Call a method that refuses; return the status and what was said of it."""

    def refusal(method, **request):
        _, status, said = client.call(method, request)
        assert status != 0
        return status, said

    return refusal


def process_image(server, name="small.jpg"):
    """Return a request with the bytes of a photograph, as JSON."""
    content = base64.b64encode((server.photos / name).read_bytes()).decode()
    return {"content": content, "derivatives": [{"width": 24, "format": "PNG"}]}


def test_the_services_and_their_methods_are_listed(client):
    assert {IMAGING, OPERATIONS, "grpc.health.v1.Health"} <= set(client.services())
    assert set(client.methods(OPERATIONS)) == {
        f"{OPERATIONS}.{verb}Operation{s}"
        for verb, s in [("Get", ""), ("List", "s"), ("Cancel", ""), ("Delete", ""), ("Wait", "")]
    }
    assert f"{IMAGING}.ProcessImage" in client.methods(IMAGING)


def test_grpcurl_describes_services_and_messages(grpcurl, server):
    client = Grpcurl(grpcurl, server.address)

    assert 'operation_info) = { response_type:"Image"' in client.describe(IMAGING)
    assert "rpc WaitOperation" in client.describe(OPERATIONS)
    assert "bytes content = 2" in client.describe("outlastapi.imaging.v1.ProcessImageRequest")
    assert "map<int32, .google.rpc.Status>" in client.describe(
        "outlastapi.imaging.v1.ImportImagesMetadata"
    )


def test_a_photo_is_processed_and_the_result_decoded(server, answer):
    started = answer(f"{IMAGING}/ProcessImage", **process_image(server))
    assert started["metadata"]["@type"] == f"{ANY}.ProcessImageMetadata"

    name = started["name"]
    waited = answer(f"{OPERATIONS}/WaitOperation", name=name, timeout="30s")
    got = answer(f"{OPERATIONS}/GetOperation", name=name)

    assert got == waited
    assert got["done"] is True
    assert got["metadata"]["operation"]["state"] == "SUCCEEDED"
    assert got["response"]["@type"] == f"{ANY}.Image"
    assert [each["width"] for each in got["response"]["derivatives"]] == [24]
    image = answer(f"{IMAGING}/GetImage", name=got["response"]["name"])
    assert image == {key: value for key, value in got["response"].items() if key != "@type"}


def test_a_list_is_filtered(server, answer, refusal):
    failed = answer(f"{IMAGING}/ProcessImage", **process_image(server, "broken.jpg"))["name"]
    ended = answer(f"{OPERATIONS}/WaitOperation", name=failed, timeout="30s")
    assert ended["error"]["code"] == 3
    assert ended["error"]["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"

    def listed(condition):
        page = answer(f"{OPERATIONS}/ListOperations", name="operations", filter=condition)
        return [each["name"] for each in page.get("operations", [])]

    assert listed(f'error.code = 3 AND name = "{failed}"') == [failed]
    assert failed not in listed("NOT done = true")
    status, said = refusal(f"{OPERATIONS}/ListOperations", filter="bogus = 1")
    assert status == StatusCode.INVALID_ARGUMENT.value[0]
    assert "no field 'bogus'" in said


def test_an_operation_is_cancelled(server, answer):
    request = json_format.MessageToDict(server.endless_request())
    name = answer(f"{IMAGING}/ProcessImage", **request)["name"]

    answer(f"{OPERATIONS}/CancelOperation", name=name)

    ended = answer(f"{OPERATIONS}/WaitOperation", name=name, timeout="30s")
    assert ended["error"]["code"] == StatusCode.CANCELLED.value[0]
    assert ended["metadata"]["operation"]["state"] == "CANCELLED"


def test_what_is_deleted_is_not_found(server, answer, refusal):
    name = server.start()
    image = answer(f"{OPERATIONS}/WaitOperation", name=name, timeout="30s")["response"]["name"]

    deletion = answer(f"{IMAGING}/DeleteImage", name=image)["name"]
    ended = answer(f"{OPERATIONS}/WaitOperation", name=deletion, timeout="30s")
    assert ended["response"]["@type"] == "type.googleapis.com/google.protobuf.Empty"
    answer(f"{OPERATIONS}/DeleteOperation", name=name)

    not_found = StatusCode.NOT_FOUND.value[0]
    for method in ("Get", "Wait", "Cancel", "Delete"):
        status, said = refusal(f"{OPERATIONS}/{method}Operation", name=name)
        assert status == not_found
        assert name in said
    assert refusal(f"{IMAGING}/GetImage", name=image)[0] == not_found
