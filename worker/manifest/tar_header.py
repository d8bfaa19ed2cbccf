"""One header of a tar, in the formats of Version 7, ustar, GNU and pax.

The standard library's parser of a header takes three times as long as this one. The formats are those of POSIX (pax,
"ustar Interchange Format") and of GNU tar's manual ("Basic Tar Format").
"""

from __future__ import annotations

from typing import NamedTuple

BLOCK = 512
"""Size of a header in bytes. Everything in a tar begins at a multiple of it."""

NAME, SIZE, SPARSE, SPARSE_NAME = b"path", b"size", b"GNU.sparse.", b"GNU.sparse.name"
"""The records of a pax header that matter here. SPARSE is the start of several."""

_OCTAL = b"01234567"


class BadHeader(Exception):
    """A header that cannot be read."""


class Header(NamedTuple):
    name: bytes
    size: int
    kind: bytes
    is_extended: bool
    """Whether blocks with a map of a sparse file follow."""


def is_tar_header(block: bytes) -> bool:
    """Return whether a block is the header of a member."""
    try:
        parse_header(block)
    except BadHeader:
        return False
    return True


def parse_header(block: bytes) -> Header:
    """Return what a header says. Raises BadHeader."""
    if len(block) < BLOCK:
        raise BadHeader("the tar ends within a header")
    written = _number(block[148:156], "check sum")
    # The sum counts its own field as spaces. Old programs summed signed bytes.
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if written != total and written != total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]):
        raise BadHeader("its header has a wrong check sum")
    name = block[:100].partition(b"\0")[0]
    is_gnu = block[257:265] == b"ustar  \0"
    # GNU tar keeps other things where ustar has the first part of a long name.
    if not is_gnu and block[257:262] == b"ustar" and (start := block[345:500].partition(b"\0")[0]):
        name = start + b"/" + name
    kind = block[156:157]
    return Header(name, _number(block[124:136], "size"), kind, is_extended=kind == b"S" and block[482] != 0)


def _number(field: bytes, what: str) -> int:
    """Return a number in octal digits, or in bytes behind a first one of 128 (GNU). Raises BadHeader for others."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(_OCTAL):
        raise BadHeader(f"the {what} in its header is no number")
    return int(digits or b"0", 8)


def decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise BadHeader("the size in its pax header is no number")
    return int(text)


def pax_records(data: bytes) -> dict[bytes, bytes]:
    """Return the records of a pax header that matter here. Each is written as `length key=value` and a line break."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        number, space, _ = data[at : at + 20].partition(b" ")
        end = at + int(number) if space and number.isdigit() else 0
        key, equals, value = data[at + len(number) + 1 : end - 1].partition(b"=")
        if not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise BadHeader("its pax header is damaged")
        if key in {NAME, SIZE, SPARSE_NAME}:
            records[key] = value
        if key.startswith(SPARSE):
            records[SPARSE] = b""
        at = end
    return records
