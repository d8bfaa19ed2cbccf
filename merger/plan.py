"""The parts that the result is put together from: ranges of chunks that the store copies, and the rest, which passes
through this process."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ConfigError
from merger.layout import EMBEDDINGS, Piece

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from common.store.contract import PartLimits
    from merger.layout import Layout

UPLOAD_BYTES = 8 << 20
"""Of an uploaded part, as long as S3's 10,000 parts allow: together with what is being read, it bounds the memory."""

COPY_BYTES = 128 << 20
"""Of a copied part, as long as 10,000 parts allow. S3 copies parts side by side, and one that fails is cheap."""


class PartSizes(NamedTuple):
    """What is aimed at, within the store's limits. Both are raised where there would be too many parts."""

    upload_bytes: int = UPLOAD_BYTES
    copy_bytes: int = COPY_BYTES


class CopyPart(NamedTuple):
    """Rows that the store takes from a chunk object."""

    offset: int
    piece: Piece

    @property
    def size(self) -> int:
        return self.piece.size


class UploadPart(NamedTuple):
    """Pieces that pass through this process."""

    offset: int
    pieces: Sequence[Piece]

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)


Part = CopyPart | UploadPart


def plan_parts(
    layout: Layout, limits: PartLimits, *, sizes: PartSizes | None = None, copying: bool = True
) -> Sequence[Part]:
    """Return the parts of the result, in the order of their offsets, without gap or overlap.

    Every part but the last has at least `limits.min_bytes`, none more than `limits.max_bytes`, and there are at most
    `limits.max_count`. Vectors are copied wherever that allows it; where there are too many chunks, the smallest are
    gathered into uploaded parts, no more of them than necessary. Raises ConfigError when no plan keeps the limits.
    """
    if layout.size > limits.max_bytes * limits.max_count:
        raise ConfigError(
            f"the result would have {layout.size} bytes, the store takes {limits.max_count} parts of "
            f"{limits.max_bytes}; merge fewer chunks into one result"
        )
    pieces = list(layout.pieces())
    sizes = sizes or PartSizes()
    while True:
        parts = _divide(pieces, limits, sizes, uploaded=frozenset() if copying else range(len(pieces)))
        if len(parts) <= limits.max_count:
            return parts
        if copying and sizes.copy_bytes < limits.max_bytes:
            sizes = sizes._replace(copy_bytes=min(2 * sizes.copy_bytes, limits.max_bytes))
            continue
        if copying and (gathered := _gather(pieces, limits, sizes)):
            return gathered
        if sizes.upload_bytes >= limits.max_bytes:
            raise ConfigError(
                f"the {len(pieces)} pieces of the result do not fit into {limits.max_count} parts; raise the rows "
                "per chunk, that is, lower EMBEDDER_CHUNK_COUNT"
            )
        sizes = sizes._replace(upload_bytes=min(2 * sizes.upload_bytes, limits.max_bytes))


def _gather(pieces: Sequence[Piece], limits: PartLimits, sizes: PartSizes) -> Sequence[Part] | None:
    """Return the parts when just enough of the smallest chunks are uploaded, None when uploading all is not enough."""
    small = [i for i, piece in enumerate(pieces) if piece.column == EMBEDDINGS and piece.size < sizes.upload_bytes]
    small.sort(key=lambda i: pieces[i].size)  # stable: of equal ones the first, so that they are neighbours
    too_few, enough = 0, len(small)
    best = _divide(pieces, limits, sizes, uploaded=frozenset(small))
    if len(best) > limits.max_count:
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        parts = _divide(pieces, limits, sizes, uploaded=frozenset(small[:middle]))
        if len(parts) <= limits.max_count:
            best, enough = parts, middle
        else:
            too_few = middle
    return best


def _divide(
    pieces: Iterable[Piece], limits: PartLimits, sizes: PartSizes, *, uploaded: Container[int]
) -> Sequence[Part]:
    """Return the parts when the pieces at the positions `uploaded` are never copied."""
    division = _Division(limits, sizes)
    for position, piece in enumerate(pieces):
        missing = division.missing_rows(piece)
        can_copy = piece.column == EMBEDDINGS and position not in uploaded
        if can_copy and (piece.rows - missing) * piece.row_bytes >= limits.min_bytes:
            # What is still too small to be a part takes its missing rows from the front of the chunk.
            division.upload(piece.part(0, missing))
            division.close()
            division.copy(piece.part(missing, piece.rows - missing))
        else:
            division.upload(piece)
    division.close()
    return division.parts


class _Division:
    """The parts so far, and the pieces that wait to become an uploaded one."""

    def __init__(self, limits: PartLimits, sizes: PartSizes) -> None:
        self.parts: list[Part] = []
        self._limits = limits
        self._upload_bytes = max(sizes.upload_bytes, limits.min_bytes)
        self._copy_bytes = sizes.copy_bytes
        self._offset = 0
        self._waiting: list[Piece] = []
        self._waiting_bytes = 0

    def missing_rows(self, piece: Piece) -> int:
        """Return how many of the piece's rows make what waits large enough to be a part; 0 where it need not be."""
        if not self._waiting or self._part_to_join():
            return 0
        missing = max(0, self._limits.min_bytes - self._waiting_bytes)
        return min(-(-missing // piece.row_bytes), piece.rows)

    def upload(self, piece: Piece) -> None:
        while piece.rows:
            room = max(0, self._upload_bytes - self._waiting_bytes) // piece.row_bytes
            if not room and self._waiting_bytes >= self._limits.min_bytes:
                self.close()
                continue
            rows = min(max(room, 1), piece.rows)
            self._waiting.append(piece.part(0, rows))
            self._waiting_bytes += rows * piece.row_bytes
            piece = piece.part(rows, piece.rows - rows)

    def close(self) -> None:
        if not self._waiting:
            return
        pieces = tuple(self._waiting)
        if before := self._part_to_join():
            self.parts.pop()
            self._offset, pieces = before.offset, (*before.pieces, *pieces)
        self._add(UploadPart(self._offset, pieces))
        self._waiting, self._waiting_bytes = [], 0

    def _part_to_join(self) -> UploadPart | None:
        """Return the uploaded part before what waits, where that is too small to be one and both are not too large."""
        before = self.parts[-1] if self.parts else None
        if not isinstance(before, UploadPart) or self._waiting_bytes >= self._limits.min_bytes:
            return None
        return before if before.size + self._waiting_bytes <= self._limits.max_bytes else None

    def copy(self, piece: Piece) -> None:
        least = -(-self._limits.min_bytes // piece.row_bytes)
        wanted = -(-piece.rows // max(1, self._copy_bytes // piece.row_bytes))
        count = max(1, min(wanted, piece.rows // least))
        bounds = [i * piece.rows // count for i in range(count + 1)]
        for start, end in pairwise(bounds):
            self._add(CopyPart(self._offset, piece.part(start, end - start)))

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        self._offset += part.size
