"""The chunks as the sources of the result's bytes, and the check that their rows are what the workers wrote."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.run.keys import CHUNKS_PREFIX
from common.store.contract import ObjectExists
from merger.layout import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from common.store.contract import Store
    from merger.chunks import StoredChunk
    from merger.layout import Layout, Piece
    from merger.progress import Traffic


class DigestDiffers(Exception):
    """A column of a chunk is not what its worker wrote."""

    def __init__(self, location: str, *, chunk: int, column: str) -> None:
        super().__init__(f"{location}: {column} are not what the worker wrote")
        self.chunk = chunk
        """Position of the chunk among those that are merged."""
        self.column = column


class Sources(NamedTuple):
    """The chunks that are merged, in the order of the layout."""

    store: Store
    chunks: Sequence[StoredChunk]
    layout: Layout
    traffic: Traffic

    def location(self, chunk: int) -> str:
        """Return the full name, for people, of the chunk file at this position."""
        return self.store.location(self.chunks[chunk].stat.key)

    def read(self, piece: Piece) -> NDArray[np.uint8]:
        """Return the rows of a piece as the chunk file has them, or had them when an earlier merge took them from it.

        The shape is (rows, bytes of a row in the chunk file), or (bytes, 1) for metadata.
        """
        if piece.column == METADATA:
            return np.frombuffer(self.layout.metadata_at(piece.first, piece.rows), np.uint8).reshape(-1, 1)
        chunk = self.chunks[piece.chunk]
        span = chunk.header.spans[piece.column]
        pitch = self.row_pitch(piece)
        data = self.store.read(chunk.stat.key, span.offset + piece.first * pitch, piece.rows * pitch)
        self.traffic.add(read=len(data))
        rows = np.frombuffer(data, np.uint8).reshape(piece.rows, pitch)
        # In an earlier result, texts are padded to the width of the whole run.
        return rows if pitch == span.row_bytes else np.ascontiguousarray(rows[:, : span.row_bytes])

    def row_pitch(self, piece: Piece) -> int:
        """Return the distance in bytes between two rows of the piece in the object that holds them."""
        chunk = self.chunks[piece.chunk]
        return chunk.header.spans[piece.column].row_bytes if chunk.row_pitch is None else chunk.row_pitch[piece.column]

    def check_unchanged(self) -> None:
        """Raise ObjectExists where a chunk file or the earlier result is no longer the object that is merged.

        A top-up replaces chunk files, and another merge deletes them.
        """
        listed = {stat.key: stat for stat in self.store.list(CHUNKS_PREFIX)}
        for stat in dict.fromkeys(chunk.stat for chunk in self.chunks):
            # The list may be a moment behind.
            if listed.get(stat.key) != stat and self.store.stat(stat.key) != stat:
                raise ObjectExists(f"{self.store.location(stat.key)}, which was replaced or deleted")


def widen(rows: NDArray[np.uint8], row_bytes: int) -> NDArray[np.uint8]:
    """Return the rows, (rows, any width), as (rows, row_bytes): HDF5 pads fixed-length bytes with zeros at the end."""
    if rows.shape[1] == row_bytes:
        return rows
    wide = np.zeros((rows.shape[0], row_bytes), np.uint8)
    wide[:, : rows.shape[1]] = rows
    return wide


def blocks(piece: Piece, block_bytes: int) -> Iterator[Piece]:
    """Yield the piece in smaller pieces of at most `block_bytes`. Each has at least one row."""
    rows = max(1, block_bytes // piece.row_bytes)
    for start in range(0, piece.rows, rows):
        yield piece.part(start, min(rows, piece.rows - start))


class ColumnDigest:
    """Checks the digest of each column of a chunk. A column of which not all rows pass here in order is not checked."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._column = ("", -1)
        self._next_row = 0
        self._sha256 = hashlib.sha256()

    def update(self, piece: Piece, rows: NDArray[np.uint8]) -> None:
        """Take the next rows, as the chunk file has them.

        Raises DigestDiffers when these are the last rows of a column and the column is damaged.
        """
        if piece.first == 0:
            self._column, self._next_row, self._sha256 = (piece.column, piece.chunk), 0, hashlib.sha256()
        if (piece.column, piece.chunk) != self._column or piece.first != self._next_row:
            return
        self._sha256.update(rows.data)
        self._next_row += piece.rows
        span = self._sources.chunks[piece.chunk].header.spans[piece.column]
        if self._next_row == span.rows and self._sha256.hexdigest() != span.sha256:
            raise DigestDiffers(self._sources.location(piece.chunk), chunk=piece.chunk, column=piece.column)
