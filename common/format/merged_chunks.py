"""The chunks that a result was merged from, as the result itself says: the table in its dataset `chunks`.

A top-up finds a chunk's rows with it. The merge that follows recognises by the digests which chunk files the result
does not hold yet, and copies the rows of all other chunks by range. The table has no times and no versions, so runs
with the same rows have the same table.

The table lies among the result's metadata, before the rows: 168 bytes for each chunk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from common.errors import ChunkInvalid
from common.format.hdf5 import READ_ERRORS, open_hdf5
from common.process.resources import exhausted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from common.format.chunk_file import ChunkHeader

DATASET = "chunks"
"""The name of the dataset."""

TABLE_DIGEST = "sha256"
"""The attribute of the dataset that holds the digest of its bytes."""

_DIGESTS = ("urls_sha256", "ids_sha256", "embeddings_sha256", "failures_sha256")

TYPE = np.dtype(
    [(name, "<i8") for name in ("index", "requested", "embedded", "url_bytes", "id_bytes")]
    + [(name, "u1", (32,)) for name in _DIGESTS]
)
"""The type of a row of the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedChunk:
    """One chunk of a result. The result's rows lie in the order of the chunks.

    The digests are those of the chunk file: SHA-256 over rows of the chunk's own widths.
    """

    index: int
    requested: int
    """Number of rows of the manifest in the chunk."""
    embedded: int
    """Number of rows of the chunk in the result."""
    url_bytes: int
    """Width of a URL in the chunk file, in bytes. The result pads it with zeros to the width of the whole run."""
    id_bytes: int
    """Width of an id in the chunk file, in bytes; 0 where the manifest has no ids."""
    urls_sha256: bytes
    ids_sha256: bytes
    """Zeros where the manifest has no ids."""
    embeddings_sha256: bytes
    failures_sha256: bytes
    """The SHA-256 of the digests of the chunk file's `failures/row`, `url`, `id`, `reason` and `detail`, in this
    order."""

    @property
    def failed(self) -> int:
        return self.requested - self.embedded


class ResultColumn(NamedTuple):
    """The place of a dataset in a result."""

    offset: int
    """Offset of the first row in bytes; 0 for a dataset without rows."""
    rows: int
    row_bytes: int


class ResultContents(NamedTuple):
    """Where the rows of each chunk lie in a result."""

    chunks: Sequence[MergedChunk]
    """In the order of their indexes."""
    columns: Mapping[str, ResultColumn]
    """`urls`, `embeddings`, and `ids` where the manifest has ids."""


def merged_chunk(header: ChunkHeader) -> MergedChunk:
    """Return what the table of a result says about a chunk with this header."""
    spans = header.spans
    failures = hashlib.sha256()
    for name in ("row", "url", "id", "reason", "detail"):
        failures.update(bytes.fromhex(spans[f"failures/{name}"].sha256))
    has_ids = "ids" in spans
    return MergedChunk(
        index=header.index,
        requested=header.requested,
        embedded=header.embedded,
        url_bytes=spans["urls"].row_bytes,
        id_bytes=spans["ids"].row_bytes if has_ids else 0,
        urls_sha256=bytes.fromhex(spans["urls"].sha256),
        ids_sha256=bytes.fromhex(spans["ids"].sha256) if has_ids else bytes(32),
        embeddings_sha256=bytes.fromhex(spans["embeddings"].sha256),
        failures_sha256=failures.digest(),
    )


def encode_table(chunks: Sequence[MergedChunk]) -> bytes:
    """Return the bytes of the dataset."""
    table = np.zeros(len(chunks), TYPE)
    for name in TYPE.fields or ():
        values: list[Any] = [getattr(chunk, name) for chunk in chunks]
        if name in _DIGESTS:
            table[name] = np.frombuffer(b"".join(values), np.uint8).reshape(-1, 32)
        else:
            table[name] = values
    return table.tobytes()


def table_digest(table: bytes) -> str:
    return hashlib.sha256(table).hexdigest()


def read_merged_chunks(file: BinaryIO, *, name: str) -> Sequence[MergedChunk] | None:
    """Return the chunks of an open result in the order of its rows, None for a result of an earlier version.

    The rows of a chunk begin behind those of all chunks before it. Raises ChunkInvalid, with `name`, when the table is
    damaged, and StoreUnavailable when a read fails.
    """
    contents = read_contents(file, name=name)
    return None if contents is None else contents.chunks


