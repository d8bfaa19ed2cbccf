"""The ledger of a run, failures.csv, page by page. No more than one page is in memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.format.failures_csv import COLUMNS, original
from common.run.keys import FAILURES_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.store.contract import Store

BLOCK_BYTES = 1 << 20
"""Size of one read in bytes."""

MAX_SEARCHED_BYTES = 64 << 20
"""Number of bytes that one page looks through for rows with its reason. The next page continues there."""

MAX_ROW_BYTES = 1 << 20
"""Largest size in bytes of a row: a broken quote would make one row of the whole ledger."""

_CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^,"]*)),')
_NUMBER = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True)
class FailedRow:
    chunk: int
    row: int
    """The number of the row within its chunk."""
    id: str
    url: str
    reason: str
    detail: str


@dataclass(frozen=True)
class LedgerPage:
    rows: list[FailedRow]
    next_offset: int | None
    """Where the next page begins, in bytes, None after the last one."""
    size: int
    """Size of the ledger in bytes."""


def ledger_page(store: Store, *, offset: int, reason: str, count: int) -> LedgerPage:
    """Return at most `count` failed rows with this reason (any reason if empty) from `offset` of the ledger on.

    A page may have fewer rows although others follow: see MAX_SEARCHED_BYTES. Raises StoreUnavailable.
    """
    stat = store.stat(FAILURES_KEY)
    size = 0 if stat is None else stat.size
    rows: list[FailedRow] = []
    for end, line in _rows(store, offset, size):
        row = _failed_row(line)
        if row is not None and reason in ("", row.reason):
            rows.append(row)
        if len(rows) == count or end - offset >= MAX_SEARCHED_BYTES:
            return LedgerPage(rows, end if end < size else None, size)
    return LedgerPage(rows, None, size)


def _rows(store: Store, offset: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield each row, which may have line breaks within quotes, after the offset of its end."""
    row = rest = b""
    is_quoted = False
    position = offset
    end = offset
    while position < size:
        data = rest + store.read(FAILURES_KEY, position, min(BLOCK_BYTES, size - position))
        position = min(position + BLOCK_BYTES, size)
        *lines, rest = data.split(b"\n")
        for line in lines:
            row += line + b"\n"
            end += len(line) + 1
            is_quoted ^= line.count(b'"') % 2 == 1
            if not is_quoted or len(row) > MAX_ROW_BYTES:
                yield end, row
                row, is_quoted = b"", False
        if len(rest) > MAX_ROW_BYTES:
            return


def _failed_row(line: bytes) -> FailedRow | None:
    """Return what a row says, None for the header and for what is no row of a ledger."""
    # csv.reader takes a lone carriage return for the end of a row, and csv.writer does not quote it.
    found = _CELL.findall(line.decode("utf-8", "replace").removesuffix("\n") + ",")
    cells = [quoted.replace('""', '"') or plain for quoted, plain in found]
    if len(cells) != len(COLUMNS) or not (_NUMBER.fullmatch(cells[0]) and _NUMBER.fullmatch(cells[1])):
        return None
    identifier, url, reason, detail = map(original, cells[2:])
    return FailedRow(int(cells[0]), int(cells[1]), identifier, url, reason, detail)
