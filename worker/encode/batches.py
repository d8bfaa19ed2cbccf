"""Batches of squares between the decoders and the encoder, in a fixed number of buffers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

BUFFERS = 4
"""Number of buffers: one is being encoded, one waits for its vectors, one is ready, one is being filled."""


class Batch:
    """Squares in the order in which they were added, and the position of each square's row in the chunk."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self.positions: list[int] = []
        # NumPy copies the squares, because torch would wake a team of threads for each copy.
        self._squares = buffer.numpy()  # uint8 (batch size, size, size, 3)

    @property
    def pixels(self) -> Tensor:
        """Return the squares, uint8 (rows, size, size, 3)."""
        return self.buffer[: len(self.positions)]

    @property
    def is_full(self) -> bool:
        return len(self.positions) == len(self._squares)

    def add(self, position: int, square: NDArray[np.uint8]) -> None:
        np.copyto(self._squares[len(self.positions)], square)
        self.positions.append(position)


class Batches:
    """A bounded queue: an event loop puts squares, and the encoder's thread gets whole batches.

    Squares are batched in the order in which they arrive, so that no batch waits for a slow image. `put` waits while
    all buffers are in use. In this way a slow encoder slows down the decoders, and they slow down the fetching.
    """

    def __init__(self, *, batch_size: int, image_size: int, pinned: bool) -> None:
        self.image_size = image_size
        self._free: asyncio.Queue[Tensor] = asyncio.Queue()
        for _ in range(BUFFERS):
            buffer = torch.empty(batch_size, image_size, image_size, 3, dtype=torch.uint8, pin_memory=pinned)
            self._free.put_nowait(buffer)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filling: Batch | None = None
        self._next = asyncio.Lock()
        self._ready: SimpleQueue[Batch | None] = SimpleQueue()

    async def put(self, position: int, square: NDArray[np.uint8]) -> None:
        """Add the square, uint8 (size, size, 3), of the row at `position`. Waits while there is no free buffer.

        Always call it from the same event loop.
        """
        async with self._next:
            if self._filling is None:
                self._loop = asyncio.get_running_loop()
                self._filling = Batch(await self._free.get())
            batch = self._filling
            batch.add(position, square)
            if batch.is_full:
                self._filling = None
                self._ready.put(batch)

    def close(self) -> None:
        """End the queue after the squares that were put. The last batch may be smaller than the others."""
        if self._filling is not None:
            self._ready.put(self._filling)
        self.abandon()

    def abandon(self) -> None:
        """End the queue, from any thread. Squares that do not fill a whole batch are lost."""
        self._ready.put(None)

    @property
    def is_ready(self) -> bool:
        """Tell the thread that calls `get` whether it would return at once."""
        return not self._ready.empty()

    def get(self) -> Batch | None:
        """Wait for the next batch and return it, or None when the queue has ended."""
        return self._ready.get()

    def give_back(self, batch: Batch) -> None:
        """Let the batch's buffer be filled again. Call it from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, so nothing follows
                self._loop.call_soon_threadsafe(self._free.put_nowait, batch.buffer)
