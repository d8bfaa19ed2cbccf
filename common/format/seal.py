"""The seal of a chunk file: its first 512 bytes, before the HDF5.

    | seal: file size, end and digest of the metadata | HDF5 metadata | rows ......... |
    0                                                 512             end              file size

HDF5 does not check its own metadata. After one flipped bit it may return rows from another place, or never return. So
it reads the metadata only when the digest shows that every byte is as it was written. Other programs that open HDF5
files skip the seal.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from common.errors import StoreUnavailable
from common.format.hdf5 import FileWithoutRows, open_hdf5
from common.parallel import thread_starts
from common.process.resources import describe_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    import h5py

SEAL_BYTES = 512
"""The size of the seal in bytes: the smallest space at the start of a file that HDF5 leaves free (its user block)."""

READ_BYTES = 16_384
"""The size of the first read in bytes; usually the only read."""

MAX_SEALED_BYTES = 64 << 20
"""The largest size in bytes of seal and metadata that is read into memory."""

_MAGIC = b"embedder chunk\n\0"
_SEAL = struct.Struct("<16sQQ32s")
"""The fields of a seal: magic, size of the file, end of the sealed metadata, and the SHA-256 of the metadata."""


def seal(metadata: bytes, *, size: int) -> bytes:
    """Return the seal of a file of `size` bytes, in which this metadata follows the seal."""
    end = SEAL_BYTES + len(metadata)
    return _SEAL.pack(_MAGIC, size, end, hashlib.sha256(metadata).digest()).ljust(SEAL_BYTES, b"\0")


@contextmanager
def open_sealed(file: BinaryIO, *, name: str) -> Iterator[h5py.File]:
    """Give the HDF5 of an open chunk file, with its metadata only: rows are read as zeros.

    Raises ValueError when the metadata is not as it was written, the errors of h5py, and the errors of `file` when a
    read fails. An OSError of a read becomes StoreUnavailable with `name`. No thread starts meanwhile, so the memory
    that HDF5 finds stays free.
    """
    try:
        kept, size = _read(file)
    except OSError as error:
        raise StoreUnavailable(describe_error(error, name)) from error
    with thread_starts, open_hdf5(io.BufferedReader(FileWithoutRows(kept, size)), name=name) as opened:
        yield opened


def _read(file: BinaryIO) -> tuple[bytearray, int]:
    """Return the seal and the metadata, and the size of the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(READ_BYTES)
    if len(head) < SEAL_BYTES or not head.startswith(_MAGIC):
        raise ValueError("it does not begin as chunk files of this version do")
    _, written_size, end, digest = _SEAL.unpack_from(head)
    if written_size != size:
        raise ValueError(f"it has {size} bytes, {written_size} were written")
    if not SEAL_BYTES <= end <= min(size, MAX_SEALED_BYTES):
        raise ValueError("its seal is broken")
    while len(head) < end and (more := file.read(end - len(head))):
        head += more
    if hashlib.sha256(head[SEAL_BYTES:end]).digest() != digest:
        raise ValueError("its metadata is not as it was written")
    return bytearray(head[:end]), size
