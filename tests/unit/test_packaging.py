"""What is in the distribution and in the repository, apart from the code."""

import hashlib
import importlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
LOWEST_OF_A_RANGE = re.compile(r">=\s*([0-9.]+)")


def distribution(requirement):
    """Return the normalised name in a requirement."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def requirements():
    """Return every requirement of pyproject.toml."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    lists = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *pyproject["dependency-groups"].values(),
    ]
    return [entry for each in lists for entry in each if isinstance(entry, str)]


def constraints():
    """Return the lines of constraints.txt that are not comments."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def drop_json_names(message):
    """Remove what protoc adds to a descriptor set and leaves out of Python code."""
    for field in (*message.field, *message.extension):
        field.ClearField("json_name")
    for nested in message.nested_type:
        drop_json_names(nested)


def project_files():
    """Return the text files of the project, without what tools made."""
    made = {".git", ".venv", "build", "dist", "generated", "generated.tmp", "htmlcov"}
    found = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if (
            made.isdisjoint(parts[:1])
            and not any(p.endswith(("cache", "cache__", ".hypothesis")) for p in parts)
            and path.is_file()
        ):
            found.append(path)
    return found


def samples():
    """Return the sample photographs, which is what there is beside the note."""
    folder = ROOT / "src" / "outlast_imaging" / "samples"
    return [path for path in sorted(folder.iterdir()) if path.name != "SOURCES.md"]


def note():
    """Return what the note on the samples says."""
    return (ROOT / "src" / "outlast_imaging" / "samples" / "SOURCES.md").read_text("utf-8")


@pytest.mark.parametrize(
    "order", [["operations_pb2", "operations_pb2_grpc"], ["operations_pb2_grpc", "operations_pb2"]]
)
def test_both_modules_of_google_longrunning_import_in_one_process(order):
    # A package that overwrites one of them (xds-protos does) breaks every server that needs both.
    program = "; ".join(f"import google.longrunning.{module}" for module in order)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_google_longrunning_has_all_five_methods():
    operations_pb2 = importlib.import_module("google.longrunning.operations_pb2")
    operations_pb2_grpc = importlib.import_module("google.longrunning.operations_pb2_grpc")
    methods = {
        method.name for method in operations_pb2.DESCRIPTOR.services_by_name["Operations"].methods
    }
    assert methods == {
        "CancelOperation",
        "DeleteOperation",
        "GetOperation",
        "ListOperations",
        "WaitOperation",
    }
    assert all(hasattr(operations_pb2_grpc.OperationsServicer, method) for method in methods)


def test_the_vendored_protos_are_those_of_the_installed_package(tmp_path):
    third_party = ROOT / "protos" / "third_party"
    names = sorted(str(path.relative_to(third_party)) for path in third_party.rglob("*.proto"))
    out = tmp_path / "descriptors"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{third_party}",
            f"--descriptor_set_out={out}",
            *names,
        ],
        check=True,
        timeout=30,
    )
    # Imported before anything is parsed, so that the options both sides carry are known ones.
    modules = {
        name: importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        for name in names
    }
    assert "google/longrunning/operations.proto" in modules
    for vendored in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        for message in vendored.message_type:
            drop_json_names(message)
        for extension in vendored.extension:
            extension.ClearField("json_name")
        installed = modules[vendored.name].DESCRIPTOR.serialized_pb
        assert vendored == descriptor_pb2.FileDescriptorProto.FromString(installed), vendored.name


@pytest.mark.parametrize(
    ("missing", "module"),
    [
        ("pytest", "store_contract"),
        ("pytest_asyncio", "store_contract"),
        ("hypothesis", "store_machine"),
    ],
)
def test_the_test_kit_says_what_to_install(missing, module):
    program = f"import sys; sys.modules[{missing!r}] = None; import outlast.testing.{module}"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    last = ran.stderr.splitlines()[-1]
    assert re.match(rf"ImportError: .* needs {missing}: install the extra ", last, re.IGNORECASE)
    extra = re.search(r"outlast\[(\w+)\]", last)[1]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installs = map(distribution, pyproject["project"]["optional-dependencies"][extra])
    assert distribution(missing) in set(installs)


@pytest.mark.parametrize("module", ["clock", "faults"])
def test_what_tests_of_services_use_needs_nothing_else(module):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['pytest', 'pytest_asyncio', 'hypothesis']));"
        f"import outlast.testing.{module}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_constraints_are_exact_versions_and_nothing_else():
    for line in constraints():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+", line), line


def test_every_requirement_is_constrained():
    constrained = {distribution(line) for line in constraints()}
    assert {distribution(each) for each in requirements()} <= constrained


def test_no_constraint_is_below_its_requirement():
    versions = {distribution(line): line.partition("==")[2] for line in constraints()}
    for each in requirements():
        if lowest := LOWEST_OF_A_RANGE.search(each):
            pinned = tuple(int(part) for part in re.findall(r"\d+", versions[distribution(each)]))
            assert pinned >= tuple(int(part) for part in lowest[1].split(".")), each


def test_no_file_names_a_registry_host():
    # A checkout must install from whatever index its machine is configured with.
    # The brackets keep the pattern from finding itself.
    hosts = re.compile(
        r"\b(py[p]i\.org|pythonho[s]ted\.org|np[m]js\.org|proxy\.gol[a]ng\.org|buf\.bui[l]d)\b"
        r"|--(extra-)?inde[x]-url"
    )
    named = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        if found := hosts.search(text):
            named.append(f"{path.relative_to(ROOT)}: {found[0]}")
    assert named == []


def build(target, source, folder):
    """Return the distribution that hatchling makes of a source tree."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel(wheel_file):
    """Return the names of the files in the wheel."""
    with zipfile.ZipFile(wheel_file) as archive:
        return set(archive.namelist())


