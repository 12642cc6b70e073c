"""What the documents list is what there is."""

import ast
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

import outlast
from outlast.cli.exit_codes import ExitCode
from outlast.cli.main import main
from outlast.domain import errors, names, transitions
from outlast.domain.filter import (
    MAX_DEPTH,
    MAX_FILTER_LENGTH,
    MAX_PATH_LENGTH,
    MAX_TERMS,
    operations,
)
from outlast.domain.operation import Lease, Operation, State
from outlast.domain.status import Payload, Status
from outlast.domain.transitions import (
    CANCELLED,
    Cancelled,
    Failed,
    Released,
    Retry,
    Succeeded,
)
from outlast.engine import outcome, processes
from outlast.ports import OperationStore
from outlast.rpc.binding import MAX_REQUEST_ID_LENGTH
from outlast.rpc.queries import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from tests.e2e.test_rolling_restart import RETRIES

KIB, MIB = 2**10, 2**20
MAX_README_LINES = 150
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=30)


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def shown(value):
    """Return how tables show a default."""
    match value:
        case timedelta():
            return f"{value.total_seconds():g} s"
        case int() if value and value % MIB == 0:
            return f"{value // MIB} MiB"
        case int() if value and value % KIB == 0:
            return f"{value // KIB} KiB"
        case _:
            return str(value)


def commands_of(command, path="outlast"):
    yield path, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from commands_of(each, f"{path} {name}")


def rows_after(text, marker):
    """Return the cells of the rows of the first table after a marker."""
    assert marker in text
    table = re.search(r"^\| ---.*\n((?:\|.*\n)+)", text.partition(marker)[2], re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table[1].splitlines()]


def names_in(cells):
    return [name for cell in cells for name in re.findall(r"`(?:outlast\.)?(\w+)`", cell)]


@pytest.fixture
def service_guide(root):
    return (root / "docs/writing-a-service.md").read_text("utf-8")


@pytest.fixture
def protocol(root):
    return (root / "docs/protocol.md").read_text("utf-8")