def read_contents(file: BinaryIO, *, name: str) -> ResultContents | None:
    """Return where the rows of each chunk lie in an open result. None and errors are as in `read_merged_chunks`."""
    try:
        with open_hdf5(file, name=name) as result:
            if DATASET not in result:
                return None
            # The table last: its bytes take the place of the other metadata in the reader's memory.
            columns = {column: _column(result, column) for column in ("urls", "ids", "embeddings") if column in result}
            chunk_count = int(result.attrs["chunk_count"])
            chunks = _chunks(result)
            _check(chunks, columns, chunk_count=chunk_count)
    except READ_ERRORS as error:
        raise exhausted(error) or ChunkInvalid(f"the table of chunks in {name} is damaged: {error}") from error
    return ResultContents(chunks, columns)


def read_columns(file: BinaryIO, *, name: str) -> Mapping[str, ResultColumn]:
    """Return where the rows lie in an open result, also in one of an earlier version without the table.

    Raises ChunkInvalid, with `name`, when the file is damaged, and StoreUnavailable when a read fails.
    """
    try:
        with open_hdf5(file, name=name) as result:
            columns = {column: _column(result, column) for column in ("urls", "ids", "embeddings") if column in result}
            _check_columns(columns, {column: result[column].dtype for column in columns})
    except READ_ERRORS as error:
        raise exhausted(error) or ChunkInvalid(
            f"{name} is not a result of this program, or damaged: {error}"
        ) from error
    return columns


def _dataset(result: h5py.File, name: str) -> h5py.Dataset:
    # A soft or external link could lead to any file of this machine.
    if not isinstance(result.get(name, getlink=True), h5py.HardLink) or not isinstance(result[name], h5py.Dataset):
        raise TypeError(f"{name} is not a dataset")
    dataset = result[name]
    # HDF5 returns an offset only for contiguous rows.
    if dataset.size and (dataset.chunks is not None or dataset.id.get_offset() is None):
        raise ValueError(f"{name} is not contiguous")
    return dataset


def _chunks(result: h5py.File) -> Sequence[MergedChunk]:
    dataset = _dataset(result, DATASET)
    if dataset.dtype != TYPE or dataset.ndim != 1:
        raise ValueError(f"it has the type {dataset.dtype} and the shape {dataset.shape}")
    if dataset.nbytes > result.id.get_filesize():
        raise ValueError(f"it has {dataset.shape[0]} rows, more than the file has room for")
    digest = dataset.attrs[TABLE_DIGEST]
    table: NDArray[Any] = dataset[:]
    if table_digest(table.tobytes()) != digest:
        raise ValueError("its bytes are not those that were written")
    columns = {
        name: [row.tobytes() for row in table[name]] if name in _DIGESTS else table[name].tolist()
        for name in TYPE.fields or ()
    }
    return [MergedChunk(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _column(result: h5py.File, name: str) -> ResultColumn:
    dataset = _dataset(result, name)
    row_bytes = dataset.dtype.itemsize * (dataset.shape[1] if name == "embeddings" else 1)
    offset = dataset.id.get_offset() if dataset.size else 0
    if offset + dataset.shape[0] * row_bytes > result.id.get_filesize():
        raise ValueError(f"the file is too short for its {name}")
    return ResultColumn(offset, dataset.shape[0], row_bytes)


def _check_columns(columns: Mapping[str, ResultColumn], types: Mapping[str, np.dtype[Any]]) -> None:
    """Raise ValueError where a column is absent, has another type, or another number of rows."""
    if {"urls", "embeddings"} - columns.keys():
        raise ValueError("it has no urls or no embeddings")
    if types["embeddings"] != np.float32 or any(types[name].kind != "S" for name in types.keys() - {"embeddings"}):
        raise ValueError(f"its datasets have the types {dict(types)}")
    if len({column.rows for column in columns.values()}) != 1:
        raise ValueError("its datasets differ in their numbers of rows")


def _check(chunks: Sequence[MergedChunk], columns: Mapping[str, ResultColumn], *, chunk_count: int) -> None:
    """Raise ValueError where the table contradicts itself or the rows of the result."""
    indexes = [chunk.index for chunk in chunks]
    if indexes != sorted(set(indexes)) or not all(0 <= index < chunk_count for index in indexes):
        raise ValueError(f"its indexes are not those of {chunk_count} chunks in their order")
    if any(not 0 <= chunk.embedded <= chunk.requested for chunk in chunks):
        raise ValueError("a chunk has more rows embedded than requested")
    rows = sum(chunk.embedded for chunk in chunks)
    for name, column in columns.items():
        if column.rows != rows:
            raise ValueError(f"its chunks have {rows} rows, {name} has {column.rows}")
