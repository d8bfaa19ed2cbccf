"""The store of a run: a folder, or a prefix in an S3 bucket. One contract, tested against both.

Objects are written whole or not at all, and verified once written. Absent is not unknown: `stat` returns None only
where the store says that there is no such object; whatever else it says is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from common.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


class ObjectStat(NamedTuple):
    key: str
    size: int
    """Bytes."""
    version: str
    """Changes when the object's content does: an ETag, or size and modification time of a file."""


class ObjectExists(Exception):
    """The store holds such an object already, and was asked not to replace it."""


class ObjectReplaced(StoreUnavailable):
    """What was just written is not there: somebody else has replaced or deleted it, or the store did not keep it."""


class ObjectAbsent(Exception):
    """The store said that there is no such object."""


class AssemblyGone(Exception):
    """Somebody else aborted an object that was being put together here."""


class PartLimits(NamedTuple):
    """What a store asks of the parts that an object is put together from."""

    min_bytes: int
    """Of every part but the last."""
    max_bytes: int
    max_count: int


class Assembly(Protocol):
    """An object that is being put together from parts, in any order and from any threads; nobody sees it before
    `publish`. Every method may raise AssemblyGone."""

    is_readable: bool
    """Whether `read` works before `publish`."""

    def upload(self, number: int, offset: int, data: bytes | bytearray) -> None:
        """Write part `number`, counted from 1, which lies at `offset` of the object."""

    def copy(self, number: int, offset: int, source: ObjectStat, start: int, length: int) -> None:
        """Have the store itself make part `number` of `length` bytes from `start` of the object `source`.

        Raises StoreUnavailable also where the source is not what `source` says any more.
        """

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the object to be."""

    def publish(self) -> ObjectStat:
        """Make the parts the object, in one step. Raises ObjectExists where the store can tell that the object there
        is not the one to be replaced."""


class Store(Protocol):
    """Keys are relative to `uri`. Every method may raise StoreUnavailable (75) or StoreAccessDenied (78)."""

    uri: str

    def location(self, key: str) -> str:
        """Return the key's full name, for people."""

    def check_access(self) -> None:
        """Raise StoreAccessDenied unless objects can be listed and written here. Leaves nothing behind."""

    def stat(self, key: str) -> ObjectStat | None:
        """Return what is known of an object, None where there is none."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield the objects whose keys start with `prefix`, in no order that matters."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `start`, or all from there. Raises StoreUnavailable when there are fewer."""

    def put_file(
        self, key: str, path: Path, *, overwrite: bool = True, replacing: ObjectStat | None = None
    ) -> ObjectStat:
        """Write a file's content as the object and return it as verified: size and checksum are those of the file.

        Raises ObjectReplaced where they are not.

        With `overwrite=False` raises ObjectExists where an object is there, other than `replacing`, and the store can
        tell; a store that cannot writes the whole new object instead. On S3 an object of the same bytes is this one.
        """

    def put_bytes(
        self, key: str, data: bytes, *, overwrite: bool = True, replacing: ObjectStat | None = None
    ) -> ObjectStat:
        """Write `data` as the object, as `put_file` does."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects; one that is not there is no error."""

    def open(self, key: str, size: int) -> BinaryIO:
        """Return the object of `size` bytes as a seekable file that reads ranges on demand, closed by its user."""

    part_limits: PartLimits

    def assemble(self, key: str, *, size: int, replacing: ObjectStat | None) -> AbstractContextManager[Assembly]:
        """Begin to put together an object of `size` bytes in the place of `replacing`; aborted unless published."""

    def abort_assemblies(self, key: str) -> int:
        """Abort whatever is still being put together for `key`, or was when its program died; return how many."""

    def clear_up(self, keys: Iterable[str]) -> int:
        """Remove what programs that died left of writing these objects and of `check_access`, and return how many files
        or uploads that were. What is being put together is left alone: see `abort_assemblies`."""


def check_length(key: str, data: bytes, expected: int) -> bytes:
    """Return `data`. Raises StoreUnavailable when the store sent fewer or more bytes than asked for."""
    if len(data) != expected:
        raise StoreUnavailable(f"{key}: the store sent {len(data)} bytes of {expected}")
    return data
