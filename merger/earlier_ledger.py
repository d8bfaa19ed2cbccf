"""The ledger of an earlier merge: the failures of the chunks whose rows come from the earlier result."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from common.format.failures_csv import COLUMNS
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

MAX_ROW_BYTES = 1 << 20
"""Largest size in bytes of a row: a broken quote would make one row of the whole ledger."""


class EarlierLedger:
    """Reads failures.csv from front to back, once."""

    def __init__(self, store: Store, traffic: Traffic) -> None:
        self._store, self._traffic = store, traffic
        self._stat = store.stat(FAILURES_KEY)
        size = 0 if self._stat is None else self._stat.size
        self._reader = ObjectReader(store, FAILURES_KEY, size)
        self._rows = _rows(io.BufferedReader(self._reader, READ_BYTES))
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


def _rows(file: io.BufferedReader) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a ledger without its header. Ends where the file is no ledger of this program.

    csv.reader is of no use here: it takes a lone carriage return for the end of a row, and csv.writer does not quote
    it.
    """
    lines: list[bytes] = []
    is_quoted = False
    length = 0
    is_first = True
    for line in file:
        lines.append(line)
        length += len(line)
        is_quoted ^= line.count(b'"') % 2 == 1
        if is_quoted and length <= MAX_ROW_BYTES:
            continue  # a text with a line break
        row = b"".join(lines)
        lines, length = [], 0
        cells = _cells(row)
        if cells is None:
            return
        if is_first:
            if cells != COLUMNS:
                return
            is_first = False
            continue
        if not cells[0].isdecimal():
            return
        yield cells


def _cells(row: bytes) -> tuple[str, ...] | None:
    """Return the cells of a row, None if this program did not write it."""
    if not row.endswith(b"\n"):
        return None
    cells: list[str] = []
    begun = ""
    try:
        text = row[:-1].decode()
    except UnicodeDecodeError:
        return None
    for part in text.split(","):
        begun = f"{begun},{part}" if begun else part
        if begun.count('"') % 2 == 0:
            cells.append(begun[1:-1].replace('""', '"') if begun.startswith('"') else begun)
            begun = ""
    return tuple(cells) if len(cells) == len(COLUMNS) and not begun else None


def _chunk(row: tuple[str, ...]) -> int:
    return int(row[0])
