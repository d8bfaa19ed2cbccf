"""The seal: the first 512 bytes of a chunk file, before the HDF5. It holds the file's size and the digest of all that
HDF5 says of itself.

HDF5 takes its metadata at its word. One flipped bit there, and it gives the rows of another place, or never returns. So
it is shown nothing that is not as it was written; what opens HDF5 files otherwise passes the seal over.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from common.errors import StoreUnavailable
from common.hdf5 import open_hdf5
from common.resources import sentence, written_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py

SEAL_BYTES = 512
"""The least that HDF5 leaves to others at the start of a file (its user block)."""

READ_BYTES = 16_384
"""Of the first read, which is the only one where no more than this is sealed."""

MAX_SEALED_BYTES = 64 << 20

_MAGIC = b"embedder chunk\n\0"
_SEAL = struct.Struct("<16sQQ32s")
"""Magic, bytes of the file, where the sealed bytes end, and the SHA-256 of these; they begin behind the seal."""


def write_seal(path: Path, *, end: int | None) -> None:
    """Seal the bytes of an HDF5 file, which has a user block of SEAL_BYTES, up to `end`, or all of them.

    Raises ResourceExhausted.
    """
    with written_file(path), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size if end is None else end
        file.seek(SEAL_BYTES)
        sealed = file.read(end - SEAL_BYTES)
        file.seek(0)
        file.write(_SEAL.pack(_MAGIC, size, end, hashlib.sha256(sealed).digest()).ljust(SEAL_BYTES, b"\0"))


@contextmanager
def open_sealed(file: BinaryIO, *, name: str) -> Iterator[h5py.File]:
    """Give an open file's HDF5, of which only the sealed bytes can be read.

    Raises ValueError where they are not as they were sealed, what h5py raises, and what `file` raises as it is read;
    an OSError of it as StoreUnavailable with `name`.
    """
    try:
        sealed, size = _read(file)
    except OSError as error:
        raise StoreUnavailable(sentence(error, name)) from error
    with open_hdf5(io.BufferedReader(_Sealed(sealed, size)), name=name) as opened:
        yield opened


def _read(file: BinaryIO) -> tuple[bytes, int]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(READ_BYTES)
    if len(head) < SEAL_BYTES or not head.startswith(_MAGIC):
        raise ValueError("it does not begin as chunk files of this version do")
    _, sealed_size, end, digest = _SEAL.unpack_from(head)
    if sealed_size != size:
        raise ValueError(f"it has {size} bytes, {sealed_size} were written")
    if not SEAL_BYTES <= end <= min(size, MAX_SEALED_BYTES):
        raise ValueError("its seal is broken")
    while len(head) < end and (more := file.read(end - len(head))):
        head += more
    if hashlib.sha256(head[SEAL_BYTES:end]).digest() != digest:
        raise ValueError("its metadata is not as it was written")
    return head[:end], size


class _Sealed(io.RawIOBase):
    """The sealed bytes as a file of the whole size."""

    def __init__(self, sealed: bytes, size: int) -> None:
        self._sealed, self._size, self._position = sealed, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        # What HDF5 asks for beyond is nothing that it may build on: zeros, as in a hole.
        wanted = min(len(buffer), max(0, self._size - self._position))
        found = self._sealed[self._position : self._position + wanted].ljust(wanted, b"\0")
        buffer[:wanted] = found
        self._position += wanted
        return wanted
