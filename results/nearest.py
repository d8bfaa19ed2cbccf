"""The rows of a result that are nearest to a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from results.result import Result


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
        for first, vectors in self._result.vector_blocks():
            block = vectors @ query  # (rows of the block,)
            best = np.argpartition(-block, min(count, len(block)) - 1)[:count] if len(block) else np.empty(0, np.int64)
            rows, scores = np.concatenate([rows, first + best]), np.concatenate([scores, block[best]])
            kept = np.lexsort((rows, -scores))[:count]
            rows, scores = rows[kept], scores[kept]
        return [Neighbour(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]
