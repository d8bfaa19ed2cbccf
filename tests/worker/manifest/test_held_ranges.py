"""Images at ranges of files that only the worker can read: read in order, in large pieces, and no more than needed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import SourceUnavailable
from common.format.reasons import Reason
from tests.worker.manifest.test_parquet_files import MemorySource
from worker.manifest.held_ranges import read_ranges
from worker.manifest.places.byte_source import BLOCK_BYTES
from worker.rows import ByteRange, ImageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence


def images_of(
    sources: Sequence[MemorySource], ranges: Sequence[ByteRange], *, max_bytes: int = 1 << 30
) -> list[bytes | Reason]:
    found = read_ranges({source.uri: source for source in sources}, ranges, max_bytes=max_bytes)
    return [image.reason if isinstance(image, ImageFailed) else bytes(image) for image in found]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_each_range_is_read_whatever_their_order(data: st.DataObject) -> None:
    sources = [MemorySource(os.urandom(3000), str(number)) for number in range(3)]
    place = st.tuples(st.integers(0, 2), st.integers(0, 3000), st.integers(0, 400))
    ranges = [
        ByteRange(sources[number].uri, start, min(length, 3000 - start))
        for number, start, length in data.draw(st.lists(place, max_size=20))
    ]
    by_uri = {source.uri: source for source in sources}
    assert images_of(sources, ranges) == [
        by_uri[uri].content[start : start + length] if length else Reason.NOT_AN_IMAGE
        for uri, start, length, _ in ranges
    ]


def test_neighbours_are_read_together_and_each_byte_once() -> None:
    source = MemorySource(os.urandom(3 * BLOCK_BYTES))
    size = 100_000
    ranges = [ByteRange(source.uri, start + 512, size - 512) for start in range(0, source.size - size, size)]
    assert images_of([source], ranges) == [source.content[each.offset : each.offset + each.length] for each in ranges]
    assert len(source.reads) <= 4
    assert source.bytes_read <= source.size


def test_large_images_are_read_in_pieces_and_too_large_ones_not_at_all() -> None:
    source = MemorySource(os.urandom(4 * BLOCK_BYTES))
    large, too_large = ByteRange(source.uri, 10, 2 * BLOCK_BYTES + 5), ByteRange(source.uri, 100, 3 * BLOCK_BYTES)
    last = ByteRange(source.uri, source.size - 10, 10)
    found = images_of([source], [large, too_large, last], max_bytes=3 * BLOCK_BYTES - 1)
    assert found == [source.content[10 : large.length + 10], Reason.TOO_LARGE, source.content[-10:]]
    assert max(length for _, length in source.reads) <= BLOCK_BYTES
    assert source.bytes_read <= large.length + BLOCK_BYTES


def test_many_small_files_are_read_at_the_same_time() -> None:
    sources = [MemorySource(os.urandom(1000), str(number), seconds=0.05) for number in range(200)]
    for source in sources:
        source.is_direct = False
    began = time.monotonic()
    assert images_of(sources, [ByteRange(source.uri, 0, 1000) for source in sources]) == [
        source.content for source in sources
    ]
    assert time.monotonic() - began < 5  # one after the other takes 10 s


def test_a_source_that_only_the_worker_reads_gives_one_piece_after_the_other() -> None:
    source = MemorySource(os.urandom(5 * BLOCK_BYTES), seconds=0.02)
    source.is_direct = False
    size = BLOCK_BYTES // 3
    ranges = [ByteRange(source.uri, start, size) for start in range(0, source.size - size, size)]
    assert images_of([source], ranges) == [source.content[each.offset : each.offset + size] for each in ranges]
    assert source.reads == sorted(source.reads)
    assert source.most_at_once == 1


def test_a_source_that_is_gone_is_told() -> None:
    source = MemorySource(b"x" * 100)
    source.error = SourceUnavailable("no answer")
    with pytest.raises(SourceUnavailable, match="no answer"):
        images_of([source], [ByteRange(source.uri, 0, 10)])
