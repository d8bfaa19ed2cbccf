"""The boxes of which AVIF, HEIC, JPEG 2000 and JPEG XL files consist."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Buffer: TypeAlias = bytes | bytearray | memoryview

JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
JXL_SIGNATURE = b"\0\0\0\x0cJXL \r\n\x87\n"

_MAX_BOXES = 1000
"""Number of boxes of a file that are looked at. Real images have fewer than 20 on the outermost level."""


class Box(NamedTuple):
    kind: bytes
    start: int
    """The offset of the content."""
    end: int
    """The offset of the next box, which may lie beyond the end of a cut file."""


def is_in_boxes(data: Buffer) -> bool:
    """Tell whether the file begins as files of boxes do."""
    start = bytes(data[:12])
    return start[4:8] == b"ftyp" or start in {JP2_SIGNATURE, JXL_SIGNATURE}


def boxes(data: Buffer, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes between two offsets, by default the outermost boxes of the file, up to the first broken one."""
    end = len(data) if end is None else min(end, len(data))
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        size, kind, content = int.from_bytes(data[start : start + 4]), bytes(data[start + 4 : start + 8]), start + 8
        if size == 1:
            size, content = int.from_bytes(data[start + 8 : start + 16]), start + 16
        elif size == 0:  # up to the end of the file
            size = end - start
        if start + size < content:
            return
        yield Box(kind, content, start + size)
        start += size


def named(found: Iterable[Box], kind: bytes) -> Iterator[Box]:
    """Return those of the boxes that are of this kind."""
    return (box for box in found if box.kind == kind)


def brands(data: Buffer) -> set[bytes]:
    """Return the brands of a file that begins with the box ftyp: what the file says that it can be read as."""
    if bytes(data[4:8]) != b"ftyp":
        return set()
    names = bytes(data[8 : min(int.from_bytes(data[:4]), 1024)])
    return {names[at : at + 4] for at in range(0, len(names) - 3, 4) if at != 4}  # the minor version is no brand
