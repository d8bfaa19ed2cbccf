"""Files with a seal: HDF5 behind the digest of its metadata (see common.format.seal), with a digest of each dataset."""

from __future__ import annotations

import hashlib
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np

from common.errors import ChunkInvalid
from common.format.hdf5 import READ_ERRORS, Dataset, lay_out
from common.format.rows import pieces, sha256
from common.format.seal import SEAL_BYTES, seal
from common.process.resources import exhausted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from common.format.rows import Rows

DIGEST = "sha256"
"""The attribute of a dataset that holds the digest of its bytes. A flipped bit changes the digest."""

BLOCK_BYTES = 4 << 20
"""The number of bytes of rows that are read and checked at a time."""


@dataclass(frozen=True, slots=True)
class DatasetSpan:
    """The place of a dataset in its file: `rows` times `row_bytes` bytes from `offset`."""

    offset: int
    """0 for a dataset without rows."""
    rows: int
    row_bytes: int
    sha256: str
    """The digest of these bytes in the worker that wrote them."""


def sealed_bytes(attributes: Mapping[str, Any], columns: Mapping[str, Rows]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a sealed file with these attributes and datasets, in order. The rows are read in slices."""
    skeleton = lay_out(
        attributes,
        {name: Dataset(data.shape, data.dtype, {DIGEST: sha256(data)}) for name, data in columns.items()},
        user_block_bytes=SEAL_BYTES,
    )
    metadata = skeleton.metadata[0][SEAL_BYTES:]
    parts: dict[int, Iterable[bytes | memoryview]] = {offset: [data] for offset, data in skeleton.metadata.items()}
    parts[0] = [seal(metadata, size=skeleton.size), metadata]
    parts |= {skeleton.offsets[name]: pieces(data) for name, data in columns.items() if math.prod(data.shape)}
    for offset in sorted(parts):
        yield from parts[offset]


def find_span(file: h5py.File, name: str, *, dtype: type[np.generic] | None = None, dimensions: int = 1) -> DatasetSpan:
    """Return the place of a dataset of an open sealed file: fixed-length bytes, or numbers of the type `dtype`.

    Raises TypeError, ValueError or KeyError when the dataset is absent or another one.
    """
    dataset = _dataset(file, name)
    expected = None if dtype is None else np.dtype(dtype)
    if dataset.dtype.kind != "S" if expected is None else dataset.dtype != expected:
        raise ValueError(f"{name} has the type {dataset.dtype}, not {expected or 'fixed-length bytes'}")
    # HDF5 returns an offset only for contiguous rows. Otherwise it returns -1 + SEAL_BYTES.
    offset = dataset.id.get_offset() or 0
    if dataset.chunks is not None or (offset < SEAL_BYTES and dataset.size):
        raise ValueError(f"{name} is not contiguous")
    if dataset.ndim != dimensions:
        raise ValueError(f"{name} has the shape {dataset.shape}")
    row_bytes = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    return DatasetSpan(offset if dataset.size else 0, dataset.shape[0], row_bytes, str(dataset.attrs[DIGEST]))


def digest_of(file: BinaryIO, span: DatasetSpan) -> str:
    """Return the digest of the dataset's bytes as they are now."""
    digest = hashlib.sha256()
    for block in blocks(file, span):
        digest.update(block)
    return digest.hexdigest()


def blocks(file: BinaryIO, span: DatasetSpan) -> Iterator[bytes]:
    """Yield the bytes of the dataset, some rows at a time."""
    file.seek(span.offset)
    left, at_once = span.rows, max(1, BLOCK_BYTES // max(1, span.row_bytes))
    while left:
        rows = min(left, at_once)
        yield file.read(rows * span.row_bytes)
        left -= rows


@contextmanager
def reported_damage(name: str, *, kind: str) -> Iterator[None]:
    """Raise ChunkInvalid, with `name`, in place of the errors of h5py for a file that is damaged or of another kind."""
    try:
        yield
    except READ_ERRORS as error:
        # An error such as "too many open files" says nothing about the file.
        raise exhausted(error) or ChunkInvalid(f"{name} is not a {kind}, or damaged: {error}") from error


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    # A soft or external link could lead to any file of this machine.
    for each in filter(None, (name.rpartition("/")[0], name)):
        if not isinstance(file.get(each, getlink=True), h5py.HardLink):
            raise TypeError(f"{each} is absent, or a link to another place")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"{name} is not a dataset")
    return found
