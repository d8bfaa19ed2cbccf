"""How many of the nearest rows an index finds: sampled rows, their neighbours by exact search, and the comparison."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.process.forked import ForkedCallFailed, call_in_child
from results.hnsw import UNSET_EF, IndexDamaged, load_index

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NEIGHBOURS = 10
"""Number of the nearest rows that are compared."""

EF_SEARCHES = (50, 100, 200, 400, 800)
"""The values of `ef` that are tried, from the quickest search to the most careful one."""

GOOD_RECALL = 0.98
"""The recall from which on a larger `ef` is not worth its time: a search takes about as long as `ef` is large."""

EQUAL_SCORES = 2e-6
"""The largest difference of two scores that are the same but for rounding. Equal images have equal vectors: an index
that finds one of them is as right as exact search that finds the other one."""


class Recall(NamedTuple):
    ef_search: int
    """The smallest value of `ef` with the wanted recall, or the largest one that was tried."""
    at_10: float
    unset_ef_at_10: float
    """The recall of a backend that loads the index and sets no `ef`."""


def sample_rows(row_count: int, *, queries: int, seed: str) -> Sequence[int]:
    """Return the rows whose neighbours are compared, in their order. The same seed gives the same rows."""
    return sorted(random.Random(seed).sample(range(row_count), min(queries, row_count)))


class ExactNeighbours:
    """The scores of the nearest rows of each sampled row, in one pass over the vectors. No row is its own neighbour."""

    def __init__(self, rows: Sequence[int], vectors: NDArray[np.float32], *, row_count: int) -> None:
        self.rows = np.asarray(rows, np.int64)  # (Q,)
        self.vectors = vectors  # (Q, D)
        self.count = min(NEIGHBOURS, row_count - 1)
        self._best = np.full((len(rows), self.count), -np.inf, np.float32)  # (Q, count)

    def add(self, first: int, vectors: NDArray[np.float32]) -> None:
        """Compare the sampled rows with a block (B, D) of vectors, whose first row is `first`."""
        if not self.count:
            return
        scores = self.vectors @ vectors.T  # (Q, B)
        own = self.rows - first
        here = (own >= 0) & (own < len(vectors))
        scores[np.flatnonzero(here), own[here]] = -np.inf
        candidates = np.concatenate([self._best, scores], axis=1)
        self._best = np.partition(candidates, -self.count, axis=1)[:, -self.count :]

    def last_scores(self) -> NDArray[np.float32]:
        """Return the score of the last of the nearest rows, for each sampled row: (Q,)."""
        last: NDArray[np.float32] = self._best.min(axis=1, initial=np.inf)
        return last


def measure_recall(
    path: Path, exact: ExactNeighbours, *, row_count: int, threads: int, wanted: float = GOOD_RECALL
) -> Recall:
    """Load the file as a search backend does, and return its recall with the smallest `ef` that gives the wanted one.

    Raises IndexDamaged when the file cannot be loaded.
    """

    def measure() -> bytes:
        index = load_index(path, rows=row_count, dimensions=exact.vectors.shape[1])
        index.set_num_threads(threads)
        unset = best = _recall(index, exact)
        ef = UNSET_EF
        for ef in EF_SEARCHES:
            index.set_ef(ef)
            best = _recall(index, exact)
            if best >= wanted:
                break
        return json.dumps(Recall(ef, best, unset)).encode()

    try:
        return Recall(*json.loads(call_in_child(measure, name="verifying the index")))
    except ForkedCallFailed as error:
        raise IndexDamaged(f"{path} cannot be searched: {error}") from error


def _recall(index: Any, exact: ExactNeighbours) -> float:  # noqa: ANN401 - hnswlib has no types
    if not exact.count:
        return 1.0
    # One more than compared: a row finds itself.
    try:
        labels, distances = index.knn_query(exact.vectors, k=exact.count + 1)  # (Q, count + 1)
    except RuntimeError:  # with this `ef`, a search meets fewer vectors than it must return
        return 0.0
    is_other = labels.astype(np.int64) != exact.rows[:, None]
    is_near = 1 - distances >= exact.last_scores()[:, None] - EQUAL_SCORES
    found = np.minimum((is_other & is_near).sum(axis=1), exact.count)
    return float(found.sum()) / (exact.count * len(exact.rows))
