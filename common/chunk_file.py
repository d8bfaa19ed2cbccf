"""The chunk file: one chunk's vectors, URLs and failures, with what made them, as HDF5.

    urls        (rows,) fixed-length bytes, UTF-8     the manifest's URLs, in the manifest's order
    ids         (rows,) fixed-length bytes, UTF-8     where the manifest has ids
    embeddings  (rows, dimensions) float32            row r belongs to urls[r]; each of L2 norm 1
    failures/   row, url, id, reason, detail          the images that did not embed, in the manifest's order

Datasets are contiguous and uncompressed, so that a vector is a byte range. All metadata lies in the first 64 KiB:
one ranged read tells everything but the rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from common.errors import ChunkInvalid
from common.hdf5 import new_hdf5, open_hdf5
from common.indexes import parse_indexes
from common.provenance import Provenance, program_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from common.reasons import Reason

SCHEMA_VERSION = 1

DIGEST = "sha256"
"""A dataset's attribute: the digest of its bytes, by which a flipped bit is found."""

METADATA_BYTES = 65_536
"""Where the rows begin: everything that describes them lies before."""

HEAP_BYTES = 4096
"""HDF5 keeps the texts of attributes in a heap of this size, behind the block of its other metadata."""

METADATA_BLOCK_BYTES = METADATA_BYTES - HEAP_BYTES

NORM_TOLERANCE = 1e-3
"""How far from 1 the norm of a stored row may be. float32 division by its own norm ends within 1e-6."""


