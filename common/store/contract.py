"""What every store of a run promises: its methods and its errors. The same tests run against both stores.

A store writes an object whole or not at all, and verifies it after the write. Absent is not unknown: `stat` returns
None only when the store says that there is no such object, and raises an error for any other answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from common.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


class ObjectStat(NamedTuple):
    key: str
    size: int
    """The size in bytes."""
    version: str
    """A text that changes with the object's content: an ETag, or the size and modification time of a file."""


class ObjectExists(Exception):
    """The store holds an object that the caller asked not to replace."""


class ObjectReplaced(StoreUnavailable):
    """The object that was just written is not there: another program replaced or deleted it, or the store lost it."""


class ObjectAbsent(Exception):
    """The store says that there is no such object."""


class AssemblyGone(Exception):
    """Another program aborted the assembly of an object."""


class AssemblyRefused(StoreUnavailable):
    """The store does not make an object from these parts: it demands other sizes, or it does not know one of them."""


@dataclass(frozen=True, kw_only=True)
class StoreAbilities:
    """What a store can do, and what this program may do there, as far as the access check has found out."""

    store: str
    """What the store calls itself: the header Server of its answers, or `folder`."""
    conditional_writes: bool
    """Whether the store refuses to replace an object that the writer has not seen. Otherwise a write is two steps, a
    look and the write, and a second writer in between is overwritten."""
    batch_delete: bool
    """Whether many objects are deleted with one request. Otherwise each object takes a request."""
    may_delete: bool
    """Whether this program can delete objects."""
    delete_refusal: str = ""
    """What the store answered to the attempt to delete, empty when it did delete."""
    encryption: str = ""
    """The server-side encryption that the store reports for what this program writes, empty when it reports none."""


class PartLimits(NamedTuple):
    """The limits of the parts that a store puts an object together from."""

    min_bytes: int
    """The smallest size in bytes of every part but the last."""
    max_bytes: int
    """The largest size of a part in bytes."""
    max_count: int
    """The largest number of parts."""


class Assembly(Protocol):
    """An object that is being put together from parts, in any order and from any threads.

    The object is not visible in the store before `publish`. Every method may raise AssemblyGone.
    """

    is_readable: bool
    """Whether `read` works before `publish`."""

    def upload(self, number: int, offset: int, data: bytes | bytearray) -> None:
        """Write part `number`, counted from 1. Its first byte is byte `offset` of the object.

        Raises AssemblyRefused when the store does not accept the part.
        """

    def copy(self, number: int, offset: int, source: ObjectStat, start: int, length: int) -> None:
        """Let the store itself copy part `number`: `length` bytes from `start` of the object `source`.

        Raises StoreUnavailable also when the source object has changed since `source` was read.
        """

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the object that is being put together."""

    def publish(self) -> ObjectStat:
        """Make the parts the object, in one step.

        Raises ObjectExists when the store can tell that the object there is not the one to replace, and AssemblyRefused
        when the store does not accept the parts.
        """


class Store(Protocol):
    """The objects of a run. Keys are relative to `uri`.

    Every method may raise StoreUnavailable (75) or StoreAccessDenied (78).
    """

    uri: str

    def location(self, key: str) -> str:
        """Return the key's full name, for people."""

    def check_access(self) -> StoreAbilities:
        """Write, read and delete a small object, and return what the store can do. A bucket's check logs it as well.

        Raises StoreAccessDenied unless this program may list, write and read objects. Without the permission to delete,
        the small object stays until another program removes it: see `clear_up`.
        """

    def stat(self, key: str) -> ObjectStat | None:
        """Return what the store knows about an object, None when there is no such object."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield the objects whose keys start with `prefix`, in any order."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `start` on, or all of them. Raises StoreUnavailable when there are fewer bytes."""

    def put_file(
        self, key: str, path: Path, *, overwrite: bool = True, replacing: ObjectStat | None = None
    ) -> ObjectStat:
        """Write a file's content as the object, and return the object once its size and checksum are verified.

        Raises ObjectReplaced when the stored object differs from the file.

        With `overwrite=False` it raises ObjectExists when an object other than `replacing` is there and the store can
        tell. A store that cannot tell writes the new object. S3 accepts an object of the same bytes as the new one.
        """

    def put_bytes(
        self, key: str, data: bytes, *, overwrite: bool = True, replacing: ObjectStat | None = None
    ) -> ObjectStat:
        """Write `data` as the object, as `put_file` does."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects. An absent object is no error."""

    def open(self, key: str, size: int) -> BinaryIO:
        """Return the object of `size` bytes as a seekable file that reads ranges on demand. The caller closes it."""

    part_limits: PartLimits

    def assemble(self, key: str, *, size: int, replacing: ObjectStat | None) -> AbstractContextManager[Assembly]:
        """Begin an object of `size` bytes that replaces `replacing`. An exception in the block aborts it."""

    def abort_assemblies(self, key: str) -> int:
        """Abort all assemblies of `key`, also those whose program died. Return their number."""

    def clear_up(self, keys: Iterable[str]) -> int:
        """Remove the files or uploads that killed programs left while they wrote these objects or checked the access.

        Returns the number of files or uploads. Assemblies stay: see `abort_assemblies`.
        """

    def discard_unfinished(self, prefix: str) -> int:
        """Remove the files that killed programs left while they wrote objects whose keys start with `prefix`.

        Returns the number of files, 0 for a store in which a write that breaks off leaves nothing.
        """


def check_length(key: str, data: bytes, expected: int) -> bytes:
    """Return `data`. Raises StoreUnavailable when the store sent fewer or more bytes than asked for."""
    if len(data) != expected:
        raise StoreUnavailable(f"{key}: the store sent {len(data)} bytes of {expected}")
    return data
