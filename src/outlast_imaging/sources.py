"""Reads photographs of the server's file system, below one folder and nowhere else.

A path is followed name by name from the open root, and no link on the way is, so that
nothing another process does in between leads outside.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from outlast_imaging.decoding import SUFFIXES
from outlast_imaging.errors import (
    InvalidSourceError,
    SourceMissingError,
    SourceRefusedError,
    UnusablePhotoError,
)
from outlast_imaging.limits import MAX_IMPORT_PHOTOS, MAX_PHOTO_BYTES

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: what turned into a pipe meanwhile must not keep us waiting for a writer.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PHOTO_SUFFIXES: Final = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
_REFUSALS: Final = frozenset(
    {errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENXIO, errno.EPERM}
)


@dataclass(frozen=True, slots=True)
class Location:
    """A place below the root, as the names that lead there. None of them is `..`."""

    root: str
    names: tuple[str, ...]

    def child(self, name: str) -> "Location":
        """Return the place of an entry of this folder."""
        return Location(self.root, (*self.names, name))


class SourceFolder:
    """The one folder that `file://` URIs may point into; None allows none."""

    def __init__(self, root: Path | None) -> None:
        # A caller may write the root as it was configured, though it is a link itself.
        self._spellings = () if root is None else (root.absolute(), root.resolve())

    def locate(self, uri: str) -> Location:
        """Return the place that a URI names, without looking at it; ImagingError.

        The answer tells nothing about what there is outside the root.
        """
        path = _path_of(uri)
        if not self._spellings:
            raise SourceRefusedError("FILES_NOT_SERVED", "this server reads no files for callers")
        for spelling in self._spellings:
            if path.is_relative_to(spelling):
                return Location(str(self._spellings[-1]), path.relative_to(spelling).parts)
        raise SourceRefusedError("OUTSIDE_ROOT", "the path lies outside the folder that is allowed")


def read_photo(location: Location) -> bytes:
    """Return the bytes of a regular file within the size limit; ImagingError."""
    *folders, name = location.names or (".",)
    with _opened_folder(location.root, folders) as folder:
        # Looked at before it is opened, as opening a device can have effects.
        _check_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
        with os.fdopen(os.open(name, _FILE_FLAGS, dir_fd=folder), "rb") as file:
            _check_regular(os.fstat(file.fileno()))
            data = file.read(MAX_PHOTO_BYTES + 1)
    if len(data) > MAX_PHOTO_BYTES:
        raise UnusablePhotoError(
            "PHOTO_TOO_LARGE", f"the file has more than {MAX_PHOTO_BYTES} bytes, which is the limit"
        )
    return data


def list_photos(location: Location) -> list[str]:
    """Return the names of a folder's photographs, in order; ImagingError."""
    with _opened_folder(location.root, location.names) as folder, os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if _is_photo(entry))
    if len(names) > MAX_IMPORT_PHOTOS:
        raise InvalidSourceError(
            "TOO_MANY_PHOTOS",
            f"the folder has {len(names)} photographs; the limit is {MAX_IMPORT_PHOTOS}",
        )
    return names


def _path_of(uri: str) -> Path:
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    path = unquote(parts.path, errors="surrogateescape")
    if (
        parts.scheme != "file"
        or parts.netloc not in {"", "localhost"}
        or parts.query
        or parts.fragment
        or not path.startswith("/")
        or "\0" in path
    ):
        raise InvalidSourceError("INVALID_URI", "must be file:// and an absolute path")
    if ".." in Path(path).parts:
        raise SourceRefusedError("OUTSIDE_ROOT", "the path must not contain ..")
    return Path(path)


def _is_photo(entry: "os.DirEntry[str]") -> bool:
    return (
        entry.name.lower().endswith(_PHOTO_SUFFIXES)
        and not entry.name.startswith(".")
        and not entry.is_dir(follow_symlinks=False)
    )


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SourceRefusedError(
            "NOT_A_REGULAR_FILE", "only a regular file can be a photograph; links are not followed"
        )


@contextmanager
def _opened_folder(root: str, names: Sequence[str]) -> Iterator[int]:
    try:
        folder = os.open(root, _FOLDER_FLAGS)
        try:
            for name in names:
                parent, folder = folder, os.open(name, _FOLDER_FLAGS, dir_fd=folder)
                os.close(parent)
            yield folder
        finally:
            os.close(folder)
    except FileNotFoundError as error:
        raise SourceMissingError("FILE_NOT_FOUND", "there is no such file or folder") from error
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise SourceRefusedError(
            "NOT_ACCESSIBLE", "the path passes through a link or a file, or cannot be read"
        ) from error
