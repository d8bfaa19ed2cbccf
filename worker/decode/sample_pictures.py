"""Small pictures of a few of a chunk's images, for the report of the run.

They are made from the squares that the model gets, so nothing is fetched or decoded for them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from common.format.chunk_times import MAX_PICTURE_BYTES, MOST_PICTURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

PICTURES_OF_RUN = 24
"""Number of pictures that a run has at least, where it has so many images: runs of few chunks have several of each."""

SIDE = 112
"""Length of a picture's sides in pixels. A smaller square is not enlarged."""

QUALITIES = (75, 60, 45, 30, 15)
"""Qualities of the JPEG, tried until the picture is small enough. A photo of 112 pixels has 3 to 5 KB at 75."""


def picture_count(chunk_count: int) -> int:
    """Return how many pictures a chunk has in a run of so many chunks."""
    return min(MOST_PICTURES, -(-PICTURES_OF_RUN // chunk_count))


class SamplePictures:
    """Keeps the squares of `count` of a chunk's `rows`: of each of so many equal parts, the first row that it gets.

    The first row is that with the lowest position, so it does not depend on the order in which images arrive.
    """

    def __init__(self, rows: int, count: int) -> None:
        self._rows, self._count = rows, count
        self._kept: dict[int, tuple[int, NDArray[np.uint8]]] = {}
        """Position and square by the number of the part."""

    def wanted(self, positions: Sequence[int]) -> list[int]:
        """Return those of the positions whose squares `keep` would keep."""
        first: dict[int, int] = {}
        # A large run has one part, and thousands of batches.
        for position in positions if self._count > 1 else [min(positions)]:
            part = self._part(position)
            if position < min(first.get(part, self._rows), self._kept[part][0] if part in self._kept else self._rows):
                first[part] = position
        return list(first.values())

    def keep(self, position: int, square: NDArray[np.uint8]) -> None:
        """Keep a copy of the square, uint8 (size, size, 3), of the row at `position`."""
        self._kept[self._part(position)] = position, square.copy()

    def jpegs(self) -> dict[int, bytes]:
        """Return the pictures as JPEG, by the rows' positions."""
        jpegs = {position: small_jpeg(square) for position, square in self._kept.values()}
        return {position: jpeg for position, jpeg in jpegs.items() if len(jpeg) <= MAX_PICTURE_BYTES}

    def _part(self, position: int) -> int:
        return position * self._count // self._rows


def small_jpeg(square: NDArray[np.uint8]) -> bytes:
    """Return a JPEG of the square, uint8 (size, size, 3), at most SIDE x SIDE pixels large."""
    side = min(SIDE, len(square))
    picture = Image.fromarray(square).resize((side, side), Image.Resampling.BOX)
    data = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        data = file.getvalue()
        if len(data) <= MAX_PICTURE_BYTES:
            break
    return data
