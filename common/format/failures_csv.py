"""Failed images as CSV: the ledger of a run, and the list that a failed chunk leaves."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.process.resources import written_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

COLUMNS = ("chunk", "row", "id", "url", "reason", "detail")
"""The header line."""

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
