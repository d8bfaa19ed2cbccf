"""Rows of WebDataset shards: each picture in a tar is a row. A chunk has whole shards, whose headers alone are read.

The worker reads no picture here. A row says where the picture's bytes lie, and a decoder reads them there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.logs import log
from worker.manifest.manifest_format import PICTURE_ENDINGS, check_content, compression_of
from worker.manifest.places.byte_source import HEAD_BYTES
from worker.manifest.places.http_source import HttpSource
from worker.manifest.raw_rows import RawRow, RowCount, chunk_range, spread_range
from worker.manifest.tar.shard import ChunkLimit, Shard, in_order
from worker.manifest.tar_header import BLOCK

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.tar.shard import Found

MAX_ROWS = 2_000_000
"""Largest number of pictures in a chunk, which is the largest number of rows in one (`worker.chunk_job`)."""

SAMPLED_SHARDS = 4
"""Number of evenly spread shards from which the number of rows is estimated and rows are shown."""

SAMPLED_BYTES = 16 << 20
"""Number of bytes of such a shard whose headers are read."""

NAMED_ENDINGS = 5
"""Number of endings that a sentence names."""


class TarRows:
    """The rows of shards, in the order of the shards and of their members."""

    columns = None
    has_ids = True

    def __init__(self, sources: Sequence[ByteSource], *, most_rows: int = MAX_ROWS) -> None:
        self._sources = sources
        self._most_rows = most_rows
        for source in sources:
            _check_ranges(source)

    def read(self, index: int, count: int) -> Iterator[Found]:
        share = chunk_range(len(self._sources), index=index, count=count)
        shards = self._sources[share.start : share.stop]
        limit = ChunkLimit(self._most_rows, shards)
        found = False
        for each in in_order([Shard(source, limit) for source in shards]):
            found = True
            yield each
        if limit.joined:
            log.info(
                "shards_of_several_tars",
                shards=len(limit.joined),
                example=next(iter(limit.joined)),
                message="another tar follows behind the end of the first, as cat writes them; its members are rows "
                "too (tar shows them with --ignore-zeros)",
            )
        if shards and not found:
            self._say_there_are_no_pictures(shards, limit.skipped, is_all=len(shards) == len(self._sources))

    def count_rows(self) -> RowCount:
        shards = self._sampled()
        rows = sampled_bytes = 0
        for source in shards:
            reached = min(source.size, SAMPLED_BYTES)
            for each in self._start_of(source):
                rows += each is not None
                if isinstance(each, RawRow) and each.held is not None:
                    reached = max(reached, each.held.offset + each.held.length)
            sampled_bytes += reached
        total_bytes = sum(source.size for source in self._sources)
        if sampled_bytes == total_bytes:
            return RowCount(rows, is_exact=True)
        return RowCount(round(total_bytes * rows / max(1, sampled_bytes)), is_exact=False)

    def spread(self, count: int) -> Iterator[Found]:
        shards = self._sampled()
        for number, source in enumerate(shards):
            rows = [each for each in self._start_of(source) if each is not None]
            share = len(chunk_range(count, index=number, count=len(shards)))
            for place in spread_range(len(rows), share):
                yield rows[place]

    def _sampled(self) -> list[ByteSource]:
        return [self._sources[place] for place in spread_range(len(self._sources), SAMPLED_SHARDS)]

    def _start_of(self, source: ByteSource) -> Iterator[Found | None]:
        """Yield the rows whose headers lie in the first SAMPLED_BYTES of a shard, and None for other members."""
        return Shard(source, ChunkLimit(self._most_rows, [source])).rows(until=SAMPLED_BYTES)

    def _say_there_are_no_pictures(self, shards: Sequence[ByteSource], skipped: Counter[str], *, is_all: bool) -> None:
        name = shards[0].name if len(shards) == 1 else f"{shards[0].name} and the {len(shards) - 1} shards after it"
        there = ", ".join(f"{number:,} {ending}" for ending, number in skipped.most_common(NAMED_ENDINGS))
        message = (
            f"{name}: no member is a picture by its ending ({there or 'there are no files'}); pictures end in "
            f"{', '.join(sorted(PICTURE_ENDINGS))}"
        )
        if is_all:
            raise ManifestError(message)
        log.warning("shards_without_pictures", message=message)


def more_chunks_than_shards(shards: int, chunks: int) -> str:
    """Return what to say of a run with more chunks than shards."""
    return (
        f"shards are not divided, so {chunks - shards} of {chunks} chunks have no image; set EMBEDDER_CHUNK_COUNT to "
        f"{shards} at most"
    )


def check_shards(shards: Sequence[ByteSource]) -> None:
    """Raise ManifestError when the first shard shows that none can be read. A damaged one among others is a row."""
    first = shards[0]
    start = first.read(0, min(BLOCK, first.size))
    if len(shards) == 1 or compression_of(start):
        check_content(first, "tar")


def _check_ranges(source: ByteSource) -> None:
    if isinstance(source, HttpSource) and not source.has_ranges and source.size > HEAD_BYTES:
        source.close()
        raise ManifestError(
            f"{source.name}: its server ignores Range, so a picture in it cannot be read without all bytes before it; "
            "download the shards to a volume first, or put them on S3 or on a server with range requests"
        )
