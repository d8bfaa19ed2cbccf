"""Rows that are kept while an export is written, and compared with what is read back."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from common.errors import StoreUnavailable
from results.export.form import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from results.export.form import Reading
    from results.export.rows_file import RowsFileReading

PLACES = 64
"""Number of random places where rows are compared, beside the first and the last rows."""

ROWS_IN_PLACE = 16
"""Number of neighbouring rows that are compared at each place."""

SEARCHES = 32
"""Number of sampled vectors that are searched for in an index."""

TIE = 1e-6
"""Two rows whose similarities to a vector differ by less are equally near."""


class Samples:
    """Sampled rows, in their order."""

    def __init__(self, row_count: int, *, seed: int | None = None) -> None:
        last = max(0, row_count - ROWS_IN_PLACE)
        starts = np.random.default_rng(seed).integers(0, last + 1, PLACES)
        places = [range(start, min(start + ROWS_IN_PLACE, row_count)) for start in (0, last, *starts.tolist())]
        self._row_count = row_count
        self._rows = np.unique(np.concatenate([np.array(place, np.int64) for place in places]))
        self._kept: list[Block] = []

    def __len__(self) -> int:
        return len(self._rows)

    def keep(self, block: Block) -> None:
        """Keep the sampled rows of the block."""
        first, stop = np.searchsorted(self._rows, [block.first, block.first + len(block.urls)])
        rows = self._rows[first:stop]
        breaks = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for start, end in pairwise(breaks):
            if start < end:
                places = slice(int(rows[start]) - block.first, int(rows[end - 1]) - block.first + 1)
                ids = None if block.ids is None else list(block.ids[places])
                self._kept.append(Block(int(rows[start]), block.vectors[places].copy(), list(block.urls[places]), ids))

    def check(
        self, reading: Reading, texts: RowsFileReading | None, *, name: str, progress: Callable[[int], None]
    ) -> None:
        """Compare what is read back with the rows. Raises StoreUnavailable with `name` where they differ."""
        for kind, count in (("rows", reading.row_count), ("lines of texts", texts and texts.row_count)):
            if count is not None and count != self._row_count:
                raise _differs(name, f"{count} {kind}, expected {self._row_count}")
        for kept in self._kept:
            stop = kept.first + len(kept.urls)
            read = reading.rows(kept.first, stop)
            if not (np.abs(read.vectors - kept.vectors) <= reading.tolerance(kept.vectors)).all():
                raise _differs(name, f"other vectors in rows {kept.first} to {stop}")
            if read.urls is not None and (list(read.urls), read.ids and list(read.ids)) != (kept.urls, kept.ids):
                raise _differs(name, f"other URLs or ids in rows {kept.first} to {stop}")
            progress(stop - kept.first)
        if texts is not None and texts.texts(frozenset(self._rows.tolist())) != dict(self._texts()):
            raise _differs(name, "other URLs or ids in sampled rows")
        if reading.least_found and self._kept:
            self._check_search(reading, name=name)

    def _texts(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        for kept in self._kept:
            columns = [kept.urls] if kept.ids is None else [kept.urls, kept.ids]
            yield from enumerate(zip(*columns, strict=True), kept.first)

    def _check_search(self, reading: Reading, *, name: str) -> None:
        picked = self._kept[:: max(1, len(self._kept) // SEARCHES)][:SEARCHES]
        rows = [kept.first for kept in picked]
        queries = np.stack([kept.vectors[0] for kept in picked])
        found = reading.nearest(queries)
        is_found = [
            row == hit or _is_as_near(reading, int(hit), row, query)
            for row, hit, query in zip(rows, found, queries, strict=True)
        ]
        if sum(is_found) < reading.least_found * len(is_found):
            raise _differs(name, f"a search that finds {sum(is_found)} of {len(is_found)} sampled rows")


def _is_as_near(reading: Reading, hit: int, row: int, query: NDArray[np.float32]) -> bool:
    """Return whether the row that was found is as near to the query as its own row: the same image twice, for one."""
    if hit < 0:
        return False
    theirs, own = (float(reading.rows(each, each + 1).vectors[0] @ query) for each in (hit, row))
    return theirs >= own - TIE


def _differs(name: str, found: str) -> StoreUnavailable:
    return StoreUnavailable(f"{name} reads back with {found}; nothing is published, look at the disk and try again")
