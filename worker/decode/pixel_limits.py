"""How many pixels an image may have, checked in its header before anything is decoded."""

from __future__ import annotations

from typing import NamedTuple

from common.format.reasons import Reason
from worker.rows import ImageFailed, LargeImage


class PixelLimits(NamedTuple):
    """The limits of one call, in pixels."""

    for_any_image: int
    for_this_call: int
    """The limit above which an image counts as large if the call does not allow large images, else `for_any_image`."""

    def check(self, *, height: int, width: int) -> None:
        """Raise ImageFailed for an image that is too large for any call, LargeImage for one too large for this call."""
        if height * width > self.for_any_image:
            raise ImageFailed(Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels, the limit is {self.for_any_image}")
        if height * width > self.for_this_call:
            raise LargeImage
