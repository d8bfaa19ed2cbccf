"""The result of a finished run, read by ranges: nothing is loaded that nobody asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.errors import RunUnfinished
from common.format.merged_chunks import read_columns
from common.parallel import ordered
from common.run.keys import RESULT_KEY
from common.run.state import find_finished

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from common.format.merged_chunks import ResultColumn
    from common.format.provenance import Provenance
    from common.run.state import FinishedRun
    from common.run.summary import Summary
    from common.store.contract import Store

BLOCK_BYTES = 16 << 20
"""Size of a block of vectors in bytes: large enough for one request to S3 to be worth its time."""

READS_AT_ONCE = 8
"""Number of reads that run side by side where many rows are asked for: one request to S3 brings some 50 to 100 MB/s."""


class Result:
    """The rows of a result, by their numbers from 0.

    Every method may raise StoreUnavailable. A result that a merge replaces in the meantime is another object, so open
    it again when `stat` of the store says so.
    """

    def __init__(self, store: Store, finished: FinishedRun, columns: Mapping[str, ResultColumn]) -> None:
        self.store = store
        self.finished = finished
        self._columns = columns
        self.row_count = columns["embeddings"].rows
        self.dimensions = columns["embeddings"].row_bytes // 4

    @property
    def summary(self) -> Summary:
        return self.finished.summary

    @property
    def provenance(self) -> Provenance:
        return self.finished.provenance

    @property
    def has_ids(self) -> bool:
        return "ids" in self._columns

    @property
    def vectors_offset(self) -> int:
        """The offset in bytes of the first vector in the result's file."""
        return self._columns["embeddings"].offset

    def vectors(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the vectors of rows [start, stop): (stop - start, dimensions) float32 of L2 norm 1."""
        return np.frombuffer(self._read("embeddings", start, stop), np.float32).reshape(-1, self.dimensions)

    def vector_blocks(
        self, *, block_bytes: int = BLOCK_BYTES, ahead: int = 1
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield all vectors in blocks: the number of the first row, and (rows, dimensions) float32.

        `ahead` blocks are read while the caller works on one, so one more than that are in memory.
        """
        rows = max(1, block_bytes // (4 * self.dimensions))
        starts = range(0, self.row_count, rows)

        def read(start: int) -> tuple[int, NDArray[np.float32]]:
            return start, self.vectors(start, min(start + rows, self.row_count))

        return ordered(read, starts, concurrency=ahead, cost=lambda _: 1, budget=ahead + 1)

    def urls(self, start: int, stop: int) -> list[str]:
        """Return the manifest's URLs of rows [start, stop)."""
        return self._texts("urls", start, stop)

    def ids(self, start: int, stop: int) -> list[str]:
        """Return the manifest's ids of rows [start, stop). Raises KeyError where the manifest has none."""
        return self._texts("ids", start, stop)

    def _texts(self, name: str, start: int, stop: int) -> list[str]:
        width = self._columns[name].row_bytes
        data = self._read(name, start, stop)
        return [
            data[offset : offset + width].rstrip(b"\0").decode("utf-8", "replace")
            for offset in range(0, len(data), max(1, width))
        ]

    def _read(self, name: str, start: int, stop: int) -> bytes:
        column = self._columns[name]
        if not 0 <= start <= stop <= column.rows:
            raise IndexError(f"rows {start} to {stop} of a result with {column.rows} rows")
        if start == stop:
            return b""
        return self.store.read(RESULT_KEY, column.offset + start * column.row_bytes, (stop - start) * column.row_bytes)

    def picked_vectors(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of these rows, in their order: (len(rows), dimensions) float32.

        Rows that follow one another are one read.
        """
        numbers = np.asarray(rows, np.int64)
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []

        def read(run: NDArray[np.int64]) -> NDArray[np.float32]:
            return self.vectors(int(run[0]), int(run[-1]) + 1)

        none = np.empty((0, self.dimensions), np.float32)
        return np.concatenate([none, *ordered(read, runs, concurrency=READS_AT_ONCE)])


def open_result(store: Store) -> Result:
    """Return the result of the run in the store.

    Raises RunUnfinished when the run is not finished, and ChunkInvalid when the result is damaged.
    """
    finished = find_finished(store)
    if finished is None:
        raise RunUnfinished(
            f"{store.uri} has no finished result: it takes {RESULT_KEY} and the summary.json that belongs to it; look "
            "whether the name is right, or run the embedder to its end first"
        )
    with store.open(RESULT_KEY, finished.result.size) as file:
        columns = read_columns(file, name=store.location(RESULT_KEY))
    return Result(store, finished, columns)
