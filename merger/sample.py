"""The rows by which the result is compared with the chunks, and what is kept of them while they pass through here."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from merger.layout import EMBEDDINGS
from merger.plan import CopyPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from merger.layout import Layout, Piece
    from merger.plan import Part

NEAR_BYTES = 8192
"""Rows of the result that lie nearer to each other than this are read by one request."""

STRETCH_BYTES = 1 << 20
"""Of one request at most, unless a single row is longer."""

TEXT_SHARE = 8
"""One of so many random rows is compared in the texts too."""

KEPT_BYTES = 32 << 20
"""Of rows kept in memory; what is beyond is read from its chunk again."""

Stretch = tuple["Piece", ...]
"""Rows of one column that follow each other in the result, by the chunk that each comes from."""


class Sample(NamedTuple):
    """Rows of the result to compare, ascending."""

    vectors: Sequence[int] = ()
    texts: Sequence[int] = ()


def choose_rows(layout: Layout, parts: Iterable[Part], *, random_rows: int, seed: str) -> Sample:
    """Return the first and last row of every chunk, and random ones; of vectors also the ends of every copied part.

    Random rows are the many requests of a small run. They are for what the store copied: texts arrive in uploads
    whose MD5 the store has checked, so that of the random rows one in TEXT_SHARE does for them.
    """
    ends: set[int] = set()
    for start, end in pairwise(layout.starts):
        if end > start:
            ends |= {start, end - 1}
    part_ends: set[int] = set()
    for part in parts:
        if isinstance(part, CopyPart):
            start = layout.starts[part.piece.chunk] + part.piece.first
            part_ends |= {start, start + part.piece.rows - 1}
    # Seeded, so that a fault that was found is found again.
    drawn = random.Random(seed).sample(range(layout.rows), min(random_rows, layout.rows))
    return Sample(sorted(ends | part_ends | set(drawn)), sorted(ends | set(drawn[::TEXT_SHARE])))


def stretches(layout: Layout, sample: Sample) -> Iterator[Stretch]:
    """Yield what to read of the result to see the sample.

    A chunk's last row and the next one's first are neighbours, and so one request.
    """
    for column in layout.columns:
        near = max(1, NEAR_BYTES // column.row_bytes)
        longest = max(1, STRETCH_BYTES // column.row_bytes)
        rows = sample.vectors if column.name == EMBEDDINGS else sample.texts
        for first, last in _ranges(rows, near=near, longest=longest):
            yield tuple(layout.rows_of(column, first, last + 1))


def _ranges(rows: Iterable[int], *, near: int, longest: int) -> Iterator[tuple[int, int]]:
    """Yield first and last of ranges that cover the rows, of `longest` rows at most and with no gap beyond `near`."""
    first = last = -1
    for row in rows:
        if first < 0:
            first = row
        elif row - last > near or row - first >= longest:
            yield first, last
            first = row
        last = row
    if first >= 0:
        yield first, last


class KeptRows:
    """Rows of texts as they passed through this process, where the digest of their column vouches for them.

    Vectors are left out: of most chunks only some pass through here, and no digest speaks for a part.
    """

    def __init__(self, wanted: Iterable[Stretch] = ()) -> None:
        self._wanted: dict[tuple[str, int], list[Piece]] = defaultdict(list)
        self._kept: dict[Piece, NDArray[np.uint8]] = {}
        room = KEPT_BYTES
        for stretch in wanted:
            for piece in stretch:
                if piece.column != EMBEDDINGS and piece.size <= room:
                    room -= piece.size
                    self._wanted[piece.column, piece.chunk].append(piece)

    def take(self, passing: Piece, rows: NDArray[np.uint8]) -> None:
        """Keep what is wanted of consecutive rows, as they lie in their chunk."""
        for piece in self._wanted.get((passing.column, passing.chunk), ()):
            start = piece.first - passing.first
            if 0 <= start <= passing.rows - piece.rows:
                # A copy, or else the whole block would stay.
                self._kept[piece] = rows[start : start + piece.rows].copy()

    def get(self, piece: Piece) -> NDArray[np.uint8] | None:
        """Return the rows of a piece as they lie in its chunk, None where they were not kept."""
        return self._kept.get(piece)
