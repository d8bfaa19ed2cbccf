"""An export as an index of USearch: a graph that finds nearly all nearest rows. Its keys are row numbers."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from usearch.index import Index

from common.process.limits import count_cores
from results.export.encoding import LARGEST_INT8, float16_tolerance
from results.export.form import ReadRows
from results.export.number_type import NumberType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from results.export.form import Block, Plan

SCALARS = {NumberType.FLOAT32: "f32", NumberType.FLOAT16: "f16", NumberType.INT8: "i8"}
"""What USearch calls these types. Its i8 numbers are the unit vector's components times 127."""

GRAPH_BYTES = 320
"""Memory that a row takes beside its vector, in bytes: 148 of the graph, and the tables of keys and of rows with their
room to grow."""

ROWS_AT_A_TIME = 2048
"""Number of rows that are added in one call, about a second of work: a signal waits for its end."""


class UsearchForm:
    """See `form.Form`."""

    file_name = "index.usearch"
    has_texts = False

    def memory_bytes(self, plan: Plan) -> int:
        return plan.vectors_bytes + plan.rows * GRAPH_BYTES

    def write(self, folder: Path, plan: Plan, blocks: Iterable[Block]) -> None:
        index = Index(ndim=plan.dimensions, metric="cos", dtype=SCALARS[plan.number_type])
        cores = count_cores()
        for block in blocks:
            for start in range(0, len(block.vectors), ROWS_AT_A_TIME):
                vectors = block.vectors[start : start + ROWS_AT_A_TIME]
                first = block.first + start
                index.add(np.arange(first, first + len(vectors), dtype=np.uint64), vectors, threads=cores)
        path = folder / self.file_name
        with suppress(RuntimeError):
            index.save(str(path))
        # USearch says nothing of a write that fails, or not why, and a full disk is the usual reason.
        if path.stat().st_size != index.serialized_length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open(self, folder: Path, plan: Plan) -> UsearchReading:
        return UsearchReading(folder / self.file_name, plan)


class UsearchReading:
    """See `form.Reading`."""

    least_found = 0.5

    def __init__(self, path: Path, plan: Plan) -> None:
        self._type = plan.number_type
        index: Any = Index.restore(str(path), view=True)  # mapped, not loaded
        if index is None or index.ndim != plan.dimensions:
            raise ValueError("it is not an index with these dimensions")
        self._index = index
        self.row_count = len(index)

    def rows(self, start: int, stop: int) -> ReadRows:
        vectors = self._index.get(np.arange(start, stop, dtype=np.uint64), np.float32)
        return ReadRows(np.asarray(vectors, np.float32).reshape(stop - start, -1), None, None)

    def tolerance(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        match self._type:
            case NumberType.FLOAT32:
                return np.zeros_like(vectors)
            case NumberType.FLOAT16:
                return float16_tolerance(vectors)
            case NumberType.INT8:  # a number is cut to a whole one
                return np.full_like(vectors, 1.001 / LARGEST_INT8)

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(self._index.search(vectors, 1).keys).reshape(len(vectors)).astype(np.int64)
