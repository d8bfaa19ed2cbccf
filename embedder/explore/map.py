"""The map of a result: a sample of its vectors in a plane, laid out in the background."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from common.errors import EmbedderError
from common.parallel import begin
from common.process.resources import exhausted
from embedder.explore.layout import STEPS, TINY, nearest_of, neighbour_layout, place_beside, principal_components

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from results.result import Result

SAMPLED_ROWS = 5_000
"""Number of rows on the map: what a canvas draws and a mouse can tell apart."""

LAID_OUT_ROWS = 2_000
"""Number of rows whose places are searched for; the others are placed beside them. The time grows with its square."""

_RUN_ROWS = 5
"""Number of neighbouring rows that one read takes from a result with more rows than the map."""

_FEWEST_LAID_OUT = 8
"""With fewer rows there are no neighbourhoods, and the principal components are the map."""


@dataclass(frozen=True)
class MapState:
    """The map as far as it is."""

    state: str
    """`reading`, `laying_out`, `done` or `failed`."""
    step: int = 0
    steps: int = STEPS
    message: str = ""
    """Why it failed."""
    version: int = 0
    """Grows whenever the positions change; 0 while there are none."""
    rows: list[int] = field(default_factory=list)
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    """Positions from -1 to 1."""


class EmbeddingMap:
    """Begins when it is first asked for, and is made once. Its methods may be called from any thread."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._lock = threading.Lock()
        self._has_begun = False
        self._state = MapState("reading")

    def state(self) -> MapState:
        with self._lock:
            has_begun, self._has_begun = self._has_begun, True
        if not has_begun:
            begin("map", self._make)
        return self._state

    def _make(self) -> None:
        try:
            self._lay_out()
        except Exception as error:
            ours = error if isinstance(error, EmbedderError) else exhausted(error)
            self._state = MapState("failed", message=str(ours or f"a bug in the embedder: {error!r}"))
            if ours is None:
                raise

    def _lay_out(self) -> None:
        rows = sampled_rows(self._result.row_count)
        vectors = self._result.picked_vectors(rows)
        if not len(rows):
            self._state = MapState("done", version=1)
            return
        plane = principal_components(vectors)
        order = np.random.default_rng(0).permutation(len(rows))
        rows, vectors, plane = rows[order], vectors[order], plane[order]
        if len(rows) < _FEWEST_LAID_OUT:
            self._state = _state("done", STEPS, 1, rows, plane)
            return
        self._state = _state("laying_out", 0, 1, rows, plane)
        core, further = vectors[:LAID_OUT_ROWS], vectors[LAID_OUT_ROWS:]
        beside = nearest_of(further, core)
        for step, positions in neighbour_layout(core, plane[:LAID_OUT_ROWS]):
            every = np.concatenate([positions, place_beside(beside, positions)])
            stage = "done" if step == STEPS else "laying_out"
            self._state = _state(stage, step, self._state.version + 1, rows, every)


def sampled_rows(row_count: int) -> NDArray[np.int64]:
    """Return the rows of the map: all of them, or short runs at random places all over the result."""
    if row_count <= SAMPLED_ROWS:
        return np.arange(row_count)
    runs = SAMPLED_ROWS // _RUN_ROWS
    bounds = np.linspace(0, row_count, runs + 1).astype(np.int64)
    free = np.maximum(np.diff(bounds) - _RUN_ROWS, 0)
    starts = bounds[:-1] + np.random.default_rng(0).integers(0, free + 1)
    return np.unique(np.minimum(starts[:, None] + np.arange(_RUN_ROWS), row_count - 1))


def _state(state: str, step: int, version: int, rows: NDArray[np.int64], plane: NDArray[np.float32]) -> MapState:
    centred = plane - (plane.max(axis=0) + plane.min(axis=0)) / 2
    scaled = centred / np.float32(max(float(np.abs(centred).max()), TINY))
    return MapState(state, step, STEPS, "", version, rows.tolist(), _rounded(scaled[:, 0]), _rounded(scaled[:, 1]))


def _rounded(values: NDArray[np.float32]) -> list[float]:
    found: Sequence[float] = np.round(values.astype(np.float64), 4).tolist()
    return list(found)
