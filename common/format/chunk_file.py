"""The chunk file: one chunk's vectors, URLs and failures, and what made them, as HDF5.

    urls        (rows,) fixed-length bytes, UTF-8     the manifest's URLs, in the manifest's order
    ids         (rows,) fixed-length bytes, UTF-8     only if the manifest has ids
    embeddings  (rows, dimensions) float32            row r belongs to urls[r] and has L2 norm 1
    failures/   row, url, id, reason, detail          the images that did not embed, in the manifest's order

A seal at the start of the file (see common.format.seal) shows damage to the metadata. A digest of each dataset shows
damage to its rows.

The datasets are contiguous and uncompressed, so that a vector is a byte range. The metadata usually lies in the first
16 KiB: one ranged read returns everything but the rows. Longer metadata takes a second read.
"""

from __future__ import annotations

import hashlib
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import h5py
import numpy as np

from common.errors import ChunkInvalid, StoreUnavailable
from common.format.hdf5 import READ_ERRORS, Dataset, lay_out
from common.format.rows import check_norms, pieces, sha256, slices, to_bytes_column
from common.format.run_attributes import read_provenance, run_attributes
from common.format.seal import READ_BYTES, SEAL_BYTES, open_sealed, seal
from common.process.resources import describe_error, exhausted, written_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from common.format.provenance import Provenance
    from common.format.reasons import Reason
    from common.format.rows import Rows

DIGEST = "sha256"
"""The attribute of a dataset that holds the digest of its bytes. A flipped bit changes the digest."""

METADATA_BYTES = READ_BYTES
"""The number of bytes to read for everything but the rows. Usual metadata takes 8.8 KiB, long texts take more."""

FAILURE_TEXTS = ("url", "id", "reason", "detail")
"""The fields of a failure that are texts."""

