"""Images so large that two of them may not fit in memory are decoded one after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.rows import LargeImage

if TYPE_CHECKING:
    from worker.decoders.job import Job


class LargeImages:
    """For one event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def slot_of(self, image: Job) -> int:
        """Return the slot of the image's square. No other large image is decoded at the same time as a large one.

        Raises what `Job.slot` raises, but not LargeImage.
        """
        try:
            return await image.slot()
        except LargeImage:
            async with self._turn:
                return await image.slot_of_large()
