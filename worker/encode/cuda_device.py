"""The forward pass on an NVIDIA GPU."""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from common.errors import ResourceExhausted
from common.logs import log
from worker.encode.computation import Computed
from worker.encode.device_faults import first_line
from worker.encode.pieces import fill, rows_in, split_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from worker.encode.forward_pass import ForwardPass

WARM_UPS = 2
"""Number of forward passes before one is captured. The first one loads kernels and makes the handles of the libraries,
which must not happen during a capture."""


def pin(pool: Tensor) -> None:
    """Pin the memory of `pool`, for as long as the tensor lives, so that the GPU copies from it by itself.

    The memory is registered where it lies. torch's pinned memory would be a second pool, of up to twice the size, since
    torch rounds sizes up to a power of two.
    """
    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    try:
        torch.cuda.check_error(cudart.cudaHostRegister(pool.data_ptr(), pool.nbytes, 0))
    except RuntimeError as error:
        log.warning("pool_not_pinned", message=f"the copies of squares to the GPU are slower: {error}")
        # CUDA remembers the error until somebody asks. The next launch would, so let it be one that does not matter.
        with suppress(RuntimeError):
            torch.zeros(1, device="cuda")
        return
    weakref.finalize(pool, cudart.cudaHostUnregister, pool.data_ptr()).atexit = False


class CudaDevice:
    """Computes batches in launches that all have the same number of rows.

    The number of rows decides which kernels run, and so the last bits of a vector. With one number for all launches, a
    vector does not depend on its batch: the rows of a smaller batch are filled up with black squares.

    `cuda` is the module torch.cuda, or a double of it.
    """

    def __init__(self, forward: ForwardPass, *, cuda: Any = torch.cuda) -> None:  # noqa: ANN401
        self._forward = forward
        self._cuda = cuda
        # One pair for good: torch keeps a workspace of up to 32 MB for each stream that has multiplied matrices.
        self._streams = _Streams(copying=cuda.Stream(forward.device), computing=cuda.Stream(forward.device))
        self._rows = 0
        self._launcher: _Launcher | None = None

    def warm_up(self, batch_size: int) -> None:
        """Take the memory for batches of this size, load the kernels, and capture the launches of a batch.

        If the memory is too small, half the rows are tried, and so on. Raises ResourceExhausted if it does not hold one
        image.
        """
        rows = batch_size
        while True:
            self._launcher = None
            self._cuda.empty_cache()
            try:
                self._launcher = _Launcher(self._forward, self._streams, rows=rows, cuda=self._cuda)
            except torch.OutOfMemoryError as error:
                rows = _half(rows, error)
            else:
                self._rows = rows
                return

    def start(self, pieces: Sequence[Tensor]) -> Callable[[], list[Computed]]:
        """Begin to compute a batch. Does not wait for the GPU, unless its memory turns out to be too small."""
        begun = self._begin(pieces)
        return lambda: [wait() for wait in begun]

    def _begin(self, pieces: Sequence[Tensor]) -> list[Callable[[], Computed]]:
        if not self._rows:
            self.warm_up(rows_in(pieces))
        if rows_in(pieces) > self._rows:
            return [wait for part in split_pieces(pieces, self._rows) for wait in self._begin(part)]
        try:
            return [self._launch(pieces)]
        except torch.OutOfMemoryError as error:
            rows = _half(self._rows, error)
        self._cuda.synchronize()  # the batches before this one still use the memory that is freed
        self.warm_up(rows)
        return self._begin(pieces)

    def _launch(self, pieces: Sequence[Tensor]) -> Callable[[], Computed]:
        if self._launcher is None:
            raise RuntimeError("the device is not prepared")
        return self._launcher.start(pieces)


class _Streams(NamedTuple):
    copying: Any
    computing: Any


