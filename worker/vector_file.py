"""A chunk's vectors, kept on disk until the chunk is whole, so that memory does not grow with the chunk."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np

from common.errors import ResourceExhausted
from common.process.resources import temporary_file, written_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray


class VectorFile:
    """A file without a name that holds one float32 vector for each row of the chunk; use it as a context manager.

    Every method raises ResourceExhausted when the disk is full or fails.
    """

    def __init__(self) -> None:
        self._file, self._place = temporary_file()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        """Keep `vectors`, (len(rows), dimensions), as the vectors of `rows`, which are all different."""
        order = np.argsort(rows)
        rows, vectors = rows[order], np.ascontiguousarray(vectors[order])
        for start, stop in _runs(rows):
            data = vectors[start:stop].data.cast("B")
            offset = int(rows[start]) * vectors[start].nbytes
            while data:
                with written_file(self._place):
                    written = os.pwrite(self._file.fileno(), data, offset)
                data, offset = data[written:], offset + written

    def read(self, rows: NDArray[np.intp], *, dimensions: int) -> NDArray[np.float32]:
        """Return the vectors of `rows`, (len(rows), dimensions). The rows ascend, and all are written."""
        vectors = np.empty((len(rows), dimensions), dtype=np.float32)
        for start, stop in _runs(rows):
            data = vectors[start:stop].data.cast("B")
            offset = int(rows[start]) * vectors[start].nbytes
            while data:
                with written_file(self._place):
                    got = os.preadv(self._file.fileno(), [data], offset)
                if not got:
                    raise ResourceExhausted(f"{self._place}: another program has shortened a file of this program")
                data, offset = data[got:], offset + got
        return vectors

    def of(self, rows: NDArray[np.intp], *, dimensions: int) -> StoredVectors:
        """Return the vectors of `rows`, in ascending order, (len(rows), dimensions); a slice is read on demand."""
        return StoredVectors(self, rows, dimensions=dimensions)

    def flush(self) -> None:
        """Wait until all vectors are on the disk. A network file system may report only now that it is full."""
        with written_file(self._place):
            os.fsync(self._file.fileno())


class StoredVectors:
    """The vectors of some rows, in ascending order, as an array whose slices are read on demand."""

    dtype = np.dtype(np.float32)

    def __init__(self, file: VectorFile, rows: NDArray[np.intp], *, dimensions: int) -> None:
        self._file, self._rows = file, rows
        self.shape = (len(rows), dimensions)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        return self._file.read(self._rows[rows], dimensions=self.shape[1])


def _runs(rows: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) within `rows` for every run of consecutive numbers. The rows are in ascending order."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *edges.tolist(), len(rows)]
    yield from ((start, stop) for start, stop in pairwise(bounds) if start < stop)
