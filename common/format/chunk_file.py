"""The chunk file: one chunk's vectors, URLs and failures, and what made them, as HDF5.

    urls        (rows,) fixed-length bytes, UTF-8     the manifest's URLs, in the manifest's order
    ids         (rows,) fixed-length bytes, UTF-8     only if the manifest has ids
    embeddings  (rows, dimensions) float32            row r belongs to urls[r] and has L2 norm 1
    failures/   row, url, id, reason, detail          the images that did not embed, in the manifest's order

A seal at the start of the file (see common.format.seal) shows damage to the metadata. A digest of each dataset shows
damage to its rows.

The datasets are contiguous and uncompressed, so that a vector is a byte range. The metadata usually lies in the first
16 KiB: one ranged read returns everything but the rows. Longer metadata takes a second read. Attributes of the file
say when and how the chunk was computed, for the report (see common.format.chunk_times).
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from common.errors import ChunkInvalid, StoreUnavailable
from common.format.chunk_times import read_pictures, read_times, times_attributes
from common.format.rows import check_norms, slices, to_bytes_column
from common.format.run_attributes import read_provenance, run_attributes
from common.format.seal import READ_BYTES, open_sealed
from common.format.sealed_file import DatasetSpan, blocks, digest_of, find_span, reported_damage, sealed_bytes
from common.process.resources import describe_error, written_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import h5py

    from common.format.chunk_times import ChunkTimes, SamplePicture
    from common.format.provenance import Provenance
    from common.format.reasons import Reason
    from common.format.rows import Rows

METADATA_BYTES = READ_BYTES
"""The number of bytes to read for everything but the rows. Usual metadata takes 8.8 KiB and a few KiB for each sample
picture, so a second read may follow."""

FAILURE_TEXTS = ("url", "id", "reason", "detail")
"""The fields of a failure that are texts."""


_NUMBERS: dict[str, type[np.generic]] = {"embeddings": np.float32, "failures/row": np.int64}
"""The types of the datasets of numbers. The others are texts."""


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
    times: ChunkTimes | None = None
    pictures: Sequence[SamplePicture] = ()


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
    times: ChunkTimes | None = field(default=None, repr=False)
    """When and how it was computed. None in a file of an earlier version."""
    pictures: Sequence[SamplePicture] = field(default=(), repr=False)


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
    attributes = run_attributes(chunk.provenance) | {
        "chunk_index": chunk.index,
        "rows_requested": len(chunk.urls) + len(chunk.failures),
        "rows_embedded": len(chunk.urls),
        "rows_failed": len(chunk.failures),
        **times_attributes(chunk.times, chunk.pictures),
    }
    with written_file(path), path.open("wb") as file:
        file.writelines(sealed_bytes(attributes, columns))
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
    with reported_damage(name, kind="chunk file"), open_sealed(file, name=name) as chunk:
        return _header(chunk, size=file.seek(0, 2))


def verify_chunk(file: BinaryIO, *, name: str) -> ChunkHeader:
    """Read a whole open chunk file, and return its header when every byte is as the worker wrote it.

    Raises ChunkInvalid, with `name`, when a byte differs, or when a row does not have norm 1.
    """
    header = read_header(file, name=name)
    try:
        damaged = [dataset for dataset, span in header.spans.items() if digest_of(file, span) != span.sha256]
        if not damaged:
            _check_all_norms(file, header, name=name)
    except OSError as error:
        raise StoreUnavailable(describe_error(error, name)) from error
    if damaged:
        raise ChunkInvalid(f"{name} is damaged: {', '.join(damaged)} are not the bytes that were written")
    return header


def count_reasons(file: BinaryIO, header: ChunkHeader, *, name: str) -> Counter[str]:
    """Return the number of failed rows of an open chunk file by reason. It reads the reasons and nothing else."""
    span = header.spans["failures/reason"]
    counts: Counter[str] = Counter()
    try:
        for block in blocks(file, span):
            starts = range(0, len(block), max(1, span.row_bytes))
            counts.update(
                block[start : start + span.row_bytes].rstrip(b"\0").decode("utf-8", "replace") for start in starts
            )
    except OSError as error:
        raise StoreUnavailable(describe_error(error, name)) from error
    return counts


def _check_all_norms(file: BinaryIO, header: ChunkHeader, *, name: str) -> None:
    row = 0
    for block in blocks(file, header.spans["embeddings"]):
        vectors = np.frombuffer(block, np.float32).reshape(-1, header.dimensions)
        check_norms(vectors, name=name, first_row=row)
        row += len(vectors)


def _header(file: h5py.File, *, size: int) -> ChunkHeader:
    provenance = read_provenance(file)
    attributes = file.attrs
    spans = {}
    for name in ("urls", "ids", "embeddings", "failures/row", *(f"failures/{text}" for text in FAILURE_TEXTS)):
        if name != "ids" or name in file:
            dimensions = 2 if name == "embeddings" else 1
            spans[name] = find_span(file, name, dtype=_NUMBERS.get(name), dimensions=dimensions)
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
        times=read_times(attributes),
        pictures=read_pictures(attributes),
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