class _Launcher:
    """The memory and the captured work for launches of `rows` rows.

    One stream copies squares to the GPU, the other one computes. While a batch is computed, the squares of the next one
    are copied. The GPU has room for the squares of one batch only: they are not needed any more once they are
    normalised, which is the first thing that is computed.

        copying     squares 1 │             squares 2         │             squares 3
        computing             │ normalise 1 · tower 1 · vectors 1 │ normalise 2 · tower 2 · vectors 2

    All memory is taken here and serves every batch. The order of the streams keeps the batches apart. No object here
    refers to itself, not even through an error, so that the memory is free as soon as the launcher is dropped.
    """

    def __init__(self, forward: ForwardPass, streams: _Streams, *, rows: int, cuda: Any) -> None:  # noqa: ANN401
        self._forward = forward
        self._cuda = cuda
        self._copying, self._computing = streams
        device = forward.device
        self._copied, self._normalised = cuda.Event(), cuda.Event()
        # The tower's weights come from this thread's stream.
        self._computing.wait_stream(cuda.current_stream(device))
        shape = (rows, forward.image_size, forward.image_size, 3)
        with cuda.stream(self._computing), torch.inference_mode():
            self._squares = torch.zeros(shape, dtype=torch.uint8, device=device)
            self._inputs = torch.empty(shape, dtype=forward.dtype, device=device)
            forward.normalise(self._squares, out=self._inputs)
            self._normalised.record(self._computing)
            for _ in range(WARM_UPS):
                forward.vectors(self._inputs)
            self._compute = self._captured()

    def _captured(self) -> Callable[[], Tensor]:
        """Return a function that launches the tower, and returns the vectors to come: (rows, dimensions) on the GPU.

        The two hundred launches of the tower are captured, and later sent to the GPU as one. Launched one by one, each
        of them would have to wait for the interpreter's lock if another thread is busy.
        """
        # The allocator keeps asking a graph whose capture failed whether it is still being captured. So it has to live.
        self._graph = graph = self._cuda.CUDAGraph()
        try:
            # Other threads may use CUDA meanwhile, so only this thread's calls are checked.
            with self._cuda.graph(graph, stream=self._computing, capture_error_mode="thread_local"):
                vectors = self._forward.vectors(self._inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # The end of a capture that went wrong raises an error of its own, and the cause is that error's context.
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None
            reason = first_line(error.__context__ or error)
            log.info("no_cuda_graph", message=f"each batch is launched kernel by kernel: {reason}")
            return partial(self._forward.vectors, self._inputs)
        return partial(_replayed, graph, vectors)

    @torch.inference_mode()
    def start(self, pieces: Sequence[Tensor]) -> Callable[[], Computed]:
        """Begin to compute pieces of at most `rows` squares. Return a function that waits for the vectors."""
        with self._cuda.stream(self._copying):
            self._copying.wait_event(self._normalised)
            fill(self._squares, pieces)
            self._copied.record(self._copying)
        with self._cuda.stream(self._computing):
            self._computing.wait_event(self._copied)
            self._forward.normalise(self._squares, out=self._inputs)
            self._normalised.record(self._computing)
            vectors = self._compute()
            # New host memory for each launch, which torch reuses once nobody holds it: results stay as they are.
            result = torch.empty(vectors.shape, pin_memory=vectors.is_cuda)
            result.copy_(vectors, non_blocking=True)
            done = self._cuda.Event(blocking=True)  # the thread sleeps; by default it would keep a core busy
            done.record(self._computing)
        rows = rows_in(pieces)

        def wait() -> Computed:
            done.synchronize()
            return Computed(result.numpy(), rows)

        return wait


def _replayed(graph: Any, vectors: Tensor) -> Tensor:  # noqa: ANN401
    graph.replay()
    return vectors


def _half(rows: int, error: torch.OutOfMemoryError) -> int:
    if rows == 1:
        raise ResourceExhausted("the device's memory does not hold one image") from error
    log.warning("out_of_device_memory", rows=rows, now_at_most=rows // 2)
    return rows // 2
