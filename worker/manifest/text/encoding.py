"""How a text is written: its encoding and its line breaks, by the first bytes of its file."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, NamedTuple

from worker.manifest.places.byte_source import HEAD_BYTES

if TYPE_CHECKING:
    from worker.manifest.places.byte_source import ByteSource

MARK_BYTES = 4
"""Number of bytes at the start of a file that tell its encoding."""


class Encoding(NamedTuple):
    codec: str
    """Python's name of the encoding."""
    mark_bytes: int
    """Size of the byte order mark in bytes; 0 where there is none."""
    unit: int
    """Size in bytes of the smallest character. Lines begin at multiples of it, counted from the byte order mark."""


_MARKS = {
    codecs.BOM_UTF8: Encoding("utf-8", 3, 1),
    codecs.BOM_UTF16_LE: Encoding("utf-16-le", 2, 2),
    codecs.BOM_UTF16_BE: Encoding("utf-16-be", 2, 2),
}


class TextFile:
    """One text file of a manifest. Its head is read when the object is made."""

    def __init__(self, source: ByteSource, *, is_alone: bool = True) -> None:
        """Take a file of a manifest; `is_alone` says whether it is the manifest's only file."""
        self.source = source
        self.encoding = _encoding(source.read(0, min(MARK_BYTES, source.size)))
        self.start = self.encoding.mark_bytes
        """Offset of the text's first byte."""
        self.line_break = self._line_break()
        """The bytes that end a line. A carriage return before them is no part of the line."""
        self.place = "" if is_alone else f" of {source.name}"
        """What follows an offset in the ledger: the file's name, where the manifest has several."""

    def align(self, offset: int) -> int:
        """Return the first offset from `offset` on at which a character can begin."""
        return offset + (self.start - offset) % self.encoding.unit

    def decode(self, data: bytes) -> tuple[str, bool]:
        """Return the text, and whether the bytes are valid. Lone surrogates stand for bytes that are not."""
        codec = self.encoding.codec
        try:
            return data.decode(codec), True
        except UnicodeDecodeError:
            if self.encoding.unit == 1:
                return data.decode(codec, "surrogateescape"), False
            return data.decode(codec, "replace").replace("\ufffd", "\udcff"), False

    def _line_break(self) -> bytes:
        """Return the encoded line feed, or the carriage return of old Macs where the head has that and no line feed."""
        codec, unit = self.encoding.codec, self.encoding.unit
        head = self.source.read(0, min(HEAD_BYTES, self.source.size))[self.start :]
        text = head[: len(head) - len(head) % unit].decode(codec, "replace")
        return ("\r" if "\r" in text and "\n" not in text else "\n").encode(codec)


def _encoding(start: bytes) -> Encoding:
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    # Two ASCII characters in UTF-16 without a byte order mark. No text has NULs in this pattern otherwise.
    match [bool(byte) for byte in start]:
        case [True, False, True, False]:
            return Encoding("utf-16-le", 0, 2)
        case [False, True, False, True]:
            return Encoding("utf-16-be", 0, 2)
    return Encoding("utf-8", 0, 1)