def test_the_wheel_has_all_packages_and_nothing_else(wheel):
    roots = {name.partition("/")[0] for name in wheel if ".dist-info/" not in name}
    assert roots == {"outlast", "outlast_imaging", "outlast_script", "outlastapi"}
    assert {"outlast/py.typed", "outlastapi/py.typed"} <= wheel
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)
    sources = {
        str(path.relative_to(ROOT / root))
        for root in ("src", "generated")
        for path in (ROOT / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    links = {
        "outlast/protos/google": ROOT / "protos" / "third_party" / "google",
        "outlast/protos/outlastapi/v1": ROOT / "protos" / "outlastapi" / "v1",
    }
    protos = {
        f"{link}/{path.relative_to(folder)}"
        for link, folder in links.items()
        for path in folder.rglob("*.proto")
    }
    assert {name for name in wheel if ".dist-info/" not in name} == sources | protos


def test_a_wheel_that_is_built_from_the_source_distribution_is_the_same(wheel, tmp_path):
    (tmp_path / "sdist").mkdir()
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    with zipfile.ZipFile(build("wheel", source, tmp_path / "wheel")) as archive:
        assert set(archive.namelist()) == wheel


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "checkout"])
def test_protos_of_others_find_what_they_import(installed, wheel_file, tmp_path):
    packages = tmp_path / "installed packages"
    if installed:
        with zipfile.ZipFile(wheel_file) as archive:
            archive.extractall(packages)
    else:
        packages.symlink_to(ROOT / "src")

    def run(*arguments):
        command = [sys.executable, "-m", *arguments]
        environment = os.environ | {"PYTHONPATH": f"{packages}"}
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, timeout=30
        )
        return ran.stdout.decode()

    folder = run("outlast", "protos").removesuffix("\n")
    assert Path(folder) == packages / "outlast" / "protos"
    names = sorted(str(path.relative_to(ROOT / "protos")) for path in ROOT.glob("protos/*/v1/*"))
    names += ["google/api/field_info.proto", "google/longrunning/operations.proto"]
    assert "outlastapi/v1/operation_metadata.proto" in names
    imports = "".join(f'import "{name}";\n' for name in names)
    (tmp_path / "mine.proto").write_text(f'syntax = "proto3";\n{imports}')
    run("grpc_tools.protoc", "-I.", f"-I{folder}", "--python_out=.", "mine.proto")
    assert (tmp_path / "mine_pb2.py").exists()


def test_of_every_sample_the_note_says_where_it_is_from_and_what_is_allowed():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in note().splitlines()
        if line.startswith("| `")
    ]
    assert [row[0] for row in rows] == [f"`{path.name}`" for path in samples()]
    for name, what, by, rights, changed in rows:
        assert what, name
        assert by, name
        assert re.fullmatch(r"public domain|CC0( 1\.0)?", rights), name
        assert changed, name


def test_every_sample_is_the_file_that_the_note_speaks_of():
    noted = re.findall(r"^([0-9a-f]{64})  (\S+)$", note(), re.MULTILINE)
    found = [(hashlib.sha256(path.read_bytes()).hexdigest(), path.name) for path in samples()]
    assert noted == found


def test_the_samples_are_shipped_with_their_note(wheel):
    shipped = {name for name in wheel if name.startswith("outlast_imaging/samples/")}
    names = ["SOURCES.md", *(path.name for path in samples())]
    assert shipped == {f"outlast_imaging/samples/{name}" for name in names}
