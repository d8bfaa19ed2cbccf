"""Where every byte of the result comes from, computed from the headers of the chunks alone.

0            HDF5's own metadata: attributes, names, shapes
8192         urls         one after the other, in the order of the chunks; later where the attributes are long
…            ids          where the manifest has ids
…            embeddings   the bulk: what the store can copy by itself
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.format.hdf5 import Dataset, lay_out
from common.format.run_attributes import run_attributes
from common.indexes import format_indexes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from common.format.chunk_file import ChunkHeader

ALIGNMENT = 4096
"""Datasets begin at multiples of this, a page, so that they can be mapped as they are."""

SMALL_BYTES = 2048
"""HDF5 packs datasets below this size together; aligning them would only make holes."""

METADATA = ""
"""The name of what is no dataset: HDF5's own metadata, and the holes before aligned datasets."""

EMBEDDINGS = "embeddings"


class Piece(NamedTuple):
    """Rows of a chunk's column, which lie together in the result; or bytes of its metadata."""

    column: str
    chunk: int
    """Position in the sequence of chunks that the layout was made from, -1 for metadata."""
    first: int
    """Row of the chunk; byte of the result for metadata."""
    rows: int
    row_bytes: int
    """In the result, where the rows of all chunks are equally wide."""

    @property
    def size(self) -> int:
        return self.rows * self.row_bytes

    def part(self, start: int, rows: int) -> Piece:
        """Return `rows` rows from the row `start` of this piece."""
        return self._replace(first=self.first + start, rows=rows)


class Column(NamedTuple):
    name: str
    offset: int
    row_bytes: int


class Layout(NamedTuple):
    size: int
    """Bytes of the result."""
    metadata: dict[int, bytes]
    """By offset: everything that is no row. The first holds all that HDF5 has to say, the others are zeros."""
    columns: Sequence[Column]
    """In the order of their offsets."""
    starts: Sequence[int]
    """The row of the result that each chunk begins with; one more for the end."""

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def rows_of(self, column: Column, start: int, end: int) -> Iterator[Piece]:
        """Yield the rows of the result from `start` to before `end` in a column, by chunk."""
        chunk = bisect_right(self.starts, start) - 1
        while start < end:
            stop = min(end, self.starts[chunk + 1])
            if stop > start:
                yield Piece(column.name, chunk, start - self.starts[chunk], stop - start, column.row_bytes)
            start, chunk = stop, chunk + 1

    def metadata_at(self, offset: int, length: int) -> bytes:
        """Return bytes of the result that are no row."""
        start = max(start for start in self.metadata if start <= offset)
        return self.metadata[start][offset - start : offset - start + length]

    def pieces(self) -> Iterator[Piece]:
        """Yield what the result consists of, from its first byte to its last, without a gap."""
        gaps = dict(self.metadata)
        offset = 0
        for column in (*self.columns, None):
            if gap := gaps.pop(offset, None):
                yield Piece(METADATA, -1, offset, len(gap), 1)
            if column is None or not self.rows:
                continue
            for chunk, (start, end) in enumerate(pairwise(self.starts)):
                if end > start:
                    yield Piece(column.name, chunk, 0, end - start, column.row_bytes)
            offset = column.offset + self.rows * column.row_bytes


def result_attributes(headers: Sequence[ChunkHeader], missing: Sequence[int]) -> dict[str, Any]:
    """Return the attributes of the result. They follow from the chunks alone, so that every merge of the same chunks
    writes the same bytes; created_at is that of the last chunk."""
    return run_attributes(headers[0].provenance) | {
        "created_at": max(header.created_at for header in headers),
        "rows_requested": sum(header.requested for header in headers),
        "rows_embedded": sum(header.embedded for header in headers),
        "rows_failed": sum(header.failed for header in headers),
        "chunks_missing": format_indexes(missing),
    }


def compute_layout(headers: Sequence[ChunkHeader], attributes: dict[str, Any]) -> Layout:
    """Return the layout of the result that the chunks make, in the order given, under these attributes.

    The headers agree on dimensions and ids wherever they have rows. HDF5 itself decides the offsets.
    """
    with_rows = [header for header in headers if header.embedded] or list(headers)
    starts = list(accumulate((header.embedded for header in headers), initial=0))
    datasets = {}
    for name in ("urls", "ids"):
        if all(name in header.spans for header in with_rows):
            width = max(header.spans[name].row_bytes for header in with_rows)
            datasets[name] = Dataset((starts[-1],), np.dtype(f"S{width}"), {})
    dimensions = max(header.dimensions for header in with_rows)
    datasets[EMBEDDINGS] = Dataset((starts[-1], dimensions), np.dtype("<f4"), {})
    skeleton = lay_out(attributes, datasets, alignment_threshold=SMALL_BYTES, alignment_interval=ALIGNMENT)
    columns = [Column(name, skeleton.offsets[name], dataset.row_bytes) for name, dataset in datasets.items()]
    columns.sort(key=lambda column: column.offset)
    return Layout(skeleton.size, skeleton.metadata, columns, starts)
