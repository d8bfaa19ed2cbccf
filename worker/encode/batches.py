"""Batches of squares between the decoders and the encoder, in a pool of slots that they share."""

from __future__ import annotations

import asyncio
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from queue import SimpleQueue
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

BUFFERS = 4
"""Size of the pool in batches: one is being encoded, one waits for its vectors, one is ready, one is being filled."""


@dataclass(frozen=True)
class Batch:
    """Squares for one forward pass, in the order of their slots."""

    positions: list[int]
    """The position of each square's row in the chunk."""
    slots: list[int]
    pieces: list[Tensor]
    """The squares: views of the pool, uint8 (rows, size, size, 3), one for each run of neighbouring slots."""

    def square_of(self, position: int) -> NDArray[np.uint8]:
        """Return the square of a row, uint8 (size, size, 3): a view that is valid until the batch is given back."""
        number = self.positions.index(position)
        for piece in self.pieces:
            if number < len(piece):
                return piece[number].numpy()
            number -= len(piece)
        raise IndexError(f"a batch of {len(self.positions)} rows has too few squares")


class Batches:
    """A pool of slots for squares, and the queue of batches that are made of its full slots.

    A decoder, which is another process, writes a square into a slot. The event loop takes the slot before that and puts
    it into a batch afterwards. The encoder's thread gets whole batches and gives them back. No square is copied.

    Squares are batched in the order in which they arrive, so that no batch waits for a slow image. While no slot is
    free, nothing can be decoded. In this way a slow encoder slows down the decoders, and they slow down the fetching.

    `descriptor` is an empty file in memory (memfd). It becomes the pool: slot i begins at byte i x size x size x 3.
    `spare_slots` is the number of slots that decoders may hold before they use them, beyond the slots of the batches.
    `pin` is given the whole pool, to make it memory from which a GPU can copy by itself.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        image_size: int,
        descriptor: int,
        spare_slots: int = 0,
        pin: Callable[[Tensor], object] | None = None,
    ) -> None:
        self.image_size = image_size
        self.descriptor = descriptor
        self.slot_count = BUFFERS * batch_size + spare_slots
        self.on_free: Callable[[], object] = _nothing
        """Called in the event loop after slots became free."""
        self.batch_size = batch_size
        size = self.slot_count * image_size * image_size * 3
        os.ftruncate(descriptor, size)
        pool = torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
        self._pool = pool.view(self.slot_count, image_size, image_size, 3)
        if pin is not None:
            pin(self._pool)
        self._free = _FreeSlots(self.slot_count, run=batch_size)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._full: list[tuple[int, int]] = []
        """Slot and position of each square that waits for its batch to be whole."""
        self._ready: SimpleQueue[Batch | None] = SimpleQueue()

    # For the event loop. None of these waits.

    def take_slot(self) -> int | None:
        """Return a free slot for a square to come, or None when no slot is free."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._free.take()

    def put(self, position: int, slot: int) -> None:
        """Add the square that lies in `slot`, of the row at `position`."""
        self._full.append((slot, position))
        if len(self._full) == self.batch_size:
            self._finish_batch()

    def return_slot(self, slot: int) -> None:
        """Make a slot free again that was taken and holds no square."""
        self._free.add([slot])
        asyncio.get_running_loop().call_soon(self._tell_free)

    def close(self) -> None:
        """End the queue after the squares that were put. The last batch may be smaller than the others."""
        if self._full:
            self._finish_batch()
        self.abandon()

    # For any thread

    def abandon(self) -> None:
        """End the queue. Squares that do not fill a whole batch are lost."""
        self._ready.put(None)

    # For the encoder's thread

    @property
    def is_ready(self) -> bool:
        """Tell whether `get` would return at once."""
        return not self._ready.empty()

    def get(self) -> Batch | None:
        """Wait for the next batch and return it, or None when the queue has ended."""
        return self._ready.get()

    def give_back(self, batch: Batch) -> None:
        """Let the batch's slots be filled again."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, so nothing follows
                self._loop.call_soon_threadsafe(self._add_free, batch.slots)

    def _finish_batch(self) -> None:
        # In the order of the slots, neighbours form runs, and each run is one copy to the device.
        slots, positions = ([*column] for column in zip(*sorted(self._full), strict=True))
        self._full = []
        self._ready.put(Batch(positions, slots, [self._pool[run.start : run.stop] for run in _runs(slots)]))

    def _add_free(self, slots: Sequence[int]) -> None:
        self._free.add(slots)
        self._tell_free()

    def _tell_free(self) -> None:
        self.on_free()


class _FreeSlots:
    """The free slots. They are taken in long runs, so that a batch consists of few runs.

    The pool is divided into regions of `run` slots. Slots of one region are taken until it has none left, and then
    those of the region with the most free slots. A slot stays in its region, so batches do not break up over time. In a
    simulation of 17 decoders and batches of 256, a batch has 7 runs. If slots are taken in the order in which they
    became free, it has 27.
    """

    def __init__(self, count: int, *, run: int) -> None:
        self._run = run
        self._regions = [list(range(start, min(start + run, count))) for start in range(0, count, run)]  # each a heap
        self._current = self._regions[0]

    def take(self) -> int | None:
        if not self._current:
            self._current = max(self._regions, key=len)
        return heappop(self._current) if self._current else None

    def add(self, slots: Sequence[int]) -> None:
        for slot in slots:
            heappush(self._regions[slot // self._run], slot)


def _runs(slots: Sequence[int]) -> list[range]:
    """Return the runs of neighbours in ascending `slots`."""
    runs: list[range] = []
    for slot in slots:
        if runs and runs[-1].stop == slot:
            runs[-1] = range(runs[-1].start, slot + 1)
        else:
            runs.append(range(slot, slot + 1))
    return runs


def _nothing() -> None:
    pass
