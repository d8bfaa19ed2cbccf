"""The search for all damaged chunks, once one damaged column was found.

All chunks are searched, so that one rerun of the worker repairs all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.parallel import ordered
from merger.finding import LOOKS, BadChunks, Fault, Problem
from merger.layout import EMBEDDINGS, Piece
from merger.ledger import FAILURE_DATASETS
from merger.sources import ColumnDigest, DigestDiffers, blocks

if TYPE_CHECKING:
    from merger.sources import Sources

BLOCK_BYTES = 4 << 20
"""Size of one read of a column, in bytes."""


def find_damaged_chunks(first: DigestDiffers, sources: Sources, *, with_vectors: bool, concurrency: int) -> BadChunks:
    """Return every chunk with a damaged column, or the one that `first` names where the search finds none.

    The search reads the vectors, most of a chunk's bytes, only `with_vectors`, or where `first` names them.
    """
    columns = ["urls", "ids", *FAILURE_DATASETS, *([EMBEDDINGS] if with_vectors else [])]

    def damaged_columns(chunk: int) -> tuple[str, ...]:
        present = sources.chunks[chunk].header.spans
        wanted = [*columns, first.column] if chunk == first.chunk and first.column not in columns else columns
        return tuple(column for column in wanted if column in present and _is_damaged(sources, chunk, column))

    every_chunk = range(len(sources.chunks))
    damaged = zip(every_chunk, ordered(damaged_columns, every_chunk, concurrency=concurrency), strict=True)
    problems = [
        Problem(
            _index(sources, chunk), Fault.ROWS, found, message=f"{sources.location(chunk)}: damaged {', '.join(found)}"
        )
        for chunk, found in damaged
        if found
    ]
    if not problems:
        # `first` came from a wrong answer of the store.
        index = _index(sources, first.chunk)
        problems = [Problem(index, Fault.PASSING_ROWS, (first.column,), message=str(first))]
    return BadChunks(tuple(problems), sources.chunks[0].header.provenance.chunk_count)


def _index(sources: Sources, chunk: int) -> int:
    return sources.chunks[chunk].header.index


def _is_damaged(sources: Sources, chunk: int, column: str) -> bool:
    return all(_reads_damaged(sources, chunk, column) for _ in range(LOOKS))


def _reads_damaged(sources: Sources, chunk: int, column: str) -> bool:
    digest = ColumnDigest(sources)
    span = sources.chunks[chunk].header.spans[column]
    try:
        for block in blocks(Piece(column, chunk, 0, span.rows, span.row_bytes), BLOCK_BYTES):
            digest.update(block, sources.read(block))
    except DigestDiffers:
        return True
    return False
