"""Where a chunk's rows come together: vectors and failures, in whatever order they arrive, each row exactly once."""

from __future__ import annotations

import mmap
import threading
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from common.chunk_file import NORM_TOLERANCE, Chunk, Failure
from common.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from common.provenance import Provenance
    from worker.manifest import ManifestChunk
    from worker.rows import ImageFailed


class Collector:
    """The rows of one chunk, settled one by one. Threads may settle rows at the same time."""

    def __init__(self, chunk: ManifestChunk) -> None:
        self._rows = {row.position: row for row in chunk.rows}
        self.requested = len(chunk.rows) + len(chunk.failures)
        self._failures = {failure.row: failure for failure in chunk.failures}
        self._is_embedded = np.zeros(self.requested, dtype=bool)
        self._vectors: NDArray[np.float32] | None = None
        self._lock = threading.Lock()
        self.embedded = 0

    @property
    def failed(self) -> int:
        return len(self._failures)

    @property
    def settled(self) -> int:
        return self.embedded + self.failed

    def embed(self, positions: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Settle the rows at `positions` with `vectors`, (rows, dimensions); one that is not finite has failed."""
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        is_sound = np.abs(norms - 1) <= NORM_TOLERANCE  # False for NaN
        places = np.asarray(positions)
        with self._lock:
            if self._vectors is None:
                self._vectors = _new_vectors(self.requested, vectors.shape[1])
            self._vectors[places[is_sound]] = vectors[is_sound]
            self._is_embedded[places[is_sound]] = True
            self.embedded += int(is_sound.sum())
            for position in places[~is_sound].tolist():
                self._fail(position, Reason.NOT_FINITE, "the model's output is not finite or has no length")

    def fail(self, position: int, failed: ImageFailed) -> None:
        """Settle the row at `position` as failed."""
        with self._lock:
            self._fail(position, failed.reason, failed.detail)

    def _fail(self, position: int, reason: Reason, detail: str) -> None:
        row = self._rows[position]
        self._failures[position] = Failure(row=position, url=row.url, reason=reason, detail=detail, id=row.id)

    def count_by_reason(self) -> Counter[Reason]:
        with self._lock:
            return Counter(failure.reason for failure in self._failures.values())

    def chunk(self, *, index: int, dimensions: int, has_ids: bool, provenance: Provenance) -> Chunk:
        """Return the whole chunk in the manifest's order. Raises RuntimeError while a row is not settled.

        The vectors are closed up in place, so the collector is of no use afterwards.
        """
        if self.settled != self.requested:
            raise RuntimeError(f"{self.requested - self.settled} rows of {self.requested} are not settled")
        rows = [self._rows[position] for position in np.flatnonzero(self._is_embedded).tolist()]
        return Chunk(
            index=index,
            urls=[row.url for row in rows],
            ids=[row.id for row in rows] if has_ids else None,
            embeddings=self._closed_up(dimensions),
            failures=[self._failures[position] for position in sorted(self._failures)],
            provenance=provenance,
        )

    def _closed_up(self, dimensions: int) -> NDArray[np.float32]:
        if self._vectors is None:
            return np.empty((0, dimensions), dtype=np.float32)
        end = 0
        # Runs of rows between two failures move down in one piece; a copy of all would double the memory.
        for start, stop in _runs(self._is_embedded):
            if start != end:
                self._vectors[end : end + stop - start] = self._vectors[start:stop]
            end += stop - start
        return self._vectors[:end]


def _new_vectors(rows: int, dimensions: int) -> NDArray[np.float32]:
    """Return room for vectors, of which pages that no row is written to take no memory."""
    # Not from the heap, whose holes are for what comes and goes.
    size = max(1, rows * dimensions * np.dtype(np.float32).itemsize)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.float32, rows * dimensions).reshape(rows, dimensions)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (start, stop) of every run of true flags."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
