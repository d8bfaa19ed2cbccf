"""The rows of a result in blocks, each read while the one before it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.parallel import ordered
from results.export.form import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from results.result import Result

BLOCK_BYTES = 32 << 20
"""Size of the vectors of a block in bytes: 16,384 rows of 512 numbers. A block is a row group of a Parquet file."""


def blocks_of(result: Result) -> Iterator[Block]:
    """Yield all rows in their order. Two blocks are held at a time."""
    rows = max(1, BLOCK_BYTES // (4 * result.dimensions))

    def read(start: int) -> Block:
        stop = min(start + rows, result.row_count)
        ids = result.ids(start, stop) if result.has_ids else None
        return Block(start, result.vectors(start, stop), result.urls(start, stop), ids)

    return ordered(read, range(0, result.row_count, rows), concurrency=1, cost=lambda _: 1, budget=2)
