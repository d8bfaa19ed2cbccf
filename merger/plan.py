"""The parts that the result is assembled from.

The store can copy a part by itself if the part is a range of one chunk file's vectors, or a range of vectors or texts
of an earlier result (see `merger.earlier_result`). All other parts pass through this process and are uploaded. S3 takes
at most 10,000 parts, and every part except the last must have at least 5 MiB.

So bytes that are too few for a part wait. Then they are filled up to 5 MiB with the first rows of the next large chunk,
or they join the uploaded part before them. An example: 5 MiB are 2,560 vectors of 512 float32 numbers; there are four
chunks, of 10,000, 2,000, 10,000 and 100 rows, with URLs of 54 bytes.

    part  how     what                                                   bytes
    1     upload  metadata and URLs, 1,204,224 bytes, wait               5,242,880
                  and take 1,972 rows from chunk 0
    2     copy    the other 8,028 rows of chunk 0                       16,441,344
    3     upload  2,000 rows of chunk 1, too few for a part, wait        5,242,880
                  and take 560 rows from chunk 2
    4     copy    the other 9,440 rows of chunk 2                       19,333,120
    5     upload  100 rows of chunk 3; the last part may be small          204,800

A chunk is copied only where at least 5 MiB of it are left after the rows that it gives away.

Some stores demand parts of equal size, and some do not copy: for them there is another plan (see `plan_equal_parts`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from common.store.contract import PartLimits
    from merger.layout import Layout, Piece

UPLOAD_BYTES = 8 << 20
"""Size of an uploaded part in bytes, unless there would be too many parts. It decides how much memory a merge takes."""

COPY_BYTES = 128 << 20
"""Largest copied part in bytes, unless there would be too many parts. S3 copies several parts at the same time, and
a copy that fails costs no more than this."""


class PartSizes(NamedTuple):
    """The wanted sizes in bytes. A plan raises them, within the store's limits, where it has too many parts."""

    upload_bytes: int = UPLOAD_BYTES
    copy_bytes: int = COPY_BYTES


class CopyPart(NamedTuple):
    """Rows that the store copies from a chunk file, or rows of neighbours that it copies from an earlier result."""

    offset: int
    """First byte of the part in the result."""
    piece: Piece
    """In an earlier result it may go on in the next chunks (see `Layout.joined_pieces`)."""

    @property
    def size(self) -> int:
        return self.piece.size


class UploadPart(NamedTuple):
    """Bytes that pass through this process."""

    offset: int
    """First byte of the part in the result."""
    pieces: Sequence[Piece]
    """The rows that begin in the part. The last of them may end in a later part."""
    size: int
    """Number of bytes."""


Part = CopyPart | UploadPart


def plan_parts(layout: Layout, limits: PartLimits, *, sizes: PartSizes | None = None) -> Sequence[Part]:
    """Return the parts of the result, in the order of their offsets, without gaps and overlaps.

    The plan keeps the limits: at most `limits.max_count` parts of at most `limits.max_bytes`, and of at least
    `limits.min_bytes` except for the last. Vectors are copied where the limits allow it. Where there would be too many
    parts, copied parts become larger first; then the smallest chunks, as few as possible, share uploaded parts; then
    uploaded parts become larger. Raises ConfigError when no plan keeps the limits.
    """
    _check_size(layout, limits)
    pieces = list(layout.joined_pieces())
    sizes = sizes or PartSizes()
    while True:
        parts = _divide(layout, pieces, limits, sizes, uploaded=frozenset())
        if len(parts) <= limits.max_count:
            return parts
        if sizes.copy_bytes < limits.max_bytes:
            sizes = sizes._replace(copy_bytes=min(2 * sizes.copy_bytes, limits.max_bytes))
            continue
        if gathered := _gather(layout, pieces, limits, sizes):
            return gathered
        if sizes.upload_bytes >= limits.max_bytes:
            raise ConfigError(
                f"the {len(pieces)} pieces of the result do not fit into {limits.max_count} parts; raise the rows "
                "per chunk, that is, lower EMBEDDER_CHUNK_COUNT"
            )
        sizes = sizes._replace(upload_bytes=min(2 * sizes.upload_bytes, limits.max_bytes))


