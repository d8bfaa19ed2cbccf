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
from common.format.hdf5 import Head, open_hdf5
from common.process.resources import sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    import h5py

SEAL_BYTES = 512
"""The least that HDF5 leaves to others at the start of a file (its user block)."""

READ_BYTES = 16_384
"""Of the first read, which is the only one where no more than this is sealed."""

MAX_SEALED_BYTES = 64 << 20

_MAGIC = b"embedder chunk\n\0"
_SEAL = struct.Struct("<16sQQ32s")
"""Magic, bytes of the file, where the sealed bytes end, and the SHA-256 of these; they begin behind the seal."""


def seal(sealed: bytes, *, size: int) -> bytes:
    """Return the seal of a file of `size` bytes, of which these follow the seal, and then the rows."""
    end = SEAL_BYTES + len(sealed)
    return _SEAL.pack(_MAGIC, size, end, hashlib.sha256(sealed).digest()).ljust(SEAL_BYTES, b"\0")


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
    with open_hdf5(io.BufferedReader(Head(sealed, size)), name=name) as opened:
        yield opened


def _read(file: BinaryIO) -> tuple[bytearray, int]:
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
    return bytearray(head[:end]), size
