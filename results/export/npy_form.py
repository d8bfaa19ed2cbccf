"""An export as one array of NumPy, which `numpy.load(path, mmap_mode="r")` maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from results.export.form import ReadRows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from results.export.form import Block, Plan


class NpyForm:
    """See `form.Form`."""

    file_name = "embeddings.npy"
    has_texts = False

    def memory_bytes(self, plan: Plan) -> int:  # noqa: ARG002 - written row by row
        return 0

    def write(self, folder: Path, plan: Plan, blocks: Iterable[Block]) -> None:
        encoding = plan.encoding
        description = np.lib.format.dtype_to_descr(np.dtype(plan.number_type.value))
        header = {"descr": description, "fortran_order": False, "shape": (plan.rows, plan.dimensions)}
        with (folder / self.file_name).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(np.ascontiguousarray(encoding.encode(block.vectors)).data)

    def open(self, folder: Path, plan: Plan) -> NpyReading:
        return NpyReading(folder / self.file_name, plan)


class NpyReading:
    """See `form.Reading`."""

    least_found = 0.0

    def __init__(self, path: Path, plan: Plan) -> None:
        self._encoding = plan.encoding
        self._array = np.load(path, mmap_mode="r")
        self.row_count = len(self._array)

    def rows(self, start: int, stop: int) -> ReadRows:
        return ReadRows(self._encoding.decode(self._array[start:stop]), None, None)

    def tolerance(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._encoding.tolerance(vectors)

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        raise NotImplementedError("an array has no search")