def plan_equal_parts(
    layout: Layout, limits: PartLimits, *, copying: bool, part_bytes: int = UPLOAD_BYTES
) -> Sequence[Part]:
    """Return parts that, the last one apart, have the same number of bytes, as Cloudflare R2 demands.

    They are in the order of their offsets, without gaps and overlaps. A part is copied, if `copying`, where it consists
    of whole vectors of one chunk. All others are uploaded, and there a row may begin in one part and end in the next.
    The parts have `part_bytes`, or as many more as the limits demand. Raises ConfigError when no plan keeps the limits.
    """
    _check_size(layout, limits)
    size = min(max(part_bytes, limits.min_bytes, -(-layout.size // limits.max_count)), limits.max_bytes)
    bounds = [*range(0, layout.size, size), layout.size]
    rows: list[list[Piece]] = [[] for _ in bounds[1:]]
    starts = [0] * len(rows)  # where the first row of each part begins
    offset = 0
    for piece in layout.joined_pieces():
        first = 0
        while first < piece.rows:
            start = offset + first * piece.row_bytes
            number = start // size
            # The first row that begins in the next part.
            end = min(piece.rows, -(-(bounds[number + 1] - offset) // piece.row_bytes))
            if not rows[number]:
                starts[number] = start
            rows[number].append(piece.part(first, end - first))
            first = end
        offset += piece.size
    parts: list[Part] = []
    for (start, end), pieces, first_row in zip(pairwise(bounds), rows, starts, strict=True):
        is_whole = len(pieces) == 1 and first_row == start and pieces[0].size == end - start
        if copying and is_whole and layout.can_copy(pieces[0]):
            parts.append(CopyPart(start, pieces[0]))
        else:
            of_chunks = tuple(each for piece in pieces for each in layout.split(piece))
            parts.append(UploadPart(start, of_chunks, end - start))
    return parts


def _check_size(layout: Layout, limits: PartLimits) -> None:
    if layout.size > limits.max_bytes * limits.max_count:
        raise ConfigError(
            f"the result would have {layout.size} bytes, the store takes at most {limits.max_count} parts of "
            f"{limits.max_bytes} bytes; merge fewer chunks into one result"
        )


def _gather(layout: Layout, pieces: Sequence[Piece], limits: PartLimits, sizes: PartSizes) -> Sequence[Part] | None:
    """Return a plan that uploads as few chunks as possible, the smallest ones, to keep `limits.max_count`.

    Returns None when even uploading all chunks below the size of an uploaded part gives too many parts. The number of
    uploaded chunks is found by bisection.
    """
    small = [i for i, piece in enumerate(pieces) if layout.can_copy(piece) and piece.size < sizes.upload_bytes]
    # The sort keeps the order of chunks of equal size. So neighbours are uploaded, and neighbours can share a part.
    small.sort(key=lambda i: pieces[i].size)
    too_few, enough = 0, len(small)
    best = _divide(layout, pieces, limits, sizes, uploaded=frozenset(small))
    if len(best) > limits.max_count:
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        parts = _divide(layout, pieces, limits, sizes, uploaded=frozenset(small[:middle]))
        if len(parts) <= limits.max_count:
            best, enough = parts, middle
        else:
            too_few = middle
    return best


def _divide(
    layout: Layout, pieces: Iterable[Piece], limits: PartLimits, sizes: PartSizes, *, uploaded: Container[int]
) -> Sequence[Part]:
    """Return the parts of a plan that does not copy the pieces at the positions `uploaded`."""
    division = _Division(limits, sizes)
    for position, piece in enumerate(pieces):
        given = division.rows_needed(piece)
        can_copy = layout.can_copy(piece) and position not in uploaded
        is_copied = can_copy and (piece.rows - given) * piece.row_bytes >= limits.min_bytes
        for each in layout.split(piece.part(0, given) if is_copied else piece):
            division.upload(each)
        if is_copied:
            division.close()
            division.copy(piece.part(given, piece.rows - given))
    division.close()
    return division.parts


class _Division:
    """A plan that is made from the first piece of the result to the last.

    It consists of the parts so far, and of the pieces that wait to become an uploaded part.
    """

    def __init__(self, limits: PartLimits, sizes: PartSizes) -> None:
        self.parts: list[Part] = []
        self._limits = limits
        self._upload_bytes = max(sizes.upload_bytes, limits.min_bytes)
        self._copy_bytes = sizes.copy_bytes
        self._offset = 0
        self._waiting: list[Piece] = []
        self._waiting_bytes = 0

    def rows_needed(self, piece: Piece) -> int:
        """Return how many rows of `piece` the waiting pieces need to become a part.

        None are needed where nothing waits, or where the waiting pieces can join the uploaded part before them.
        """
        if not self._waiting or self._part_to_join():
            return 0
        missing_bytes = max(0, self._limits.min_bytes - self._waiting_bytes)
        return min(-(-missing_bytes // piece.row_bytes), piece.rows)

    def upload(self, piece: Piece) -> None:
        """Let the piece wait, and make uploaded parts of what waits as soon as it is large enough."""
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
        """Make an uploaded part of what waits. Before a copied part and at the end of the result nothing may wait."""
        if not self._waiting:
            return
        pieces = tuple(self._waiting)
        if before := self._part_to_join():
            self.parts.pop()
            self._offset, pieces = before.offset, (*before.pieces, *pieces)
        self._add(UploadPart(self._offset, pieces, sum(piece.size for piece in pieces)))
        self._waiting, self._waiting_bytes = [], 0

    def _part_to_join(self) -> UploadPart | None:
        """Return the uploaded part that the waiting pieces can join, None where they are a part of their own.

        They join it when they are too small for a part, and when both together are not too large for one.
        """
        before = self.parts[-1] if self.parts else None
        if not isinstance(before, UploadPart) or self._waiting_bytes >= self._limits.min_bytes:
            return None
        return before if before.size + self._waiting_bytes <= self._limits.max_bytes else None

    def copy(self, piece: Piece) -> None:
        """Add the piece as copied parts of about the same size."""
        least = -(-self._limits.min_bytes // piece.row_bytes)
        wanted = -(-piece.rows // max(1, self._copy_bytes // piece.row_bytes))
        count = max(1, min(wanted, piece.rows // least))
        bounds = [i * piece.rows // count for i in range(count + 1)]
        for start, end in pairwise(bounds):
            self._add(CopyPart(self._offset, piece.part(start, end - start)))

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        self._offset += part.size
