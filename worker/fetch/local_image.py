"""Images that a local manifest names by path or file:// URL."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from common.format.reasons import Reason
from worker.rows import ImageFailed, file_tag

if TYPE_CHECKING:
    from collections.abc import Iterator


MAX_PATH_CHARS = 4096
"""The length of the longest path, Linux's PATH_MAX."""


def local_path(url: str, folder: Path) -> Path:
    """Return the file of a file:// URL, or of a path relative to `folder`. Raises ImageFailed (invalid_url)."""
    path = _path_of(url, folder)
    if len(str(path)) > MAX_PATH_CHARS:
        raise ImageFailed(Reason.INVALID_URL, "no file can have this name: it is too long")
    return path


def _path_of(url: str, folder: Path) -> Path:
    if not url.lower().startswith("file:"):
        return folder / url
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in {"", "localhost"} or not path.startswith("/") or "\0" in path:
        raise ImageFailed(Reason.INVALID_URL, "a file:// URL needs an absolute path and no host")
    return Path(path)


def image_size(path: Path) -> int:
    """Return the file's size in bytes. Raises ImageFailed if the file is absent, not regular or not readable."""
    with _opened(path) as descriptor:
        return os.fstat(descriptor).st_size


def read_image(path: Path, size: int) -> bytes:
    """Return the file's first `size` bytes, fewer if it has become shorter. Raises ImageFailed like `image_size`."""
    with _opened(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(size)


class FileChanged(Exception):
    """A file that holds images is not the one whose index was read."""


def read_range(path: Path, first: int, length: int, *, tag: str) -> bytes:
    """Return `length` bytes of the file from byte `first` on.

    Raises ImageFailed like `image_size`, and FileChanged if the file is shorter or has another `tag`.
    """
    with _opened(path) as descriptor:
        if tag and file_tag(os.fstat(descriptor)) != tag:
            raise FileChanged
        data = os.pread(descriptor, length, first)
        while len(data) < length and (more := os.pread(descriptor, length - len(data), first + len(data))):
            data += more
    if len(data) < length:
        raise FileChanged
    return data


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageFailed(Reason.NOT_FOUND, "the file does not exist") from error
    except PermissionError as error:
        raise ImageFailed(Reason.ACCESS_DENIED, "the file may not be read") from error
    except OSError as error:
        if error.errno in {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}:
            raise ImageFailed(Reason.INVALID_URL, f"no file can have this name: {error.strerror}") from error
        if error.errno == errno.ENXIO:
            raise ImageFailed(Reason.NOT_FOUND, "it is not a regular file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ImageFailed(Reason.NOT_FOUND, "it is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)
