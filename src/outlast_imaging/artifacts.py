"""Keeps files under names: in a folder, or wherever else fsspec can reach."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from outlast_imaging.limits import CHUNK_BYTES

_UNFINISHED: Final = ".unfinished-"
"""The beginning of the names of files that are being written."""


class ArtifactStore:
    """Files under slash-separated names, below one URL or folder.

    What is written under a name is decided by the name, so that to write it again, or
    twice at once, changes nothing. A reader sees a whole file or none, and what was
    written has reached the disk (or the object store) when `write` returns.
    """

    def __init__(self, url: str) -> None:
        """Use an fsspec URL such as `s3://bucket/folder`, or a path."""
        self._files, root = fsspec.url_to_fs(url)  # type: ignore[no-untyped-call]  # fsspec has no types
        self._root = root.rstrip("/")
        self.url = str(self._files.unstrip_protocol(self._root))
        """The same store for another process, wherever that one runs."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; FileNotFoundError."""
        data: bytes = self._files.cat_file(self._path(name))
        return data

    def read_chunks(self, name: str, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a file from an offset on, in chunks; FileNotFoundError at the first."""
        with self._files.open(self._path(name), "rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def write(self, name: str, data: bytes) -> None:
        """Write a file at once and as a whole."""
        if isinstance(self._files, LocalFileSystem):
            _write_durably(Path(self._path(name)), data)
        else:
            self._files.pipe_file(self._path(name), data)

    def exists(self, name: str) -> bool:
        """Whether there is a file."""
        return bool(self._files.exists(self._path(name)))

    def folders(self, name: str) -> Sequence[str]:
        """Return the last parts of the names of a folder's folders, in order."""
        with suppress(FileNotFoundError):
            entries = self._files.ls(self._path(name), detail=True, refresh=True)
            return sorted(
                entry["name"].rstrip("/").rpartition("/")[2]
                for entry in entries
                if entry["type"] == "directory"
            )
        return []

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it. To do so again changes nothing."""
        with suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def uri(self, name: str) -> str:
        """Return where a file is, for people and programs that reach the same store."""
        if isinstance(self._files, LocalFileSystem):
            return Path(self._path(name)).as_uri()
        uri: str = self._files.unstrip_protocol(self._path(name))
        return uri

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _write_durably(path: Path, data: bytes) -> None:
    _make_folder(path.parent)
    handle, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _make_folder(folder: Path) -> None:
    if folder.exists():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Have the disk know the entries of a folder: a file is not durable without its name."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
