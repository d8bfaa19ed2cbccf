"""Reads the images that lie at ranges of the manifest's files, for files that no decoder may read by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.manifest.places.byte_source import BLOCK_BYTES
from worker.manifest.read_ahead import Piece, ReadAhead, pieces
from worker.rows import length_fault

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from worker.manifest.places.byte_source import ByteSource
    from worker.rows import ByteRange, ImageContent, ImageFailed


def read_ranges(
    sources: Mapping[str, ByteSource], ranges: Sequence[ByteRange], *, max_bytes: int
) -> Generator[ImageContent | ImageFailed]:
    """Yield the image at each range, or the reason why there is none.

    `sources` are the files by their `uri`. Neighbours in a file are read together, and an image with more than
    `max_bytes` is not read. Raises as `ByteSource.read`.
    """
    wanted = ((sources[held.uri], held) for held in ranges if 0 < held.length <= max_bytes)
    with ReadAhead(_joined(wanted)) as ahead:
        for held in ranges:
            fault = length_fault(held.length, max_bytes=max_bytes)
            yield fault or ahead.read(sources[held.uri], held.offset, held.length)


def _joined(ranges: Iterable[tuple[ByteSource, ByteRange]]) -> Iterator[Piece]:
    """Yield pieces that hold the ranges. Ranges that follow each other closely share a piece."""
    open_piece: Piece | None = None
    for source, held in ranges:
        end = held.offset + held.length
        if open_piece is not None:
            is_near = open_piece.source is source and open_piece.start <= held.offset
            if is_near and end - open_piece.start <= BLOCK_BYTES:
                open_piece = open_piece._replace(end=max(open_piece.end, end))
                continue
            yield open_piece
        *before, open_piece = pieces(source, held.offset, end)
        yield from before
    if open_piece is not None:
        yield open_piece
