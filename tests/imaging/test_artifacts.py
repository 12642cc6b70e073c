"""The artifact store."""

import os
import threading
from pathlib import Path

import pytest

from outlast_imaging import artifacts
from outlast_imaging.artifacts import ArtifactStore
from outlast_imaging.limits import CHUNK_BYTES


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "a folder"))
    return ArtifactStore(f"memory://{tmp_path.name}")


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_what_was_written_is_read(store):
    store.write("images/1/image.json", b"one")

    assert store.read("images/1/image.json") == b"one"
    assert store.exists("images/1/image.json")


def test_writing_again_replaces_the_whole(store):
    store.write("images/1/image.json", b"a long text")
    store.write("images/1/image.json", b"short")

    assert store.read("images/1/image.json") == b"short"


def test_what_was_not_written_is_not_found(store):
    with pytest.raises(FileNotFoundError):
        store.read("images/1/image.json")
    with pytest.raises(FileNotFoundError):
        next(store.read_chunks("images/1/image.json", 0))
    assert not store.exists("images/1/image.json")


def test_a_file_is_read_in_chunks_from_anywhere(store):
    data = os.urandom(CHUNK_BYTES * 2 + 7)
    store.write("images/1/big", data)

    chunks = list(store.read_chunks("images/1/big", 0))

    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES, 7]
    assert b"".join(chunks) == data
    assert b"".join(store.read_chunks("images/1/big", 1000)) == data[1000:]
    assert list(store.read_chunks("images/1/big", len(data))) == []


def test_folders_are_listed_by_name(store):
    store.write("images/b/x", b"")
    store.write("images/a/x", b"")
    store.write("images/file", b"")

    assert store.folders("images") == ["a", "b"]
    assert store.folders("albums/none/images") == []


def test_a_folder_is_removed_with_all_that_is_in_it(store):
    store.write("images/1/image.json", b"one")
    store.write("images/1/derivatives/x", b"x")
    store.write("images/2/image.json", b"two")

    store.remove("images/1/derivatives/x")
    store.remove("images/1")
    store.remove("images/1")

    assert store.folders("images") == ["2"]
    assert store.read("images/2/image.json") == b"two"


def test_a_file_is_named_by_its_uri(tmp_path):
    folder = tmp_path / "a folder"

    assert ArtifactStore(str(folder)).uri("images/1/x") == (folder / "images/1/x").as_uri()
    assert ArtifactStore("memory://bucket").uri("images/1/x") == "memory:///bucket/images/1/x"


def test_a_relative_folder_means_the_same_after_the_process_has_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore("artifacts")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    store.write("images/1/x", b"x")
    ArtifactStore(store.url).write("images/2/x", b"x")

    assert sorted(names(tmp_path / "artifacts/images")) == ["1", "2"]


def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch):
    store = ArtifactStore(str(tmp_path))
    store.write("images/1/x", b"former")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        store.write("images/1/x", b"latter")

    assert store.read("images/1/x") == b"former"
    assert names(tmp_path / "images/1") == ["x"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(artifacts.os, "fsync", lambda fd: (events.append("sync"), sync(fd)))
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append("rename"), replace(self, to))
    )
    store = ArtifactStore(str(tmp_path))
    (tmp_path / "images").mkdir()

    store.write("images/x", b"x")

    assert events == ["sync", "rename", "sync"]


def test_readers_see_a_whole_file_while_it_is_written_again(tmp_path):
    store = ArtifactStore(str(tmp_path))
    contents = [bytes([value]) * 100_000 for value in range(4)]
    store.write("x", contents[0])
    begun = threading.Barrier(3)

    def write(content):
        begun.wait()
        for _ in range(20):
            store.write("x", content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents[1:3]]
    for writer in writers:
        writer.start()
    begun.wait()
    while any(writer.is_alive() for writer in writers):
        assert store.read("x") in contents
    for writer in writers:
        writer.join()

    assert names(tmp_path) == ["x"]
