"""The ledger of an earlier merge: the failures of the chunks whose rows come from the earlier result."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from common.format.failures_csv import read_failures
from common.run.keys import FAILURES_KEY
from common.store.contract import ObjectExists
from common.store.object_reader import ObjectReader
from merger.finding import MergeRefused, OtherLedger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.store.contract import Store
    from merger.progress import Traffic

READ_BYTES = 4 << 20
"""Size of one read of the ledger, in bytes."""


class EarlierLedger:
    """Reads failures.csv from front to back, once."""

    def __init__(self, store: Store, traffic: Traffic) -> None:
        self._store, self._traffic = store, traffic
        self._stat = store.stat(FAILURES_KEY)
        size = 0 if self._stat is None else self._stat.size
        self._reader = ObjectReader(store, FAILURES_KEY, size)
        self._rows = read_failures(io.BufferedReader(self._reader, READ_BYTES))
        self._next = next(self._rows, None)
        self._others: list[int] = []

    def rows_of(self, chunk: int, *, failed: int) -> Iterator[tuple[str, ...]]:
        """Yield the rows of the chunk, in the order of COLUMNS. Ask for chunks in the order of their indexes.

        A chunk with another number of rows than `failed` is remembered for `check`.
        """
        count = 0
        while self._next is not None and _chunk(self._next) <= chunk:
            if _chunk(self._next) == chunk:
                count += 1
                yield self._next
            self._next = next(self._rows, None)
        if count != failed:
            self._others.append(chunk)

    def check(self) -> None:
        """Raise MergeRefused where a chunk had other rows, and ObjectExists where the ledger was replaced meanwhile."""
        self._traffic.add(read=self._reader.bytes_read)
        if self._store.stat(FAILURES_KEY) != self._stat:
            raise ObjectExists(self._store.location(FAILURES_KEY))
        if self._others:
            raise MergeRefused(OtherLedger(self._store.location(FAILURES_KEY), tuple(self._others)))


def _chunk(row: tuple[str, ...]) -> int:
    return int(row[0])
