"""Tars for tests, and sources that count what is read of them."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

from worker.manifest.places.local_source import LocalSource

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.raw_rows import RawRow, UnreadableRow


def tar_of(members: Iterable[tuple[str, bytes]], *, format: int = tarfile.PAX_FORMAT, **fields: Any) -> bytes:  # noqa: A002, ANN401 - the library's own names
    """Return a tar with files of these names and contents. `fields` are set in every header."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def header(name: str, size: int = 0, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Return the header of one member, of 512 bytes or more."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


END = bytes(1024)


class CountingSource:
    """A local file that counts the bytes and the reads."""

    def __init__(self, path: Path, *, uri: str = "") -> None:
        self._source = LocalSource(path)
        self.name, self.size, self.is_direct = path.name, self._source.size, True
        self.uri = uri or str(path)
        self.tag = self.identity = ""
        self.reads: list[tuple[int, int]] = []

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)

    def read(self, start: int, length: int) -> bytes:
        self.reads.append((start, length))
        return self._source.read(start, length)


def held_bytes(source: ByteSource, row: RawRow | UnreadableRow) -> bytes:
    """Return the bytes to which a row points."""
    held = getattr(row, "held", None)
    assert held is not None, row
    return source.read(held.offset, held.length)
