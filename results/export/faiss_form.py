"""An export as an index of FAISS that compares a query with every vector, by inner product.

The vectors have the L2 norm 1, so the inner product is the cosine similarity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from results.export.encoding import float16_tolerance
from results.export.form import ReadRows
from results.export.number_type import NumberType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from results.export.form import Block, Plan


class FaissForm:
    """See `form.Form`."""

    file_name = "index.faiss"
    has_texts = False

    def memory_bytes(self, plan: Plan) -> int:
        return plan.vectors_bytes

    def write(self, folder: Path, plan: Plan, blocks: Iterable[Block]) -> None:
        index = _new_index(plan)
        # One allocation of the whole size: a vector that grows would be held twice while it moves.
        index.codes.resize(plan.rows * index.code_size)
        index.codes.resize(0)
        for block in blocks:
            index.add(block.vectors)
        faiss.write_index(index, str(folder / self.file_name))

    def open(self, folder: Path, plan: Plan) -> FaissReading:
        return FaissReading(folder / self.file_name, plan)


def _new_index(plan: Plan) -> Any:  # noqa: ANN401 - faiss has no types
    dimensions, product = plan.dimensions, faiss.METRIC_INNER_PRODUCT
    match plan.number_type:
        case NumberType.FLOAT32:
            return faiss.IndexFlatIP(dimensions)
        case NumberType.FLOAT16:
            return faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16, product)
        case NumberType.INT8:
            index = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_8bit, product)
            # The training looks for the range of each dimension, and these two rows have it.
            index.train(np.stack(plan.bounds))
            return index


class FaissReading:
    """See `form.Reading`."""

    least_found = 1.0

    def __init__(self, path: Path, plan: Plan) -> None:
        self._type, self._bounds = plan.number_type, plan.bounds
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)  # mapped, not loaded
        self.row_count: int = self._index.ntotal
        if self._index.d != plan.dimensions or self._index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"it has {self._index.d} dimensions and the metric {self._index.metric_type}")

    def rows(self, start: int, stop: int) -> ReadRows:
        return ReadRows(self._index.reconstruct_n(start, stop - start), None, None)

    def tolerance(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        match self._type:
            case NumberType.FLOAT32:
                return np.zeros_like(vectors)
            case NumberType.FLOAT16:
                return float16_tolerance(vectors)
            case NumberType.INT8:  # 255 steps of each dimension's range, each number in the middle of its step
                step = (self._bounds.high - self._bounds.low) / np.float32(255)
                return np.broadcast_to(step, vectors.shape) * np.float32(0.51) + np.float32(1e-7)

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self._index.search(vectors, 1)[1][:, 0]
        return rows
