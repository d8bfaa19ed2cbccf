"""failures.csv: every image of the run that is not in the result, with its reason, in the manifest's order."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.chunk_file import FAILURE_TEXTS
from common.keys import FAILURES_KEY
from merger.assemble import ColumnDigest, Sources
from merger.chunks import StoredChunk, read_rows
from merger.layout import Piece
from merger.parallel import ordered

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from common.store import Store

COLUMNS = ("chunk", "row", "id", "url", "reason", "detail")

FAILURE_COLUMNS = ("row", *FAILURE_TEXTS)

ROWS_AT_ONCE = 4096
"""Failures of one chunk that are in memory together: some megabytes at the widest URL."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What spreadsheets take for the start of a formula (OWASP, "CSV Injection")."""


class FailureRows(NamedTuple):
    """Consecutive failures of one chunk."""

    chunk: int
    first: int
    rows: int


def write_ledger(sources: Sources, *, concurrency: int) -> Counter[str]:
    """Write failures.csv to the store, return the failures by reason. Raises DigestDiffers as `assemble` does."""
    by_reason: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="merge-") as folder:
        path = Path(folder) / FAILURES_KEY
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in failures(sources, concurrency=concurrency):
                by_reason[row[COLUMNS.index("reason")]] += 1
                writer.writerow([harmless(cell) for cell in row])
        sources.store.put_file(FAILURES_KEY, path)
    return by_reason


def failures(sources: Sources, *, concurrency: int) -> Iterator[tuple[str, ...]]:
    """Yield the failures of all chunks as texts, in the order of COLUMNS."""
    digests = {name: ColumnDigest(sources) for name in FAILURE_COLUMNS}

    def read(where: FailureRows) -> tuple[FailureRows, dict[str, NDArray[np.uint8]]]:
        chunk = sources.chunks[where.chunk]
        return where, _read_columns(sources.store, chunk, where)

    for where, columns in ordered(read, _all_failures(sources), concurrency=concurrency):
        texts = {}
        for name, data in columns.items():
            piece = Piece(f"failures/{name}", where.chunk, where.first, where.rows, data.shape[1])
            digests[name].update(piece, data)
            texts[name] = _texts(name, data)
        index = str(sources.chunks[where.chunk].header.index)
        for cells in zip(*(texts[name] for name in COLUMNS[1:]), strict=True):
            yield (index, *cells)


def harmless(cell: str) -> str:
    """Return the cell such that no spreadsheet takes it for a formula: with an apostrophe before it where needed."""
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def _all_failures(sources: Sources) -> Iterator[FailureRows]:
    for chunk, (_, header) in enumerate(sources.chunks):
        for first in range(0, header.failed, ROWS_AT_ONCE):
            yield FailureRows(chunk, first, min(ROWS_AT_ONCE, header.failed - first))


def _read_columns(store: Store, chunk: StoredChunk, where: FailureRows) -> dict[str, NDArray[np.uint8]]:
    return {name: read_rows(store, chunk, f"failures/{name}", where.first, where.rows) for name in FAILURE_COLUMNS}


def _texts(name: str, data: NDArray[np.uint8]) -> list[str]:
    if name == "row":
        return [str(row) for row in data.view("<i8")[:, 0].tolist()]
    return [cell.tobytes().rstrip(b"\0").decode("utf-8", "replace") for cell in data]
