"""Batches of squares on their way from the decoders to the encoder, in a fixed number of buffers."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

BUFFERS = 4
"""One being encoded, one whose vectors are waited for, one ready, one being filled."""


class Batch:
    """Squares in the order they were put, and which rows of the chunk they are."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self.positions: list[int] = []
        self._copied = 0

    @property
    def pixels(self) -> Tensor:
        """Return the squares, uint8 (rows, size, size, 3)."""
        return self.buffer[: len(self.positions)]

    @property
    def is_taken(self) -> bool:
        return len(self.positions) == len(self.buffer)

    @property
    def is_whole(self) -> bool:
        return self._copied == len(self.positions)

    def count_copied(self) -> None:
        self._copied += 1


class Batches:
    """A bounded queue: decoders put squares from many threads, the encoder gets whole batches.

    Squares are batched as they come, so nobody waits for a slow image. `put` blocks while all buffers are in use,
    which is how a slow encoder holds up the decoders, and through them the fetching.
    """

    def __init__(self, *, batch_size: int, image_size: int, pinned: bool) -> None:
        self.image_size = image_size
        self._changed = threading.Condition()
        self._free = deque(
            torch.empty(batch_size, image_size, image_size, 3, dtype=torch.uint8, pin_memory=pinned)
            for _ in range(BUFFERS)
        )
        self._filling: Batch | None = None
        self._ready: deque[Batch] = deque()
        self._is_closed = False

    def put(self, position: int, square: NDArray[np.uint8]) -> None:
        """Add the square, uint8 (size, size, 3), of a row; waits while there is no room. Nothing comes of it once
        the queue is closed, which then was because of an error.
        """
        with self._changed:
            while self._filling is None:
                if self._is_closed:
                    return
                if self._free:
                    self._filling = Batch(self._free.popleft())
                else:
                    self._changed.wait()
            batch = self._filling
            place = len(batch.positions)
            batch.positions.append(position)
            if batch.is_taken:
                self._filling = None
                self._changed.notify_all()
        # By NumPy, since torch would wake a team of threads for each copy.
        np.copyto(batch.buffer[place].numpy(), square)
        with self._changed:
            batch.count_copied()
            if batch.is_taken and batch.is_whole:
                self._ready.append(batch)
                self._changed.notify_all()

    def close(self) -> None:
        """Say that every `put` has returned and none will follow; the last batch may be smaller than the others."""
        with self._changed:
            self._is_closed = True
            if self._filling is not None and self._filling.positions:
                self._ready.append(self._filling)
            self._filling = None
            self._changed.notify_all()

    def get(self) -> Batch | None:
        """Return the next batch, waiting for it; None when there will be none."""
        with self._changed:
            while not self._ready:
                if self._is_closed:
                    return None
                self._changed.wait()
            return self._ready.popleft()

    def give_back(self, batch: Batch) -> None:
        """Let the batch's buffer be filled again."""
        with self._changed:
            self._free.append(batch.buffer)
            self._changed.notify_all()
