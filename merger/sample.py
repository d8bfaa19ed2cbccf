"""The rows that a verification compares. Some of them are kept in memory when they pass through this process."""

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
"""Largest distance, in bytes, between two rows of the result that one request reads together."""

STRETCH_BYTES = 1 << 20
"""Largest request in bytes, unless a single row is longer."""

TEXT_SHARE = 8
"""Number of random vectors for each random row of texts."""

KEPT_BYTES = 32 << 20
"""Largest number of bytes of rows that are kept in memory. Other rows are read from their chunk again."""

Stretch = tuple["Piece", ...]
"""Consecutive rows of one column of the result: one piece for each chunk that they come from."""


class Sample(NamedTuple):
    """The rows to compare, as row numbers of the result, ascending."""

    vectors: Sequence[int] = ()
    texts: Sequence[int] = ()


def choose_rows(layout: Layout, parts: Iterable[Part], *, random_rows: int, seed: str) -> Sample:
    """Return the first and last row of each chunk and random rows; also the ends of each copied part.

    In a small run most requests are for random rows. They are there to find wrong copies by the store. Texts are
    uploaded, and the store has checked the MD5 of each upload, so fewer random rows are enough for them: one in
    TEXT_SHARE.
    """
    ends: set[int] = set()
    for start, end in pairwise(layout.starts):
        if end > start:
            ends |= {start, end - 1}
    part_ends: set[int] = set()
    text_ends: set[int] = set()
    for part in parts:
        if isinstance(part, CopyPart):
            start = layout.starts[part.piece.chunk] + part.piece.first
            of_column = part_ends if part.piece.column == EMBEDDINGS else text_ends
            of_column |= {start, start + part.piece.rows - 1}
    # The seed makes the next attempt compare the same rows: it finds the same fault again.
    drawn = random.Random(seed).sample(range(layout.rows), min(random_rows, layout.rows))
    return Sample(sorted(ends | part_ends | set(drawn)), sorted(ends | text_ends | set(drawn[::TEXT_SHARE])))


def stretches(layout: Layout, sample: Sample) -> Iterator[Stretch]:
    """Yield the rows to read from the result, so that each row of the sample is among them.

    One stretch is one request. The last row of a chunk and the first row of the next chunk share a stretch.
    """
    for column in layout.columns:
        near = max(1, NEAR_BYTES // column.row_bytes)
        longest = max(1, STRETCH_BYTES // column.row_bytes)
        rows = sample.vectors if column.name == EMBEDDINGS else sample.texts
        for first, last in _ranges(rows, near=near, longest=longest):
            yield tuple(layout.rows_of(column, first, last + 1))


def _ranges(rows: Iterable[int], *, near: int, longest: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of ranges that cover the rows.

    A range has at most `longest` rows. Two rows share a range only when they are at most `near` rows apart.
    """
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
    """Rows of texts that passed through this process. The digest of their whole column was checked as they passed.

    Vectors are not kept: most chunks have only some of them pass through here, and a digest covers the whole column.
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
        """Keep the wanted rows among those of `passing`, as the chunk file has them."""
        for piece in self._wanted.get((passing.column, passing.chunk), ()):
            start = piece.first - passing.first
            if 0 <= start <= passing.rows - piece.rows:
                # Without the copy the whole block would stay in memory.
                self._kept[piece] = rows[start : start + piece.rows].copy()

    def get(self, piece: Piece) -> NDArray[np.uint8] | None:
        """Return the rows of a piece as the chunk file has them, None where they were not kept."""
        return self._kept.get(piece)
