"""The rows of a result that are nearest to a vector."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from common.errors import ResourceExhausted, StoreUnavailable
from common.logs import log
from common.process.limits import find_memory
from common.run.keys import INDEX_KEY
from common.store.folder import FolderStore
from results.current_index import CurrentIndex, find_current_index
from results.hnsw import IndexDamaged, has_hnswlib, load_index, memory_bytes
from results.index_cache import NotCached, cached_path, keep_index, remove_cached
from results.result import READS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from results.result import Result


SMALL_INDEX_BYTES = 256 << 20
"""Size in bytes up to which the index of a run in a bucket is downloaded for a single query."""


SEARCHED_BYTES = 8 << 20
"""Size in bytes of the blocks that exact search reads side by side."""


class Neighbour(NamedTuple):
    row: int
    score: float
    """The cosine similarity with the query, -1 to 1."""


class NearestRows(Protocol):
    """A way to find the nearest rows. Its methods may be called from any thread."""

    name: str
    """How it searches, for people: `exact` or `index`."""

    def nearest(self, query: NDArray[np.float32], count: int) -> Sequence[Neighbour]:
        """Return at most `count` rows, the nearest first. `query` is (dimensions,) float32 of L2 norm 1."""


class ExactSearch:
    """Compares the query with every vector, one block at a time."""

    name = "exact"

    def __init__(self, result: Result) -> None:
        self._result = result

    def nearest(self, query: NDArray[np.float32], count: int) -> Sequence[Neighbour]:
        rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
        for first, vectors in self._result.vector_blocks(block_bytes=SEARCHED_BYTES, ahead=READS_AT_ONCE):
            block = vectors @ query  # (rows of the block,)
            best = np.argpartition(-block, min(count, len(block)) - 1)[:count] if len(block) else np.empty(0, np.int64)
            rows, scores = np.concatenate([rows, first + best]), np.concatenate([scores, block[best]])
            kept = np.lexsort((rows, -scores))[:count]
            rows, scores = rows[kept], scores[kept]
        return [Neighbour(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]


class IndexNotUsed(Exception):
    """There is an index, and it cannot be used. The message is a clause that says why."""


class IndexSearch:
    """Asks the hnswlib index of the result, which finds nearly all of the nearest rows in a few milliseconds."""

    name = "index"

    def __init__(self, index: Any, result: Result, *, ef: int) -> None:  # noqa: ANN401 - hnswlib has no types
        self._index, self._exact = index, ExactSearch(result)
        self._row_count = result.row_count
        # Set once, because queries in other threads would see a change. Where more rows are asked for, hnswlib itself
        # searches with a larger `ef`.
        index.set_ef(ef)

    def nearest(self, query: NDArray[np.float32], count: int) -> Sequence[Neighbour]:
        count = min(count, self._row_count)
        if count < 1:
            return []
        try:
            rows, distances = self._index.knn_query(query[None], k=count, num_threads=1)  # (1, count) each
        except RuntimeError:  # the search meets fewer rows than that
            return self._exact.nearest(query, count)
        return [Neighbour(int(row), 1 - float(far)) for row, far in zip(rows[0], distances[0], strict=True)]


def open_nearest(result: Result, *, exact: bool = False, keep: bool = False) -> NearestRows:
    """Return the index of the result, or exact search: where `exact` is true, and where no index can be used.

    A stale or damaged index is logged. The index of a run in a bucket is used from the cache of this machine. If it is
    not there, it is downloaded if it is small, or if `keep` is true because many queries will follow: one exact query
    reads about as many bytes as the download, and takes no room.
    """
    if exact or not result.row_count or result.summary.index is None:
        return ExactSearch(result)
    try:
        return _open_index(result, keep=keep) or ExactSearch(result)
    except (IndexDamaged, IndexNotUsed, NotCached, ResourceExhausted, StoreUnavailable) as error:
        log.warning("index_not_used", index=result.store.location(INDEX_KEY), because=str(error))
        return ExactSearch(result)


def _open_index(result: Result, *, keep: bool) -> IndexSearch | None:
    """Return the index, None where it is not worth a download. Raises an error that says why it cannot be used."""
    current = find_current_index(result.store, result.summary)
    if not isinstance(current, CurrentIndex):
        raise IndexNotUsed(current)
    if not has_hnswlib():
        raise IndexNotUsed("hnswlib is not installed (the embedder's extra `index`)")
    needed = memory_bytes(result.row_count, result.dimensions, m=current.summary.m, threads=1)
    memory = find_memory()
    if memory is not None and needed > memory.available_bytes:
        raise IndexNotUsed(f"it needs {needed} bytes of memory, and {memory.available_bytes} are free")
    path = _local_path(result, current, keep=keep)
    return None if path is None else IndexSearch(_load(path, result, current), result, ef=current.summary.ef_search)


def _local_path(result: Result, current: CurrentIndex, *, keep: bool) -> Path | None:
    """Return the file of the index on this machine, None where it is not worth a download."""
    store = result.store
    if isinstance(store, FolderStore):
        return store.root / INDEX_KEY
    if keep or current.stat.size <= SMALL_INDEX_BYTES or cached_path(store, current).exists():
        return keep_index(store, current)
    return None


def _load(path: Path, result: Result, current: CurrentIndex) -> Any:  # noqa: ANN401 - hnswlib has no types
    try:
        _check_digest(path, current.summary.sha256)
        return load_index(path, rows=result.row_count, dimensions=result.dimensions)
    except IndexDamaged:
        if not isinstance(result.store, FolderStore):
            remove_cached(path)
        raise


def _check_digest(path: Path, expected: str) -> None:
    # hnswlib follows whatever edges the file has: a flipped bit can end the process.
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IndexDamaged(f"{path} cannot be read: {error.strerror}") from error
    if expected and found != expected:
        raise IndexDamaged(f"{path} has other bytes than were published")
