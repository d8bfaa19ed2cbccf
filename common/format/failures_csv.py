"""Failed images as CSV: the ledger of a run, and the list that a failed chunk leaves."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.process.resources import written_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

COLUMNS = ("chunk", "row", "id", "url", "reason", "detail")
"""The header line."""

MAX_ROW_BYTES = 1 << 20
"""Largest size in bytes of a row: a broken quote would make one row of the whole file."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters at which a spreadsheet starts a formula, with their full-width forms (OWASP, "CSV Injection")."""


@contextmanager
def new_failures_csv(path: Path) -> Iterator[Callable[[Sequence[str]], None]]:
    """Give a function that writes a row, one cell for each of COLUMNS, to a new file.

    Raises ResourceExhausted when the disk is full.
    """
    with written_file(path), path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        yield lambda row: writer.writerow([harmless(cell) for cell in row])


def harmless(cell: str) -> str:
    """Return the cell, after an apostrophe where a spreadsheet would take the cell for a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def original(cell: str) -> str:
    """Return the cell without the apostrophe that `harmless` has put before it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA_STARTS) else cell


def read_failures(file: Iterable[bytes]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a ledger without its header, as they were written. Ends where it is no ledger of this program.

    `file` yields lines, as files in binary mode do.

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