def test_the_readme_is_short(root):
    lines = (root / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES


def test_links_lead_somewhere(document):
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in anchors, target


def test_every_public_name_is_documented(service_guide):
    rows = rows_after(service_guide, "## 7. Public names")
    assert sorted(names_in(row[0] for row in rows)) == sorted(outlast.__all__)


def test_every_member_of_the_context_is_documented(service_guide):
    rows = rows_after(service_guide, "### `outlast.OperationContext`")
    members = {name for name in dir(outlast.OperationContext) if not name.startswith("_")}
    assert set(names_in(row[0] for row in rows)) == members | {"metadata"}


def test_every_option_of_the_decorator_is_documented(service_guide):
    rows = rows_after(service_guide, "### Options of")
    parameters = inspect.signature(outlast.long_running).parameters.values()
    options = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    assert sorted(names_in(row[0] for row in rows)) == sorted(options)


@pytest.mark.parametrize(
    ("settings", "marker"),
    [
        (outlast.EngineSettings, "`outlast.EngineSettings`, given as"),
        (outlast.RetryPolicy, "`outlast.RetryPolicy`:"),
        (outlast.ServerConfig, "`outlast.ServerConfig`:"),
    ],
)
def test_every_setting_is_documented_with_its_default(service_guide, settings, marker):
    rows = rows_after(service_guide, marker)
    defaults = {field.name: field.default for field in fields(settings)}
    assert names_in(row[0] for row in rows) == list(defaults)
    for name, (_, default, meaning) in zip(defaults, rows, strict=True):
        assert meaning
        if isinstance(defaults[name], bool | float | int | str | timedelta):
            assert default.strip("`") == shown(defaults[name]), name


def test_every_option_of_the_server_is_documented_with_its_variable_and_default(service_guide):
    rows = rows_after(service_guide, "Each option of `serve`")
    options = main.commands["serve"].params
    assert [row[0] for row in rows] == [f"`{option.opts[-1]}`" for option in options]
    for option, (_, variable, default, meaning) in zip(options, rows, strict=True):
        assert variable == f"`{option.envvar}`"
        assert meaning
        if isinstance(option.default, str | int) and not option.is_flag:
            assert default == f"`{option.default}`"
        else:
            assert default == ""


def test_a_worker_has_the_options_of_the_server_that_are_said_to_be_its_own_too():
    """The guide says which it has not, in place of a table."""
    of_server, of_worker = (
        {(option.opts[-1], option.envvar) for option in main.commands[name].params}
        for name in ("serve", "worker")
    )
    assert {flag for flag, _ in of_server - of_worker} == {
        "--no-execute",
        "--listen",
        "--processes",
        "--insecure",
        "--tls-cert",
        "--tls-key",
    }
    assert of_worker - of_server == {("--listen", "OUTLAST_WORKER_LISTEN")}


def test_every_command_is_documented_with_its_options(service_guide):
    for path, command in commands_of(main):
        assert f"`{path}" in service_guide or f"$ {path}" in service_guide, path
        for option in command.params:
            if isinstance(option, click.Option):
                for name in option.opts:
                    assert re.search(rf"(?<![\w-]){name}(?![\w-])", service_guide), (path, name)
                assert not option.envvar or f"`{option.envvar}`" in service_guide


def test_every_operations_command_has_a_row_with_its_options(service_guide):
    shared = {"address", "tls", "ca_cert", "headers"}
    for name, command in main.commands["operations"].commands.items():
        rows = [
            line for line in service_guide.splitlines() if f"| `outlast operations {name} " in line
        ]
        assert rows, name
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in shared:
                assert any(f"`{option.opts[0]}`" in row for row in rows), (name, option.opts)


def test_every_exit_code_is_documented(service_guide):
    for code in ExitCode:
        assert f"\n| {code.value} | {code.meaning} |\n" in service_guide


def test_every_field_of_the_filter_is_documented(protocol):
    rows = [line for line in operations.__doc__.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    for row in rows:
        assert f"\n{row}\n" in protocol


def test_every_limit_of_requests_is_documented(protocol):
    limits = {
        DEFAULT_PAGE_SIZE,
        MAX_DEPTH,
        MAX_FILTER_LENGTH,
        MAX_PAGE_SIZE,
        MAX_PATH_LENGTH,
        MAX_REQUEST_ID_LENGTH,
        MAX_TERMS,
        names.MAX_NAME_LENGTH,
        names.MAX_PARENT_LENGTH,
    }
    for limit in limits:
        assert re.search(rf"\b{limit}\b", protocol), limit


def test_every_reason_of_an_error_is_documented(protocol):
    reasons = {
        each.reason
        for each in subclasses(errors.OutlastError)
        if each.__module__.startswith("outlast.")
    }
    statuses = [value for module in (transitions, outcome) for value in vars(module).values()]
    reasons |= {value.reason for value in statuses if isinstance(value, Status)}
    internal = {"ATTEMPT_FAILED", "STORE_NOT_OPENED", "LIMIT_REACHED", "LEASE_LOST"}
    assert processes.WorkerProcessError.reason in reasons
    for reason in reasons - internal:
        assert f"`{reason}`" in protocol, reason


def test_the_retries_of_the_guide_are_those_that_restarts_are_tested_with(root, read_blocks):
    blocks = read_blocks(root / "docs/operating.md")
    (caller,) = (block for block in blocks if block.file == "caller.py")
    shown = re.search(r"^SERVICE_CONFIG = (\{.*?^\})", caller.text, re.MULTILINE | re.DOTALL)
    assert ast.literal_eval(shown[1]) == json.loads(RETRIES)


def test_every_test_that_the_documents_name_exists(documents, root):
    named = sorted(set(re.findall(r"`(tests/[\w/]+\.py::[\w:]+)`", documents)))
    assert named
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", *named],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert collected.returncode == 0, collected.stdout + collected.stderr


def test_every_path_that_the_documents_name_exists(documents, root):
    named = set(
        re.findall(r"`((?:src|tests|protos|docs|benchmarks|generated)/[\w/.-]*)", documents)
    )
    for path in named:
        assert (root / Path(path)).exists(), path


def test_every_method_of_the_port_is_documented(root):
    rows = rows_after((root / "docs/writing-a-store.md").read_text("utf-8"), "## The port")
    members = {*OperationStore.__abstractmethods__, "durability"}
    assert set(names_in(row[0] for row in rows)) == members


def test_the_diagram_of_the_states_shows_every_change(root):
    """All changes are tried on every kind of record that there can be."""
    text = (root / "docs/architecture.md").read_text("utf-8")
    arrows = re.findall(r"^ +(\w+) --> (\w+):", text.partition("stateDiagram-v2")[2], re.MULTILINE)
    waiting = Operation(
        name="operations/1",
        parent="",
        method="a/b",
        create_time=NOW,
        update_time=NOW,
        max_attempts=2,
    )
    running = transitions.claim(waiting, "worker", NOW, LEASE)
    asked = transitions.request_cancel(running, NOW)
    records = [
        record.evolve(deadline=deadline, attempt=attempt)
        for record in (waiting, running, asked)
        for deadline in (None, NOW)
        for attempt in (1, 2)
    ]
    lease = Lease(running.name, running.lease_epoch)
    outcomes = (
        Succeeded(Payload("")),
        Failed(CANCELLED),
        Cancelled(),
        Retry(CANCELLED, LEASE),
        Released(),
    )
    changes = {
        (record.state, transitions.claim(record, "other", NOW, LEASE).state) for record in records
    }
    changes |= {
        (record.state, transitions.finish(record, lease, outcome, NOW).state)
        for record in records
        for outcome in outcomes
        if record.state is State.RUNNING
    }
    changes.add((waiting.state, transitions.request_cancel(waiting, NOW).state))
    assert sorted(arrows) == sorted((str(before), str(after)) for before, after in changes)