BLOCK_BYTES = 4 << 20
"""The number of bytes of rows that are read and checked at a time."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that did not embed: a row of the ledger."""

    row: int
    """The row's position within the chunk, from 0."""
    url: str
    """The manifest's URL, "" when the row has no readable URL."""
    reason: Reason
    detail: str
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The content of a chunk file."""

    index: int
    urls: Sequence[str]
    ids: Sequence[str] | None
    embeddings: Rows
    """(len(urls), dimensions) float32, rows of L2 norm 1. They are read several times, one slice at a time."""
    failures: Sequence[Failure]
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class DatasetSpan:
    """The place of a dataset in its file: `rows` times `row_bytes` bytes from `offset`."""

    offset: int
    """0 for a dataset without rows."""
    rows: int
    row_bytes: int
    sha256: str
    """The digest of these bytes in the worker that wrote them."""


@dataclass(frozen=True, kw_only=True)
class ChunkHeader:
    """What a chunk file says about itself, without its rows."""

    index: int
    requested: int
    embedded: int
    failed: int
    dimensions: int
    provenance: Provenance
    fingerprint: str
    program_version: str
    created_at: str
    spans: dict[str, DatasetSpan] = field(repr=False)
    """The datasets by name: `urls`, `embeddings`, `ids` if the manifest has ids, `failures/url` and so on."""


def write_chunk(path: Path, chunk: Chunk) -> None:
    """Write a new chunk file.

    Raises ChunkInvalid before it writes anything when the chunk breaks an invariant, and ResourceExhausted when the
    disk is full.
    """
    check_rows(chunk)
    columns: dict[str, Rows] = {"urls": to_bytes_column(chunk.urls)}
    if chunk.ids is not None:
        columns["ids"] = to_bytes_column(chunk.ids)
    columns["embeddings"] = chunk.embeddings
    columns["failures/row"] = np.array([failure.row for failure in chunk.failures], dtype=np.int64)
    for name in FAILURE_TEXTS:
        columns[f"failures/{name}"] = to_bytes_column([getattr(failure, name) for failure in chunk.failures])
    skeleton = lay_out(
        run_attributes(chunk.provenance)
        | {
            "chunk_index": chunk.index,
            "rows_requested": len(chunk.urls) + len(chunk.failures),
            "rows_embedded": len(chunk.urls),
            "rows_failed": len(chunk.failures),
        },
        {name: Dataset(data.shape, data.dtype, {DIGEST: sha256(data)}) for name, data in columns.items()},
        user_block_bytes=SEAL_BYTES,
    )
    metadata = skeleton.metadata[0][SEAL_BYTES:]
    parts: dict[int, Iterable[bytes | memoryview]] = {offset: [data] for offset, data in skeleton.metadata.items()}
    parts[0] = [seal(metadata, size=skeleton.size), metadata]
    parts |= {skeleton.offsets[name]: pieces(data) for name, data in columns.items() if math.prod(data.shape)}
    with written_file(path), path.open("wb") as file:
        for offset in sorted(parts):
            file.writelines(parts[offset])
        file.flush()
        # A network file system may report only now that its disk is full.
        os.fsync(file.fileno())


def check_rows(chunk: Chunk) -> None:
    """Raise ChunkInvalid when the numbers of rows differ, or a vector does not have norm 1."""
    name = f"chunk {chunk.index}"
    rows = len(chunk.urls)
    if len(chunk.embeddings.shape) != 2 or chunk.embeddings.shape[0] != rows or chunk.embeddings.dtype != np.float32:
        raise ChunkInvalid(f"{name}: {rows} urls and embeddings of shape {chunk.embeddings.shape}")
    if chunk.ids is not None and len(chunk.ids) != rows:
        raise ChunkInvalid(f"{name}: {rows} urls and {len(chunk.ids)} ids")
    for start, vectors in slices(chunk.embeddings):
        check_norms(vectors, name=name, first_row=start)


def read_header(file: BinaryIO, *, name: str) -> ChunkHeader:
    """Return the header of an open chunk file. Raises ChunkInvalid, with `name`, when it is damaged or another file."""
    with _damage(name), open_sealed(file, name=name) as chunk:
        return _header(chunk, size=file.seek(0, 2))


def verify_chunk(file: BinaryIO, *, name: str) -> ChunkHeader:
    """Read a whole open chunk file, and return its header when every byte is as the worker wrote it.

    Raises ChunkInvalid, with `name`, when a byte differs, or when a row does not have norm 1.
    """
    header = read_header(file, name=name)
    try:
        damaged = [dataset for dataset, span in header.spans.items() if _digest(file, span) != span.sha256]
        if not damaged:
            _check_all_norms(file, header, name=name)
    except OSError as error:
        raise StoreUnavailable(describe_error(error, name)) from error
    if damaged:
        raise ChunkInvalid(f"{name} is damaged: {', '.join(damaged)} are not the bytes that were written")
    return header


def _digest(file: BinaryIO, span: DatasetSpan) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file, span):
        digest.update(block)
    return digest.hexdigest()


def _check_all_norms(file: BinaryIO, header: ChunkHeader, *, name: str) -> None:
    row = 0
    for block in _blocks(file, header.spans["embeddings"]):
        vectors = np.frombuffer(block, np.float32).reshape(-1, header.dimensions)
        check_norms(vectors, name=name, first_row=row)
        row += len(vectors)


def _blocks(file: BinaryIO, span: DatasetSpan) -> Iterator[bytes]:
    """Yield the bytes of the dataset, some rows at a time."""
    file.seek(span.offset)
    left, at_once = span.rows, max(1, BLOCK_BYTES // span.row_bytes)
    while left:
        rows = min(left, at_once)
        yield file.read(rows * span.row_bytes)
        left -= rows


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except READ_ERRORS as error:
        # An error such as "too many open files" says nothing about the file.
        raise exhausted(error) or ChunkInvalid(f"{name} is not a chunk file, or damaged: {error}") from error


def _header(file: h5py.File, *, size: int) -> ChunkHeader:
    provenance = read_provenance(file)
    attributes = file.attrs
    spans = {}
    for name in ("urls", "ids", "embeddings", "failures/row", *(f"failures/{text}" for text in FAILURE_TEXTS)):
        if name != "ids" or name in file:
            spans[name] = _span(_dataset(file, name), name)
    header = ChunkHeader(
        index=int(attributes["chunk_index"]),
        requested=int(attributes["rows_requested"]),
        embedded=int(attributes["rows_embedded"]),
        failed=int(attributes["rows_failed"]),
        dimensions=int(file["embeddings"].shape[1]),
        provenance=provenance,
        fingerprint=str(attributes["fingerprint"]),
        program_version=str(attributes["program_version"]),
        created_at=str(attributes["created_at"]),
        spans=spans,
    )
    counts = {"embeddings": header.embedded, "urls": header.embedded, "ids": header.embedded}
    for name, span in spans.items():
        expected = counts.get(name, header.failed)
        if span.rows != expected:
            raise ValueError(f"{name} has {span.rows} rows, the attributes say {expected}")
        if span.offset + span.rows * span.row_bytes > size:
            raise ValueError(f"it has {size} bytes, too few for its {name}")
    if header.requested != header.embedded + header.failed:
        raise ValueError(
            f"{header.requested} rows requested are not {header.embedded} rows embedded + {header.failed} failed"
        )
    return header


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    # A soft or external link could lead to any file of this machine.
    for each in filter(None, (name.rpartition("/")[0], name)):
        if not isinstance(file.get(each, getlink=True), h5py.HardLink):
            raise TypeError(f"{each} is absent, or a link to another place")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"{name} is not a dataset")
    return found


def _span(dataset: h5py.Dataset, name: str) -> DatasetSpan:
    numbers = {"embeddings": np.dtype(np.float32), "failures/row": np.dtype(np.int64)}
    expected = numbers.get(name)
    if dataset.dtype.kind != "S" if expected is None else dataset.dtype != expected:
        raise ValueError(f"{name} has the type {dataset.dtype}, not {expected or 'fixed-length bytes'}")
    # HDF5 returns an offset only for contiguous rows. Otherwise it returns -1 + SEAL_BYTES.
    offset = dataset.id.get_offset() or 0
    if dataset.chunks is not None or (offset < SEAL_BYTES and dataset.size):
        raise ValueError(f"{name} is not contiguous")
    dimensions = 2 if name == "embeddings" else 1
    if dataset.ndim != dimensions:
        raise ValueError(f"{name} has the shape {dataset.shape}")
    row_bytes = dataset.dtype.itemsize * (dataset.shape[1] if dimensions == 2 else 1)
    return DatasetSpan(offset if dataset.size else 0, dataset.shape[0], row_bytes, str(dataset.attrs[DIGEST]))
