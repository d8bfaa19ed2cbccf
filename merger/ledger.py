"""failures.csv, the ledger: each image that is not in the result, with the reason, in the manifest's order."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.format.chunk_file import FAILURE_TEXTS
from common.format.failures_csv import COLUMNS, new_failures_csv
from common.parallel import ordered
from common.process.resources import temporary_folder
from common.run.keys import FAILURES_KEY
from merger.earlier_ledger import EarlierLedger
from merger.layout import Piece
from merger.sources import ColumnDigest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from merger.sources import Sources

FAILURE_DATASETS = ("failures/row", *(f"failures/{name}" for name in FAILURE_TEXTS))
"""The datasets of a chunk file that hold its failures."""

BLOCK_BYTES = 1 << 20
"""Size of one read of failures, in bytes."""

AHEAD_BYTES = 16 << 20
"""Largest number of bytes of failures that were requested and are not yet written."""


class _Failures(NamedTuple):
    """Consecutive failures of one chunk."""

    chunk: int
    """Position of the chunk among those that are merged, from 0."""
    first: int
    """The first failure, counted within the chunk."""
    rows: int
    """Number of failures."""
    row_bytes: int
    """Size of one failure in all datasets together, in bytes."""

    @property
    def size(self) -> int:
        return self.rows * self.row_bytes


class Ledger(NamedTuple):
    path: Path
    """A temporary file."""
    by_reason: Mapping[str, int]
    """Number of failed images by reason."""


@contextmanager
def spooled_ledger(sources: Sources, *, concurrency: int) -> Iterator[Ledger]:
    """Give the ledger of all chunks. Its file is deleted at the end of the block.

    Raises DigestDiffers where the failures of a chunk are not what its worker wrote, and MergeRefused with OtherLedger
    where the ledger of the earlier merge does not list the failures of a chunk without a chunk file.
    """
    by_reason: Counter[str] = Counter()
    with temporary_folder("merge") as folder:
        path = folder / FAILURES_KEY
        with new_failures_csv(path) as write:
            for row in _all_rows(sources, concurrency=concurrency):
                by_reason[row[COLUMNS.index("reason")]] += 1
                write(row)
        yield Ledger(path, by_reason)


def _all_rows(sources: Sources, *, concurrency: int) -> Iterator[tuple[str, ...]]:
    """Yield the failures of all chunks as texts, in the order of COLUMNS."""
    without_file = deque(position for position, chunk in enumerate(sources.chunks) if not chunk.is_file)
    if not any(sources.chunks[position].header.failed for position in without_file):
        for _, rows in _rows_of_files(sources, concurrency=concurrency):
            yield from rows
        return
    earlier = EarlierLedger(sources.store, sources.traffic)

    def rows_before(end: int) -> Iterator[tuple[str, ...]]:
        while without_file and without_file[0] < end:
            header = sources.chunks[without_file.popleft()].header
            yield from earlier.rows_of(header.index, failed=header.failed)

    for position, rows in _rows_of_files(sources, concurrency=concurrency):
        yield from rows_before(position)
        yield from rows
    yield from rows_before(len(sources.chunks))
    earlier.check()


def _rows_of_files(sources: Sources, *, concurrency: int) -> Iterator[tuple[int, Iterator[tuple[str, ...]]]]:
    """Yield positions of chunks, ascending, and some failures of the chunk's file."""
    digests = {name: ColumnDigest(sources) for name in FAILURE_DATASETS}

    def read(failures: _Failures) -> tuple[_Failures, dict[str, NDArray[np.uint8]]]:
        return failures, _read(sources, failures)

    for failures, datasets in ordered(
        read, _all_failures(sources), concurrency=concurrency, cost=lambda failures: failures.size, budget=AHEAD_BYTES
    ):
        texts = {"chunk": [str(sources.chunks[failures.chunk].header.index)] * failures.rows}
        for name, rows in datasets.items():
            digests[name].update(Piece(name, failures.chunk, failures.first, failures.rows, rows.shape[1]), rows)
            texts[name.removeprefix("failures/")] = _texts(name, rows)
        yield failures.chunk, zip(*(texts[name] for name in COLUMNS), strict=True)


def _all_failures(sources: Sources) -> Iterator[_Failures]:
    """Yield the failures of all chunk files, in blocks of about BLOCK_BYTES."""
    for chunk, stored in enumerate(sources.chunks):
        if not stored.is_file:
            continue
        header = stored.header
        row_bytes = sum(header.spans[name].row_bytes for name in FAILURE_DATASETS)
        at_once = max(1, BLOCK_BYTES // row_bytes)
        for first in range(0, header.failed, at_once):
            yield _Failures(chunk, first, min(at_once, header.failed - first), row_bytes)


def _read(sources: Sources, failures: _Failures) -> dict[str, NDArray[np.uint8]]:
    """Return the rows of each dataset, (rows, bytes of a row).

    One request reads them all where the datasets lie close together, as in every small ledger.
    """
    chunk = sources.chunks[failures.chunk]
    spans = {name: chunk.header.spans[name] for name in FAILURE_DATASETS}
    starts = {name: span.offset + failures.first * span.row_bytes for name, span in spans.items()}
    ends = {name: start + failures.rows * spans[name].row_bytes for name, start in starts.items()}
    start, end = min(starts.values()), max(ends.values())
    if end - start > 2 * failures.size + BLOCK_BYTES:
        pieces = {name: Piece(name, failures.chunk, failures.first, failures.rows, 1) for name in spans}
        return {name: sources.read(piece) for name, piece in pieces.items()}
    data = sources.store.read(chunk.stat.key, start, end - start)
    sources.traffic.add(read=len(data))
    return {
        name: np.frombuffer(data[starts[name] - start : ends[name] - start], np.uint8).reshape(failures.rows, -1)
        for name in spans
    }


def _texts(name: str, rows: NDArray[np.uint8]) -> list[str]:
    """Return each row of a dataset, (rows, bytes of a row), as a text."""
    if name == "failures/row":
        return [str(row) for row in rows.view("<i8")[:, 0].tolist()]
    return [cell.tobytes().rstrip(b"\0").decode("utf-8", "replace") for cell in rows]
