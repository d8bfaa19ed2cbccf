"""Where a chunk's rows come together: vectors and failures, in any order, each row exactly once."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from common.format.chunk_file import Chunk, Failure
from common.format.reasons import Reason
from common.format.rows import NORM_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from common.format.chunk_times import ChunkTimes, SamplePicture
    from common.format.provenance import Provenance
    from common.format.rows import Rows
    from worker.manifest.manifest import ManifestChunk
    from worker.rows import ImageFailed, Row


class Vectors(Protocol):
    """Where a chunk's vectors wait until the chunk is whole."""

    def write(self, rows: NDArray[np.intp], vectors: NDArray[np.float32], /) -> None:
        """Keep `vectors`, (len(rows), dimensions), as those of `rows`. Raises ResourceExhausted."""

    def flush(self) -> None:
        """Return once all vectors are on the disk. Raises ResourceExhausted."""

    def of(self, rows: NDArray[np.intp], /, *, dimensions: int) -> Rows:
        """Return the vectors of `rows`, in ascending order, (len(rows), dimensions); a slice is read on demand."""


class Collector:
    """The rows of one chunk, settled one by one, by any threads. Their vectors go to `vectors`, which must be empty."""

    def __init__(self, chunk: ManifestChunk, vectors: Vectors) -> None:
        self._rows = {row.position: row for row in chunk.rows}
        self.requested = len(chunk.rows) + len(chunk.failures)
        self._failures = {failure.row: failure for failure in chunk.failures}
        self._deferred = 0
        self._is_embedded = np.zeros(self.requested, dtype=bool)
        self._vectors = vectors
        self._lock = threading.Lock()
        self.embedded = 0

    @property
    def failed(self) -> int:
        return len(self._failures)

    @property
    def deferred(self) -> int:
        """Number of the failed rows whose turn did not come. They do not count against the failure ratio."""
        return self._deferred

    @property
    def settled(self) -> int:
        return self.embedded + self.failed

    def unsettled_rows(self) -> list[Row]:
        """Return the rows that are neither embedded nor failed, in the manifest's order."""
        with self._lock:
            return [
                row
                for position, row in self._rows.items()
                if not self._is_embedded[position] and position not in self._failures
            ]

    def embedded_rows(self) -> NDArray[np.intp]:
        """Return the positions of the embedded rows, in ascending order."""
        with self._lock:
            return np.flatnonzero(self._is_embedded)

    def embedded_mask(self) -> NDArray[np.bool_]:
        """Return, for the position of each row, whether the row is embedded now."""
        with self._lock:
            return self._is_embedded.copy()

    def is_embedded(self, position: int) -> bool:
        with self._lock:
            return bool(self._is_embedded[position])

    def url_of(self, position: int) -> str:
        """Return the URL of a row that the list can be read for."""
        return self._rows[position].url

    def vectors_of(self, rows: NDArray[np.intp], *, dimensions: int) -> Rows:
        """Return the vectors of embedded rows, in ascending order, (len(rows), dimensions), read on demand."""
        return self._vectors.of(rows, dimensions=dimensions)

    def keep_failure(self, failure: Failure) -> None:
        """Settle a row as failed that an earlier chunk file has as failed."""
        with self._lock:
            self._note(failure)

    def embed(self, positions: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Settle the rows at `positions` with `vectors`, (rows, dimensions); a row that is not finite fails.

        Raises ResourceExhausted when the disk has no room for the vectors.
        """
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        is_sound = np.abs(norms - 1) <= NORM_TOLERANCE  # False for NaN
        places = np.asarray(positions)
        # Without the lock, because the event loop waits for the lock and must not wait for the disk.
        self._vectors.write(places[is_sound], vectors[is_sound])
        with self._lock:
            self._is_embedded[places[is_sound]] = True
            self.embedded += int(is_sound.sum())
            for position in places[~is_sound].tolist():
                self._fail(position, Reason.NOT_FINITE, "the model's output is not finite or has length 0")

    def embed_after_all(self, positions: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        """Settle failed rows as embedded, with the vectors, (rows, dimensions), of another pod that has embedded them.

        Raises ResourceExhausted when the disk has no room for the vectors.
        """
        self._vectors.write(positions, vectors)
        with self._lock:
            for position in positions.tolist():
                self._deferred -= self._failures.pop(position).reason is Reason.DEFERRED
            self._is_embedded[positions] = True
            self.embedded += len(positions)

    def fail(self, position: int, failed: ImageFailed) -> None:
        """Settle the row at `position` as failed."""
        with self._lock:
            self._fail(position, failed.reason, failed.detail)

    def _fail(self, position: int, reason: Reason, detail: str) -> None:
        row = self._rows[position]
        self._note(Failure(row=position, url=row.url, reason=reason, detail=detail, id=row.id))

    def _note(self, failure: Failure) -> None:
        self._failures[failure.row] = failure
        self._deferred += failure.reason is Reason.DEFERRED

    def count_by_reason(self) -> Counter[Reason]:
        with self._lock:
            return Counter(failure.reason for failure in self._failures.values())

    def failures(self) -> list[Failure]:
        """Return the rows that have failed so far, in the manifest's order."""
        with self._lock:
            return [self._failures[position] for position in sorted(self._failures)]

    def chunk(
        self,
        *,
        index: int,
        dimensions: int,
        has_ids: bool,
        provenance: Provenance,
        times: ChunkTimes | None = None,
        pictures: Sequence[SamplePicture] = (),
    ) -> Chunk:
        """Return the whole chunk in the manifest's order; its vectors are read on demand.

        Raises RuntimeError when a row is not settled.
        """
        if self.settled != self.requested:
            raise RuntimeError(f"{self.requested - self.settled} rows of {self.requested} are not settled")
        self._vectors.flush()
        embedded = np.flatnonzero(self._is_embedded)
        rows = [self._rows[position] for position in embedded.tolist()]
        return Chunk(
            index=index,
            urls=[row.url for row in rows],
            ids=[row.id for row in rows] if has_ids else None,
            embeddings=self._vectors.of(embedded, dimensions=dimensions),
            failures=[self._failures[position] for position in sorted(self._failures)],
            provenance=provenance,
            times=times,
            pictures=pictures,
        )
