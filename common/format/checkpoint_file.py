"""The checkpoint: some of the vectors of a chunk that is not finished, and what made them, as HDF5 behind a seal.

    rows        (rows,) int64                         the rows' positions within the chunk, ascending
    embeddings  (rows, dimensions) float32            row r belongs to rows[r] and has L2 norm 1

A checkpoint is small enough to be read and checked in memory before anything in it is believed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ChunkInvalid
from common.format.chunk_times import Attempt, read_json
from common.format.rows import check_norms
from common.format.run_attributes import read_provenance, run_attributes
from common.format.seal import open_sealed
from common.format.sealed_file import digest_of, find_span, reported_damage, sealed_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from common.format.provenance import Provenance
    from common.format.rows import Rows
    from common.format.sealed_file import DatasetSpan

MAX_VECTOR_BYTES = 16 << 20
"""The largest size in bytes of a checkpoint's vectors: 8,192 vectors of 512 dimensions. A longer one would take more
memory, and a shorter one would cost more requests."""

MAX_CHECKPOINT_BYTES = 2 * MAX_VECTOR_BYTES
"""The largest size in bytes of an object that can be a checkpoint: vectors, positions and metadata."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The content of a checkpoint."""

    index: int
    """The index of the chunk."""
    requested: int
    """The number of the chunk's rows."""
    rows: NDArray[np.int64]
    """(rows,), the rows' positions within the chunk, from 0, ascending."""
    vectors: Rows
    """(rows, dimensions) float32, each of L2 norm 1. They are read twice, one slice at a time."""
    provenance: Provenance
    attempt: Attempt | None = None
    """The attempt that wrote it, up to then. None in a checkpoint of an earlier version."""


def rows_at_once(dimensions: int) -> int:
    """Return how many rows of so many dimensions a checkpoint holds at most."""
    return max(1, MAX_VECTOR_BYTES // (dimensions * np.dtype(np.float32).itemsize))


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the bytes of a checkpoint's object."""
    attributes = run_attributes(checkpoint.provenance) | {
        "chunk_index": checkpoint.index,
        "rows_requested": checkpoint.requested,
    }
    if checkpoint.attempt is not None:
        attributes["attempt"] = checkpoint.attempt.model_dump_json()
    columns: dict[str, Rows] = {"rows": checkpoint.rows, "embeddings": checkpoint.vectors}
    return b"".join(sealed_bytes(attributes, columns))


def read_checkpoint(data: bytes, *, name: str) -> Checkpoint:
    """Return the checkpoint that these bytes are. Raises ChunkInvalid, with `name`, when one byte is not as written.

    The rows ascend and lie within the chunk, and each vector has norm 1.
    """
    file = io.BytesIO(data)
    with reported_damage(name, kind="checkpoint"):
        with open_sealed(file, name=name) as opened:
            provenance = read_provenance(opened)
            index, requested = int(opened.attrs["chunk_index"]), int(opened.attrs["rows_requested"])
            attempt = read_json(Attempt, opened.attrs.get("attempt"))
            spans = {
                "rows": find_span(opened, "rows", dtype=np.int64),
                "embeddings": find_span(opened, "embeddings", dtype=np.float32, dimensions=2),
            }
        rows = np.frombuffer(_content(data, spans["rows"]), np.int64)
        vectors = np.frombuffer(_content(data, spans["embeddings"]), np.float32).reshape(len(rows), -1)
        damaged = [dataset for dataset, span in spans.items() if digest_of(file, span) != span.sha256]
    if damaged:
        raise ChunkInvalid(f"{name} is damaged: {', '.join(damaged)} are not the bytes that were written")
    if np.any(np.diff(rows) <= 0) or np.any((rows < 0) | (rows >= requested)):
        raise ChunkInvalid(f"{name} has rows that do not ascend from 0 to {requested - 1}, as those of the chunk do")
    check_norms(vectors, name=name)
    return Checkpoint(
        index=index, requested=requested, rows=rows, vectors=vectors, provenance=provenance, attempt=attempt
    )


def _content(data: bytes, span: DatasetSpan) -> memoryview:
    """Return the bytes of a dataset. Raises ValueError when the file is too short for it."""
    content = memoryview(data)[span.offset : span.offset + span.rows * span.row_bytes]
    if len(content) != span.rows * span.row_bytes:
        raise ValueError(f"it has {len(data)} bytes, too few for its rows")
    return content
