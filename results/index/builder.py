"""The build of an index: the vectors of a result, block by block, into hnswlib's memory and from there into a file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import ResourceExhausted
from common.process.forked import ForkedCallFailed, call_in_child
from results.hnsw import new_index

if TYPE_CHECKING:
    from pathlib import Path

    from results.index.progress import Progress
    from results.index.recall import ExactNeighbours
    from results.result import Result

CALL_SECONDS = 1.0
"""The time in seconds that one call of hnswlib should take: a signal is obeyed between two calls."""

FIRST_ROWS = 512
"""Number of vectors of the first call. Later ones have as many as take CALL_SECONDS."""


def build_index_file(
    result: Result,
    path: Path,
    exact: ExactNeighbours,
    progress: Progress,
    *,
    m: int,
    ef_construction: int,
    threads: int,
) -> None:
    """Write the index of all rows of the result to `path`. The label of a vector is its row.

    hnswlib holds the only copy of the vectors; beside it there are two blocks. `exact` is shown every block, so the
    vectors are read once. Raises ResourceExhausted when memory or disk do not suffice.
    """
    index = new_index(result.row_count, result.dimensions, m=m, ef_construction=ef_construction)
    at_once = FIRST_ROWS
    for first, vectors in result.vector_blocks():
        exact.add(first, vectors)
        start = 0
        while start < len(vectors):
            part = vectors[start : start + at_once]
            began = time.monotonic()
            index.add_items(part, np.arange(first + start, first + start + len(part)), num_threads=threads)
            seconds = time.monotonic() - began
            start += len(part)
            # hnswlib uses one thread for fewer than four vectors a thread.
            at_once = max(8 * threads, min(2 * at_once, round(len(part) * CALL_SECONDS / max(seconds, 1e-3))))
            progress.add(len(part))
    progress.step("saving")
    _save(index, path)


def _save(index: Any, path: Path) -> None:  # noqa: ANN401 - hnswlib has no types
    """Write the index. hnswlib holds the interpreter meanwhile and reports no full disk, so the size is compared."""

    def save() -> bytes:
        index.save_index(str(path))
        return b""

    expected = index.index_file_size()
    try:
        call_in_child(save, name="writing the index")
    except ForkedCallFailed as error:
        raise ResourceExhausted(f"{path} cannot be written: {error}; make room there") from error
    if (written := path.stat().st_size) != expected:
        raise ResourceExhausted(f"{path} has {written} bytes of {expected}; make room there")
