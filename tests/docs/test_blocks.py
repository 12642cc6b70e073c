"""Every block of the documents is run."""

import os
import re
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.timeout(300)  # each command is a process

NODE_PACKAGES = ("@grpc/grpc-js", "@grpc/proto-loader")


def test_the_blocks_of_a_document_do_what_they_show(document, read_blocks, reader):
    for block in read_blocks(document):
        reader.follow(block)
    reader.stop()


def test_every_file_of_a_document_is_used_by_a_later_block(document, read_blocks):
    blocks = read_blocks(document)
    for number, block in enumerate(blocks):
        if block.file:
            stem = block.file.rpartition(".")[0]
            assert any(stem in later.text for later in blocks[number + 1 :]), block.where


def test_the_client_for_node_works(root, read_blocks, reader, lacking):
    node = shutil.which("node")
    if node is None:
        lacking("node is not installed")
    search_path = os.pathsep.join([str(root / "node_modules"), os.environ.get("NODE_PATH", "")])
    script = f"{list(NODE_PACKAGES)}.forEach(name => require.resolve(name))"
    found = subprocess.run(
        [node, "-e", script],
        env=os.environ | {"NODE_PATH": search_path},
        capture_output=True,
        check=False,
    )
    if found.returncode != 0:
        lacking(f"node finds no {' or '.join(NODE_PACKAGES)} in node_modules or NODE_PATH")
    reader.not_run.remove("node")
    for block in read_blocks(root / "README.md"):
        reader.follow(block)
    reader.stop()


def test_the_commands_of_make_exist(commands, root):
    targets = set(
        re.findall(r"^([a-z-]+):.*## ", (root / "Makefile").read_text("utf-8"), re.MULTILINE)
    )
    asked_for = {command.split()[1] for command in commands if command.startswith("make ")}
    assert {"demo", "test"} <= asked_for <= targets


def test_what_pip_is_asked_for_exists(commands, pyproject):
    asked_for = {
        extra
        for command in commands
        for match in re.findall(r"pip install .*'\.\[([a-z,]+)\]", command)
        for extra in match.split(",")
    }
    assert asked_for
    assert asked_for <= set(pyproject["project"]["optional-dependencies"])
