"""The chunks as the sources of the result's bytes, and the check that they are what their workers wrote."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merger.layout import METADATA, Piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from common.store.contract import Store
    from merger.chunks import StoredChunk
    from merger.layout import Layout
    from merger.progress import Traffic


class DigestDiffers(Exception):
    """A chunk's rows are not those that its worker wrote."""


class Sources(NamedTuple):
    store: Store
    chunks: Sequence[StoredChunk]
    layout: Layout
    traffic: Traffic

    def name(self, chunk: int) -> str:
        """Return the full name of the chunk at this position, for people."""
        return self.store.location(self.chunks[chunk].stat.key)

    def read(self, piece: Piece) -> NDArray[np.uint8]:
        """Return the rows of a piece as they lie in the chunk: (rows, bytes of a row there), or (bytes, 1)."""
        if piece.column == METADATA:
            return np.frombuffer(self.layout.metadata_at(piece.first, piece.rows), np.uint8).reshape(-1, 1)
        stat, header = self.chunks[piece.chunk]
        span = header.spans[piece.column]
        data = self.store.read(stat.key, span.offset + piece.first * span.row_bytes, piece.rows * span.row_bytes)
        self.traffic.add(read=len(data))
        return np.frombuffer(data, np.uint8).reshape(piece.rows, span.row_bytes)


def widen(rows: NDArray[np.uint8], row_bytes: int) -> NDArray[np.uint8]:
    """Return the rows with zero bytes appended to `row_bytes`, as HDF5 pads fixed-length bytes."""
    if rows.shape[1] == row_bytes:
        return rows
    wide = np.zeros((rows.shape[0], row_bytes), np.uint8)
    wide[:, : rows.shape[1]] = rows
    return wide


def blocks(piece: Piece, block_bytes: int) -> Iterator[Piece]:
    """Yield the piece in pieces of `block_bytes` at most, but of one row at least."""
    rows = max(1, block_bytes // piece.row_bytes)
    for start in range(0, piece.rows, rows):
        yield piece.part(start, min(rows, piece.rows - start))


class ColumnDigest:
    """Checks the digest of every column of a chunk that passes whole and in order; any other it leaves alone."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._column = ("", -1)
        self._next_row = 0
        self._sha256 = hashlib.sha256()

    def update(self, piece: Piece, rows: NDArray[np.uint8]) -> None:
        """Take the next rows, as they lie in the chunk. Raises DigestDiffers when they complete a damaged column."""
        if piece.first == 0:
            self._column, self._next_row, self._sha256 = (piece.column, piece.chunk), 0, hashlib.sha256()
        if (piece.column, piece.chunk) != self._column or piece.first != self._next_row:
            return
        self._sha256.update(rows.data)
        self._next_row += piece.rows
        span = self._sources.chunks[piece.chunk].header.spans[piece.column]
        if self._next_row == span.rows and self._sha256.hexdigest() != span.sha256:
            raise DigestDiffers(f"{self._sources.name(piece.chunk)}: {piece.column} are not as they were written")


def column_is_damaged(sources: Sources, chunk: int, column: str) -> bool:
    """Return whether a chunk's column is not what its worker wrote."""
    digest = ColumnDigest(sources)
    span = sources.chunks[chunk].header.spans[column]
    try:
        for block in blocks(Piece(column, chunk, 0, span.rows, span.row_bytes), 4 << 20):
            digest.update(block, sources.read(block))
    except DigestDiffers:
        return True
    return False
