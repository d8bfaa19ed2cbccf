"""A pool of squares that a test fills as decoders do: through a mapping of its own."""

from __future__ import annotations

import asyncio
import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

from worker.encode.batches import Batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor


class Pool:
    """Batches over a new file in memory, and the slots of that file as a decoder sees them."""

    def __init__(self, *, batch_size: int, image_size: int = 2, pin: Callable[[Tensor], object] | None = None) -> None:
        descriptor = os.memfd_create("squares")
        self.batches = Batches(batch_size=batch_size, image_size=image_size, descriptor=descriptor, pin=pin)
        shape = (self.batches.slot_count, image_size, image_size, 3)
        self.slots: NDArray[np.uint8] = np.frombuffer(mmap.mmap(descriptor, 0), dtype=np.uint8).reshape(shape)
        os.close(descriptor)
        self._freed = asyncio.Event()
        self.batches.on_free = self._freed.set

    async def take(self) -> int:
        """Wait for a free slot and take it."""
        while (slot := self.batches.take_slot()) is None:
            self._freed.clear()
            await self._freed.wait()
        return slot

    async def put(self, position: int, square: NDArray[np.uint8], *, seconds: float = 0) -> None:
        """Wait for a free slot, and put the square of the row at `position` there, which takes a decoder `seconds`."""
        slot = await self.take()
        await asyncio.sleep(seconds)
        self.slots[slot] = square
        self.batches.put(position, slot)
