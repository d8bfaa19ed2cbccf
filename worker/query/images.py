"""Single images for people who wait: each is fetched and decoded as a worker does it, with less patience."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from common.errors import QueryRefused
from common.format.reasons import REASON_HELP, Reason
from worker.decode.picture import picture_of_slot
from worker.decoders.decoders import error_of
from worker.decoders.job import Lost
from worker.decoders.large_images import LargeImages
from worker.fetch.image_fetcher import ImageFetcher
from worker.fetch.must_wait import MustWait
from worker.fetch.patience import Patience
from worker.query.picture_files import PictureFiles
from worker.query.picture_places import find_place
from worker.rows import ByteRange, ImageFailed, Row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from worker.decoders.decoders import Decoders
    from worker.decoders.job import Job
    from worker.fetch.byte_budget import Reservation
    from worker.fetch.fetched import Fetched
    from worker.fetch.relayed_proxies import RelayedProxies
    from worker.fetch.transport import Answered, Broken, Get, ReadFile
    from worker.query.picture_places import PicturePlace
    from worker.settings import DecodeSettings, FetchSettings, HttpSettings

Made = TypeVar("Made")

ROOM_SIDE = 1024
"""Side in pixels of the squares for which a slot has room, and the longest side of a picture."""

PATIENCE = Patience(attempts=2, host_seconds=5.0, request_seconds=20.0)
"""For how long an image is tried while somebody waits."""


class _Wanted(NamedTuple):
    """What a decoder is to make of an image."""

    square_size: int = 0
    picture_side: int = 0


class _Transport:
    """The decoders, with orders for what is wanted."""

    def __init__(self, decoders: Decoders, wanted: _Wanted) -> None:
        self._decoders, self._wanted = decoders, wanted._asdict()

    async def get(self, order: Get, reservation: Reservation | None) -> Job | Answered | Broken:
        return await self._decoders.get(order._replace(**self._wanted), reservation)

    async def read(self, order: ReadFile, reservation: Reservation) -> Job | Broken:
        return await self._decoders.read(order._replace(**self._wanted), reservation)


class _Room:
    """Slots in the memory that the decoders write to. A slot is free again as soon as it is read."""

    image_size = ROOM_SIDE

    def __init__(self, slot_count: int, *, descriptor: int) -> None:
        self.slot_count = slot_count
        os.ftruncate(descriptor, slot_count * ROOM_SIDE * ROOM_SIDE * 3)
        self._memory: NDArray[np.uint8] = np.memmap(
            os.fdopen(os.dup(descriptor), "r+b"), np.uint8, shape=(slot_count, 3 * ROOM_SIDE**2)
        )
        self._free = list(range(slot_count))

    def take_slot(self) -> int | None:
        return self._free.pop() if self._free else None

    def return_slot(self, slot: int) -> None:
        self._free.append(slot)

    def content(self, slot: int) -> NDArray[np.uint8]:
        """Return the bytes of a slot."""
        content: NDArray[np.uint8] = self._memory[slot]
        return content


class QueryImages:
    """Makes squares and pictures of images. For one event loop, within `decoders.listening`."""

    def __init__(
        self,
        decoders: Decoders,
        *,
        proxies: RelayedProxies,
        fetch: FetchSettings,
        http: HttpSettings,
        decode: DecodeSettings,
    ) -> None:
        self._decoders, self._proxies = decoders, proxies
        self._fetch, self._http = PATIENCE.shorten(fetch, http)
        self._inflight_bytes = decode.inflight_bytes
        self._room = _Room(decoders.spare_slots, descriptor=decoders.squares)
        self._fetchers: dict[tuple[_Wanted, Path | None], ImageFetcher[Job]] = {}
        self._large = LargeImages()
        self._files = PictureFiles(max_image_bytes=fetch.max_image_bytes)
        decoders.open_room(self._room)

    def close(self) -> None:
        """End the thread that looks into files."""
        self._files.close()

    async def square_of_bytes(self, data: bytes, *, size: int) -> NDArray[np.uint8]:
        """Return the square of an image's file, uint8 (size, size, 3). Raises QueryRefused."""
        with _row_of_bytes(data) as row:
            return await self._square(row, size=size, folder=None)

    async def square_of_url(self, url: str, *, size: int) -> NDArray[np.uint8]:
        """Return the square of the image at a URL, uint8 (size, size, 3). Raises QueryRefused."""
        if (place := find_place(url)) is not None:
            raise _not_fetched(place, "give the picture's own file or URL")
        return await self._square(Row(0, url), size=size, folder=None)

    async def picture(self, url: str, *, side: int, folder: Path | None) -> bytes:
        """Return a small JPEG of the image at a URL. Raises QueryRefused.

        Paths of local files start in `folder`; if it is None, no local file is read. A picture inside a tar or a
        Parquet file is read from the file of this name in the folder, also where the result names a remote file.
        """
        wanted = _Wanted(picture_side=max(1, min(side, ROOM_SIDE)))

        async def made(row: Row) -> bytes:
            return await self._made(row, wanted, folder=folder, read=picture_of_slot)

        with _refusals():
            found = await self._found_in_file(url, folder)
            if isinstance(found, ByteRange):
                return await made(Row(0, url, held=found))
            if found is None:
                try:
                    return await made(Row(0, url))
                except ImageFailed as failed:
                    is_absent = failed.reason in {Reason.NOT_FOUND, Reason.INVALID_URL}
                    if not is_absent or folder is None or "://" in url:
                        raise
                    found = await self._files.find_named(url, folder)
                    if found is None:
                        raise
            with _row_of_bytes(found) as row:
                return await made(row)

    async def _found_in_file(self, url: str, folder: Path | None) -> ByteRange | bytes | None:
        """Return where a picture lies inside a file of the folder, or its bytes. None: the URL is that of a picture."""
        place = find_place(url)
        if place is None:
            return None
        if folder is None:
            raise _not_fetched(place, "--images FOLDER shows it, where FOLDER holds a local copy of that file")
        return await self._files.find(place, folder)

    async def _square(self, row: Row, *, size: int, folder: Path | None) -> NDArray[np.uint8]:
        if size > ROOM_SIDE:
            raise QueryRefused(f"the model takes squares of {size} pixels, and images of at most {ROOM_SIDE} are made")

        def read(slot: NDArray[np.uint8]) -> NDArray[np.uint8]:
            return slot[: 3 * size**2].reshape(size, size, 3).copy()

        with _refusals():
            return await self._made(row, _Wanted(square_size=size), folder=folder, read=read)

    async def _made(
        self, row: Row, wanted: _Wanted, *, folder: Path | None, read: Callable[[NDArray[np.uint8]], Made]
    ) -> Made:
        slot = await self._slot(row, self._fetcher(wanted, folder))
        try:
            return read(self._room.content(slot))
        finally:
            self._room.return_slot(slot)
            self._decoders.give_slots()

    def _fetcher(self, wanted: _Wanted, folder: Path | None) -> ImageFetcher[Job]:
        """Return the fetcher for what is wanted. It remembers which sites ask for fewer requests."""
        fetcher = self._fetchers.get((wanted, folder))
        if fetcher is None:
            fetcher = self._fetchers[wanted, folder] = ImageFetcher(
                _Transport(self._decoders, wanted),
                self._fetch,
                self._http,
                inflight_bytes=self._inflight_bytes,
                sources=("url",),
                folder=folder,
                proxies=self._proxies,
                # No chunk ends here because of a host that answers 5xx.
                errors_are_answers=True,
            )
        return fetcher

    async def _slot(self, row: Row, fetcher: ImageFetcher[Job]) -> int:
        """Return the slot with what was wanted. An image whose decoder dies is tried once more."""
        losses = 0
        while True:
            try:
                return await self._decoded(await _in_turn(lambda: fetcher.fetch(row)))
            except Lost as lost:
                losses += 1
                if losses >= PATIENCE.attempts:
                    raise error_of(lost) from lost

    async def _decoded(self, fetched: Fetched[Job]) -> int:
        try:
            return await self._large.slot_of(fetched.image)
        finally:
            fetched.release()


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise the failure of an image as QueryRefused."""
    try:
        yield
    except ImageFailed as failed:
        detail = failed.detail.removeprefix("url: ").removeprefix("bytes: ").removeprefix(f"{failed.reason} ")
        raise QueryRefused(f"{failed.reason} ({detail}): {REASON_HELP[failed.reason]}") from failed


def _not_fetched(place: PicturePlace, remedy: str) -> QueryRefused:
    kind = "the shard" if place.kind == "tar" else "the Parquet file"
    return QueryRefused(f"the picture lies in {kind} {place.name}, which is not fetched for one picture; {remedy}")


@contextmanager
def _row_of_bytes(data: bytes) -> Iterator[Row]:
    """Yield a row whose image is `data`: a decoder reads files and URLs, and its messages have no room for an image."""
    with tempfile.NamedTemporaryFile(prefix="embedder-query-") as file:
        file.write(data)
        file.flush()
        yield Row(0, "", held=ByteRange(file.name, 0, len(data)))


async def _in_turn(fetch: Callable[[], Awaitable[Fetched[Job]]]) -> Fetched[Job]:
    """Return what is fetched, for which a site may have to be waited for. Raises QueryRefused where that takes long."""
    until = time.monotonic() + PATIENCE.host_seconds
    while True:
        try:
            return await fetch()
        except MustWait as wait:
            if wait.forbidden is not None:
                raise wait.forbidden from wait
            pause = max(0.25, wait.site.wait_seconds(time.monotonic()))
            if wait.refusal is not None:
                pause = max(pause, wait.refusal.retry_after_seconds)
            if time.monotonic() + pause > until:
                raise QueryRefused(f"rate_limited: {wait.site.name} asks for fewer requests; try again later") from wait
            await asyncio.sleep(pause)
