"""The service configurations, from which gateways and generated clients are made."""

from pathlib import Path

import pytest
import yaml
from google.api import http_pb2
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool, json_format
from outlastapi.imaging.v1 import imaging_pb2  # noqa: F401  # its services are looked up
from outlastapi.script.v1 import script_pb2  # noqa: F401  # as above
from outlastapi.v1 import operations_admin_pb2  # noqa: F401  # as above

PROTOS = Path(__file__).parents[2] / "protos"
FILES = sorted(PROTOS.glob("outlastapi/*/v1/*_v1.yaml"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def configuration(request):
    return yaml.safe_load(request.param.read_text("utf-8"))


def test_every_service_with_long_running_methods_has_a_configuration():
    assert [file.stem for file in FILES] == ["imaging_v1", "script_v1"]


def test_every_api_that_is_named_exists(configuration):
    names = [api["name"] for api in configuration["apis"]]
    assert "google.longrunning.Operations" in names
    for name in names:
        assert descriptor_pool.Default().FindServiceByName(name).full_name == name


def test_every_method_of_operations_is_bound_with_and_without_a_parent(configuration):
    rules = {
        rule["selector"]: json_format.ParseDict(rule, http_pb2.HttpRule())
        for rule in configuration["http"]["rules"]
    }
    methods = operations_pb2.DESCRIPTOR.services_by_name["Operations"].methods
    assert set(rules) == {method.full_name for method in methods}
    verbs = {"CancelOperation": ":cancel", "WaitOperation": ":wait"}
    for method in methods:
        rule = rules[method.full_name]
        bindings = [rule, *rule.additional_bindings]
        paths = [getattr(each, each.WhichOneof("pattern")) for each in bindings]
        assert len(paths) == 2
        assert sum("**" in path for path in paths) == 1
        suffix = verbs.get(method.name, "")
        assert all(path.endswith(suffix) for path in paths)
        assert all((each.body == "*") == bool(suffix) for each in bindings)