@dataclass(frozen=True, slots=True)
class Failure:
    row: int
    """Position within the chunk's rows, from 0."""
    url: str
    """The manifest's URL, "" where the row has none that can be read."""
    reason: Reason
    detail: str
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The content of a chunk file."""

    index: int
    urls: Sequence[str]
    ids: Sequence[str] | None
    embeddings: NDArray[np.float32]
    """(len(urls), dimensions), rows of L2 norm 1."""
    failures: Sequence[Failure]
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class DatasetSpan:
    """Where a dataset lies in its file: `rows` times `row_bytes` bytes from `offset`."""

    offset: int
    rows: int
    row_bytes: int
    sha256: str
    """Of those bytes, as the worker had them."""


@dataclass(frozen=True, kw_only=True)
class ChunkHeader:
    """What a chunk file says of itself, without its rows."""

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
    """By name: `urls`, `embeddings`, `ids` (where there are any), `failures/url` and so on."""


def write_chunk(path: Path, chunk: Chunk) -> None:
    """Write the chunk file, a new one.

    Raises ChunkInvalid, before anything is written, when the chunk breaks an invariant, and ResourceExhausted.
    """
    check_rows(chunk)
    with new_hdf5(path, libver=("v108", "v110"), meta_block_size=METADATA_BLOCK_BYTES) as file:
        requested = len(chunk.urls) + len(chunk.failures)
        file.attrs.update(
            run_attributes(chunk.provenance)
            | {
                "chunk_index": chunk.index,
                "rows_requested": requested,
                "rows_embedded": len(chunk.urls),
                "rows_failed": len(chunk.failures),
            }
        )
        columns: dict[str, NDArray[Any]] = {"urls": to_bytes_column(chunk.urls)}
        if chunk.ids is not None:
            columns["ids"] = to_bytes_column(chunk.ids)
        columns["embeddings"] = chunk.embeddings
        columns["failures/row"] = np.array([failure.row for failure in chunk.failures], dtype=np.int64)
        for name in FAILURE_TEXTS:
            columns[f"failures/{name}"] = to_bytes_column([getattr(failure, name) for failure in chunk.failures])
        # All headers first, then the data, so that the headers share the first metadata block.
        datasets = {}
        for name, data in columns.items():
            datasets[name] = file.create_dataset(name, shape=data.shape, dtype=data.dtype)
            datasets[name].attrs[DIGEST] = sha256(data)
        for name, data in columns.items():
            if data.size:
                datasets[name].write_direct(np.ascontiguousarray(data))


FAILURE_TEXTS = ("url", "id", "reason", "detail")


def check_rows(chunk: Chunk) -> None:
    """Raise ChunkInvalid when rows, norms or failures do not add up."""
    name = f"chunk {chunk.index}"
    rows = len(chunk.urls)
    if chunk.embeddings.ndim != 2 or chunk.embeddings.shape[0] != rows or chunk.embeddings.dtype != np.float32:
        raise ChunkInvalid(f"{name}: {rows} urls and embeddings of shape {chunk.embeddings.shape}")
    if chunk.ids is not None and len(chunk.ids) != rows:
        raise ChunkInvalid(f"{name}: {rows} urls and {len(chunk.ids)} ids")
    check_norms(chunk.embeddings, name=name)


def check_norms(embeddings: NDArray[np.float32], *, name: str) -> None:
    """Raise ChunkInvalid, naming the first bad row, unless every row of (rows, dimensions) is finite and of norm 1."""
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    bad = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # NaN compares false
    if bad.size:
        raise ChunkInvalid(f"{name}: {bad.size} rows are not of norm 1, the first is row {bad[0]}: {norms[bad[0]]}")


def read_header(file: BinaryIO, *, name: str) -> ChunkHeader:
    """Return the header of an open chunk file. Raises ChunkInvalid, with `name`, when it is none or does not add up."""
    try:
        with open_hdf5(file, name=name) as chunk:
            header = _header(chunk)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ChunkInvalid(f"{name} is no chunk file, or damaged: {error}") from error
    return header


def verify_chunk(file: BinaryIO, *, name: str) -> ChunkHeader:
    """Return the header of an open chunk file, once its every byte is as the worker wrote it; reads the whole file.

    Raises ChunkInvalid, with `name`, when it is not.
    """
    header = read_header(file, name=name)
    try:
        with open_hdf5(file, name=name) as chunk:
            damaged = [dataset for dataset, span in header.spans.items() if sha256(chunk[dataset][()]) != span.sha256]
    except (OSError, RuntimeError, ValueError) as error:
        raise ChunkInvalid(f"{name} is damaged: {error}") from error
    if damaged:
        raise ChunkInvalid(f"{name} is damaged: {', '.join(damaged)} are not the bytes that were written")
    return header


@dataclass(frozen=True, kw_only=True)
class ResultHeader:
    """What the result says of the run."""

    provenance: Provenance
    missing: list[int]
    """Chunks that a partial merge went without."""


def read_result(file: BinaryIO, *, name: str) -> ResultHeader:
    """Return what an open result says. Raises ChunkInvalid, with `name`, when it is none."""
    try:
        with open_hdf5(file, name=name) as result:
            return ResultHeader(
                provenance=read_provenance(result), missing=parse_indexes(str(result.attrs["chunks_missing"]))
            )
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ChunkInvalid(f"{name} is no result of this program, or damaged: {error}") from error


def _header(file: h5py.File) -> ChunkHeader:
    provenance = read_provenance(file)
    attributes = file.attrs
    spans = {}
    for name in ("urls", "ids", "embeddings", "failures/row", *(f"failures/{text}" for text in FAILURE_TEXTS)):
        if name in file:
            spans[name] = _span(file[name])
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
            raise ValueError(f"{name} has {span.rows} rows, its attributes say {expected}")
    for name in {"urls", "ids"} & spans.keys():
        if file[name].dtype.kind != "S":
            raise ValueError(f"{name} are {file[name].dtype}, not fixed-length bytes")
    if file["embeddings"].dtype != np.float32:
        raise ValueError(f"embeddings are {file['embeddings'].dtype}, not float32")
    if header.requested != header.embedded + header.failed:
        raise ValueError(f"requested {header.requested} is not embedded {header.embedded} + failed {header.failed}")
    return header


def _span(dataset: h5py.Dataset) -> DatasetSpan:
    offset = dataset.id.get_offset()  # None for no rows, and for any layout but the contiguous one
    if dataset.chunks is not None or (offset is None and dataset.size):
        raise ValueError(f"{dataset.name} is not contiguous")
    dimensions = 2 if dataset.name == "/embeddings" else 1
    if dataset.ndim != dimensions:
        raise ValueError(f"{dataset.name} has the shape {dataset.shape}")
    row_bytes = dataset.dtype.itemsize * (dataset.shape[1] if dimensions == 2 else 1)
    return DatasetSpan(offset or 0, dataset.shape[0], row_bytes, str(dataset.attrs[DIGEST]))


def read_provenance(file: h5py.File) -> Provenance:
    """Return what made an open chunk file or result. Raises KeyError or ValueError when it does not say."""
    schema = int(file.attrs["schema_version"])
    if schema != SCHEMA_VERSION:
        raise ValueError(f"schema version {schema}, this program reads {SCHEMA_VERSION}")
    values = {name: file.attrs[name] for name in Provenance.__dataclass_fields__}
    provenance = Provenance(
        **{name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    )
    # HDF5 keeps no checksum of texts: a wrong byte must not look like a run made with other settings.
    if str(file.attrs["fingerprint"]) != provenance.fingerprint:
        raise ValueError("the fingerprint is not that of the provenance beside it")
    return provenance


def run_attributes(provenance: Provenance) -> dict[str, Any]:
    """Return the attributes that chunk files and the result share."""
    return asdict(provenance) | {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": provenance.fingerprint,
        "program_version": program_version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def sha256(data: NDArray[Any]) -> str:
    """Return the hexadecimal SHA-256 of the array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(data).view(np.uint8).data if data.size else b"").hexdigest()


def to_bytes_column(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return the texts as fixed-length UTF-8, as wide as the widest, at least 1 byte."""
    encoded = [text.encode("utf-8", "backslashreplace") for text in texts]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=0) or 1}")
