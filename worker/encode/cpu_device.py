"""The forward pass on a CPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from common.process.thread_name import name_thread
from worker.encode.computation import Computed
from worker.encode.pieces import fill, rows_in, split_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from worker.encode.forward_pass import ForwardPass

ROWS_MULTIPLE = 8
"""Divisor of the number of rows in each part of a batch.

A vector must be the same, to the last bit, whatever the other images of its batch. In float32 it is not if the number
of rows is not a multiple of 4, because the matrix kernels compute the remaining rows differently. So the last part of a
batch is filled up with a few black squares.
"""

LEAST_ROWS = 16
"""Smallest number of rows that are computed together. On Intel processors, MKL has another kernel for smaller matrices:
8 and 12 rows give other bits, 16 and more do not."""


class CpuDevice:
    """Each of `threads` threads computes its own part of a batch.

    torch would divide each operation among the threads instead. A batch has two hundred operations, and in each of them
    all threads would wait for the one that shares its core with a decoder.
    """

    def __init__(self, forward: ForwardPass, *, threads: int) -> None:
        self._forward = forward
        self._thread_count = threads
        # The threads end together with this object.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="compute", initializer=_begin_thread)
        self._workspaces = threading.local()

    def warm_up(self, batch_size: int) -> None:
        """Do nothing: a CPU has no kernels to load."""

    def start(self, pieces: Sequence[Tensor]) -> Callable[[], list[Computed]]:
        rows = _filled_up(-(-rows_in(pieces) // self._thread_count))
        begun = [self._threads.submit(self._compute, part) for part in split_pieces(pieces, rows)]
        return lambda: [part.result() for part in begun]

    @torch.inference_mode()
    def _compute(self, pieces: list[Tensor]) -> Computed:
        rows = rows_in(pieces)
        floats, inputs = self._workspace(_filled_up(rows))
        fill(floats, pieces)
        self._forward.normalise(floats, out=floats)
        if self._forward.dtype is not torch.float32:
            inputs.copy_(floats)
        return Computed(self._forward.vectors(inputs).numpy(), rows)

    def _workspace(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return this thread's memory for pixels in float32 and in the compute dtype, each (rows, size, size, 3).

        They are the same memory if the compute dtype is float32.
        """
        # Each thread keeps these 30 MB. Between two batches the heap would give them to other threads, and new memory
        # costs a page fault for each page.
        kept: tuple[Tensor, Tensor] | None = getattr(self._workspaces, "kept", None)
        if kept is None or len(kept[0]) < rows:
            floats = torch.empty(rows, self._forward.image_size, self._forward.image_size, 3)
            kept = self._workspaces.kept = floats, floats.to(self._forward.dtype)
        floats, inputs = kept
        return floats[:rows], inputs[:rows]


def _filled_up(rows: int) -> int:
    return max(LEAST_ROWS, rows + -rows % ROWS_MULTIPLE)


def _begin_thread() -> None:
    name_thread("compute")
    torch.set_num_threads(1)
