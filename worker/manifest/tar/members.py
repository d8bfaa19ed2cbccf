"""The members of a tar, found by its headers alone.

The standard library's TarFile reads a tar from front to back, without a limit on what a header may say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from worker.manifest.tar_header import (
    BLOCK,
    NAME,
    SIZE,
    SPARSE,
    SPARSE_NAME,
    BadHeader,
    Header,
    decimal,
    is_tar_header,
    parse_header,
    pax_records,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_EXTENSION_BYTES = 1 << 20
"""Largest number of bytes of a long name or of a pax header. A longer one counts as damaged."""

MAX_EXTENSIONS = 16
"""Largest number of headers before that of a member: a long name, a long target of a link, and pax headers."""

MAX_ZERO_BYTES = 1 << 20
"""Number of bytes behind the end of a tar in which another tar is looked for. Writers add up to 10 KB of zeros."""

_ZEROS = bytes(BLOCK)

_WITHOUT_BYTES = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a pipe",
}
_NO_FILES = {
    b"A": "an access list",
    b"D": "a list of a folder",
    b"M": "the rest of a file in another tar",
    b"S": "a sparse file",
    b"V": "a label",
}
"""Members with bytes that are not those of a file. All other types are files, as POSIX says of unknown ones."""
_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_SOLARIS, _PAX_OF_ALL = b"L", b"K", b"x", b"X", b"g"
_EXTENSIONS = {_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_SOLARIS, _PAX_OF_ALL}


class Member(NamedTuple):
    name: str
    """The name with its folders. Lone surrogates stand for bytes that are not UTF-8."""
    header: int
    """Offset of the member's header in bytes."""
    first: int
    """Offset of the member's first byte."""
    size: int
    """Number of the member's bytes."""
    problem: str = ""
    """What the member is instead of a file: `a symbolic link`. Empty for a file."""


class Damaged(NamedTuple):
    """Nothing behind this place can be found."""

    name: str
    """The name of the member that is damaged, an empty text where even that is not known."""
    header: int
    problem: str


class Joined(NamedTuple):
    """Another tar follows at this offset, as `cat` writes several one after the other."""

    header: int


class _Extension:
    """What headers before a member say of it."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        self.records = dict(records)
        self.name: bytes | None = None
        self.header_count = 0

    def name_of(self, header: Header) -> str:
        records = self.records
        name = records.get(SPARSE_NAME) or records.get(NAME) or self.name or header.name
        return name.decode("utf-8", "surrogateescape")

    def size_of(self, header: Header) -> int:
        text = self.records.get(SIZE)
        return header.size if text is None else decimal(text)


class _Walk:
    """Goes from header to header."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._size = size
        self.at = 0
        """Offset of the next header."""
        self.name = ""
        """The name in the last header, empty until it is known."""
        self._of_all: dict[bytes, bytes] = {}
        self._extension = _Extension({})

    def step(self, block: bytes) -> Member | None:
        """Return the member whose header is `block`, None for a header that belongs to the next. Raises BadHeader."""
        self.name = ""
        header = parse_header(block)
        extension = self._extension
        self.name = extension.name_of(header)
        first = self.at + BLOCK
        if header.kind in _EXTENSIONS:
            self._extend(header, first)
            self.at = first + _padded(header.size)
            return None
        if header.is_extended:
            first = _behind_sparse_map(self._read, first)
        member = _member(header, extension, self.name, self.at, first)
        if member.size > (left := max(0, self._size - first)):
            raise BadHeader(f"it has {member.size} bytes, and the tar has {left} more")
        self.at = first + _padded(member.size)
        self._extension = _Extension(self._of_all)
        return member

    def _extend(self, header: Header, first: int) -> None:
        extension = self._extension
        extension.header_count += 1
        if extension.header_count > MAX_EXTENSIONS:
            raise BadHeader(f"it has more than {MAX_EXTENSIONS} headers")
        data = _extension_data(self._read, first, header.size)
        if header.kind == _LONG_NAME:
            extension.name = data.partition(b"\0")[0]
        elif header.kind == _PAX_OF_ALL:
            self._of_all |= pax_records(data)
            extension.records = self._of_all | extension.records
        elif header.kind != _LONG_LINK:
            extension.records |= pax_records(data)


def tar_members(read: Callable[[int, int], bytes], size: int) -> Iterator[Member | Damaged | Joined]:
    """Yield the members of a tar of `size` bytes in their order. Damaged is the last thing that is yielded.

    `read` returns a number of bytes from an offset on, fewer at the end of the tar.
    """
    walk = _Walk(read, size)
    if not size:
        yield Damaged("", 0, "it is empty")
    while walk.at < size:
        at = walk.at
        block = read(at, BLOCK)
        if block == _ZEROS:
            follows = _next_tar(read, at, size)
            if follows is None:
                return
            walk = _Walk(read, size)
            walk.at = follows
            yield Joined(follows)
            continue
        try:
            member = walk.step(block)
        except BadHeader as bad:
            yield Damaged(walk.name, at, str(bad))
            return
        if member is not None:
            yield member


def _member(header: Header, extension: _Extension, name: str, at: int, first: int) -> Member:
    if header.kind in _WITHOUT_BYTES or (header.kind == b"\0" and header.name.endswith(b"/")):
        return Member(name, at, first, 0, _WITHOUT_BYTES.get(header.kind, "a folder"))
    problem = "a sparse file" if SPARSE in extension.records else _NO_FILES.get(header.kind, "")
    return Member(name, at, first, extension.size_of(header), problem)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _extension_data(read: Callable[[int, int], bytes], first: int, size: int) -> bytes:
    if size > MAX_EXTENSION_BYTES:
        raise BadHeader(f"the header before it has {size} bytes, more than {MAX_EXTENSION_BYTES}")
    data = read(first, size)
    if len(data) < size:
        raise BadHeader("the tar ends within a header")
    return data


def _behind_sparse_map(read: Callable[[int, int], bytes], first: int) -> int:
    """Return where the bytes of an old GNU sparse file begin: behind the blocks that continue its map."""
    for number in range(MAX_EXTENSION_BYTES // BLOCK):
        block = read(first + number * BLOCK, BLOCK)
        if len(block) < BLOCK:
            break
        if not block[504]:
            return first + (number + 1) * BLOCK
    raise BadHeader("its map of a sparse file has no end")


def _next_tar(read: Callable[[int, int], bytes], at: int, size: int) -> int | None:
    """Return the offset of a header behind the zeros at an offset, None if the tar ends there."""
    for offset in range(at + BLOCK, min(size, at + MAX_ZERO_BYTES), BLOCK):
        block = read(offset, BLOCK)
        if block != _ZEROS:
            return offset if is_tar_header(block) else None
    return None
