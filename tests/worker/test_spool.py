"""The spool: images on their way from the manifest to the decoders, in temporary files of a bounded size."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ResourceExhausted, SourceUnavailable
from common.format.reasons import Reason
from worker.rows import ImageFailed
from worker.spool import FILE_BYTES, MOST_IMAGES, Spool

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterable

    from worker.rows import ByteRange, ImageContent

SECONDS = 20
"""Longest time of a test's event loop, in seconds."""


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def bytes_on(disk: Path) -> int:
    return sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())


def content_of(place: ByteRange) -> bytes:
    with Path(place.uri).open("rb") as file:
        file.seek(place.offset)
        return file.read(place.length)


def picture(position: int, size: int = 1000) -> bytes:
    return position.to_bytes(4, "big") * (size // 4)


class Pictures:
    """Pictures that are read one after the other, and how many have been read."""

    def __init__(self, found: Iterable[tuple[int, ImageContent | ImageFailed]], *, error: Exception | None = None):
        self._found, self._error = found, error
        self.read = 0
        self.is_closed = threading.Event()

    def __call__(self) -> Generator[tuple[int, ImageContent | ImageFailed]]:
        try:
            for position, content in self._found:
                self.read += 1
                yield position, content
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed.set()


def many(count: int, size: int = 1000) -> Pictures:
    return Pictures((position, picture(position, size)) for position in range(count))


async def settled(pictures: Pictures, count: int) -> int:
    """Wait until no more pictures are read, and return how many were."""
    while pictures.read < count:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    return pictures.read


def run(spool: Spool, steps: Coroutine[object, object, None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(steps, SECONDS)

    with spool:
        asyncio.run(limited())


def test_every_row_gets_its_own_picture_until_it_is_settled(disk: Path) -> None:
    spool = Spool(many(50)())

    async def steps() -> None:
        places = {position: await spool.get(position) for position in (3, 0, 49, 20)}
        assert places[3] == await spool.get(3)  # the decoder died, and the row is begun again
        assert {position: content_of(place) for position, place in places.items()} == {
            position: picture(position) for position in places
        }
        for position in range(50):
            spool.release(position)
        assert bytes_on(disk) == 0

    run(spool, steps())
    assert list(disk.iterdir()) == []


def test_the_disk_holds_no_more_than_the_room_however_many_pictures_follow(disk: Path) -> None:
    pictures = many(1000, size=10_000)
    spool = Spool(pictures(), most_bytes=100_000)

    async def steps() -> None:
        assert await settled(pictures, 11) == 11  # ten are on the disk, and one waits in memory
        assert bytes_on(disk) == 100_000
        for position in range(1000):
            assert content_of(await spool.get(position)) == picture(position, 10_000)
            assert bytes_on(disk) <= 110_000
            spool.release(position)

    run(spool, steps())
    assert pictures.is_closed.is_set()


def test_a_picture_larger_than_the_room_is_written_when_no_other_one_is_there(disk: Path) -> None:
    spool = Spool(many(3, size=50_000)(), most_bytes=10_000)

    async def steps() -> None:
        for position in range(3):
            assert content_of(await spool.get(position)) == picture(position, 50_000)
            assert bytes_on(disk) == 50_000
            spool.release(position)

    run(spool, steps())


def test_a_row_far_ahead_waits_while_rows_that_have_their_pictures_are_under_way() -> None:
    pictures = many(100, size=10_000)
    spool = Spool(pictures(), most_bytes=50_000)

    async def steps() -> None:
        await spool.get(0)
        far = asyncio.ensure_future(spool.get(60))
        assert await settled(pictures, 6) == 6
        assert not far.done()
        spool.release(0)
        # No row has its picture now, and those on the disk belong to rows that may wait for row 60.
        assert content_of(await far) == picture(60, 10_000)
        assert content_of(await spool.get(1)) == picture(1, 10_000)

    run(spool, steps())


def test_rows_that_another_source_has_settled_need_no_room(disk: Path) -> None:
    pictures = many(300, size=10_000)
    spool = Spool(pictures(), most_bytes=50_000)

    async def steps() -> None:
        for position in range(299):
            spool.release(position)
        assert content_of(await spool.get(299)) == picture(299, 10_000)
        assert bytes_on(disk) == 10_000

    run(spool, steps())


def test_rows_without_pictures_fail_alone_and_are_not_read_ahead_without_end() -> None:
    failed = ImageFailed(Reason.NO_SOURCE, "the row has no bytes")
    pictures = Pictures((position, failed) for position in range(3 * MOST_IMAGES))
    spool = Spool(pictures())

    async def steps() -> None:
        assert await settled(pictures, MOST_IMAGES + 1) == MOST_IMAGES + 1
        for position in range(3 * MOST_IMAGES):
            with pytest.raises(ImageFailed, match="the row has no bytes"):
                await spool.get(position)
            spool.release(position)

    run(spool, steps())


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_of_the_source_reaches_whoever_waits_and_whoever_comes_later(*, ahead: bool) -> None:
    broken = SourceUnavailable("the server is gone")
    spool = Spool(Pictures([(0, picture(0))], error=broken)())

    async def steps() -> None:
        if not ahead:
            await asyncio.sleep(0.1)
        with pytest.raises(SourceUnavailable, match="the server is gone"):
            await spool.get(1)
        assert content_of(await spool.get(0)) == picture(0)

    run(spool, steps())


def test_a_file_that_cannot_be_written_ends_the_chunk_with_what_helps() -> None:
    spool = Spool(many(1, size=2 * FILE_BYTES)())
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, before[1]))
    try:
        with spool, pytest.raises(ResourceExhausted, match="raise the limit of a file's size"):
            asyncio.run(spool.get(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_end_of_the_chunk_ends_the_thread_and_removes_the_files(disk: Path) -> None:
    pictures = many(1000, size=10_000)
    with Spool(pictures(), most_bytes=50_000):
        while pictures.read < 5:
            time.sleep(0.01)
    assert pictures.is_closed.wait(SECONDS)
    assert list(disk.iterdir()) == []


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), room=st.integers(1, 40), under_way=st.integers(1, 60), skipped=st.floats(0, 0.9))
def test_no_order_of_rows_stops_the_reading(seed: int, room: int, under_way: int, skipped: float) -> None:
    """Rows begin in any order within a window, some never ask, some ask twice, and all are settled."""
    draw = random.Random(seed)
    count = 200
    spool = Spool(many(count)(), most_bytes=1000 * room)

    async def one(position: int, turn: asyncio.Semaphore) -> None:
        async with turn:
            if draw.random() < skipped:
                await asyncio.sleep(0)
            else:
                assert content_of(await spool.get(position)) == picture(position)
                if draw.random() < 0.1:
                    await asyncio.sleep(0.002)
                    assert content_of(await spool.get(position)) == picture(position)
            spool.release(position)

    async def steps() -> None:
        turn = asyncio.Semaphore(under_way)
        order = sorted(range(count), key=lambda position: position + draw.random() * under_way * 2)
        await asyncio.gather(*(one(position, turn) for position in order))

    run(spool, steps())
