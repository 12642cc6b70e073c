"""A client that Google's generator makes of our protos and our service configuration."""

import json
import os
import shlex
import subprocess
import sys
from importlib import util
from pathlib import Path

import grpc_tools
import pytest

PROTOS = Path(__file__).parents[2] / "protos"
# Its comments would be converted by pandoc, a program that nothing else here needs.
GENERATOR = """
import pypandoc
pypandoc.convert_text = lambda text, *_, **__: text
from gapic.cli.generate import generate
generate()
"""
CLIENT = """
import json
import sys

import grpc
from outlastapi import imaging_v1
from outlastapi.imaging_v1.services.imaging_service import transports

address, uri = sys.argv[1:]
with grpc.insecure_channel(address) as channel:
    transport = transports.ImagingServiceGrpcTransport(host=address, channel=channel)
    client = imaging_v1.ImagingServiceClient(transport=transport)
    future = client.process_image(
        {"uri": uri, "derivatives": [{"width": 32, "format_": "AVIF"}]}, timeout=30
    )
    image = future.result(timeout=30)
    done = client.get_operation({"name": future.operation.name})
    print(json.dumps({
        "image": type(image).__qualname__,
        "size": [image.derivatives[0].width, image.derivatives[0].height],
        "metadata": type(future.metadata).__qualname__,
        "progress": future.metadata.operation.progress.percent,
        "done": done.done,
    }))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory, lacking):
    """Return the folder of the generated library."""
    if util.find_spec("gapic") is None:
        lacking("gapic-generator is not installed")
    folder = tmp_path_factory.mktemp("a library")
    plugin = folder / "protoc-gen-python_gapic"
    plugin.write_text(
        f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(GENERATOR)}\n", "utf-8"
    )
    plugin.chmod(0o755)
    configuration = PROTOS / "outlastapi/imaging/v1/imaging_v1.yaml"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    command += [f"-I{PROTOS / 'third_party'}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    command += [f"--plugin={plugin}", f"--python_gapic_out={folder}"]
    command += [f"--python_gapic_opt=transport=grpc,service-yaml={configuration}"]
    command += [str(PROTOS / "outlastapi/imaging/v1/imaging.proto")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.assertion(7)
def test_a_generated_client_starts_polls_and_gets_the_typed_response(server, library):
    # In a process of its own: it registers the same messages under classes of its own.
    paths = os.pathsep.join([str(library), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-c", CLIENT, server.address, server.uri("small.jpg")],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "image": "Image",
        "size": [32, 21],
        "metadata": "ProcessImageMetadata",
        "progress": 100,
        "done": True,
    }
