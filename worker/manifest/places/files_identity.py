"""The identity of several files: a text that changes when one of them changes, comes or goes."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from common.errors import SourceUnavailable
from worker.manifest.places.byte_source import sampled_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.manifest.places.listed_file import ListedFile


def files_identity(files: Iterable[tuple[str, ListedFile]], *, local: Sequence[ListedFile]) -> str:
    """Return the identity of files, each with its name in the rows. `local` are those of this machine.

    Names, sizes and the versions that a store tells are hashed. Local files have no version, and no modification time
    that two copies share, so samples of all their bytes are hashed, as many as of one large file.
    """
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(f"{name}\0{file.size}\0{file.version}\n".encode("utf-8", "surrogateescape"))
    if local:
        digest.update(sampled_hash(_Concatenation(local)).encode())
    return f"sha256 {digest.hexdigest()}"


class _Concatenation:
    """The bytes of files one after the other."""

    is_direct = False
    identity = name = uri = tag = ""

    def __init__(self, files: Sequence[ListedFile]) -> None:
        self._files = [file for file in files if file.size]
        self._ends = list(accumulate(file.size or 0 for file in self._files))
        self.size = self._ends[-1] if self._ends else 0

    def read(self, start: int, length: int) -> bytes:
        found = bytearray()
        for position in range(bisect_right(self._ends, start), len(self._files)):
            file, end = self._files[position], self._ends[position]
            begin = start + len(found)
            found += _sample(file, begin - (end - (file.size or 0)), min(end, start + length) - begin)
            if len(found) == length:
                break
        return bytes(found)


def _sample(file: ListedFile, start: int, length: int) -> bytes:
    """Return bytes of a file. A file that may not be read has zeros, since only its own row fails."""
    try:
        descriptor = os.open(file.uri, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return bytes(length)
    except OSError as error:
        raise SourceUnavailable(f"{file.uri}: {error.strerror}") from error
    try:
        data = os.pread(descriptor, length, start)
    except OSError as error:
        raise SourceUnavailable(f"{file.uri}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) != length:
        raise SourceUnavailable(
            f"{file.uri} changed while it was read: it is shorter than the {file.size} bytes listed"
        )
    return data
