"""The worker's event loop with decoders that do nothing, so that its own steps can be measured."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from worker.decoders.decoders import Decoders
from worker.decoders.settings import decoder_settings
from worker.fetch.image_fetcher import ImageFetcher
from worker.fetch.relayed_proxies import RelayedProxies
from worker.rows import Row
from worker.settings import DecodeSettings, FetchSettings, HttpSettings
from worker.square_maker import SquareMaker
from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from worker.decoders.job import Job

DECODERS = 2

MOST_UNDER_WAY = 1024
"""Number of rows that are begun and not settled, as with the default of 64 requests in flight."""

SHARE_BEFORE = 0.25
"""Share of the rows after which the measurement begins: the site is no new one then, and the decoders have started."""

ADDRESSES = ["93.184.215.14", "93.184.215.15", "93.184.215.16", "2606:2800:21f::1"]
"""The addresses of every host: as many as a large site's name has, all public. Nothing is sent to them."""

S3_ENVIRONMENT = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "no secret",
    "AWS_REGION": "us-east-1",
}
"""An S3 server for which URLs are signed. Nobody asks it."""


class Kind(NamedTuple):
    """What the rows of a list are."""

    url: str
    """The URL of the row `number`."""
    sources: tuple[str, ...] = ("url",)
    allows_private_hosts: bool = False


KINDS = {
    "private": Kind("https://127.0.0.1:8443/{number:016x}.jpg", allows_private_hosts=True),
    "public": Kind("https://photos.example.com/{number:016x}.jpg"),
    "s3": Kind("s3://photos/{number:016x}.jpg"),
    "open-images": Kind("https://farm1.staticflickr.com/{number}_o.jpg", ("mirror", "thumbnail", "original")),
}


class _Resolver:
    async def resolve(self, host: str) -> list[str]:  # noqa: ARG002 - all hosts have the same addresses
        return ADDRESSES

    async def close(self) -> None:
        pass


class _Slots:
    """The slots of a memory for squares that nobody writes. A slot is free again as soon as its square is there."""

    slot_count = 1024
    image_size = 224

    def __init__(self) -> None:
        self._free = list(range(self.slot_count))

    def take_slot(self) -> int | None:
        return self._free.pop() if self._free else None

    def return_slot(self, slot: int) -> None:
        self._free.append(slot)


class _Meter:
    """Reads the CPU time of its thread when enough rows are settled, and when all are."""

    def __init__(self, count: int) -> None:
        self._first, self._last = int(count * SHARE_BEFORE), count
        self._settled = 0
        self._began = self._ended = 0.0

    def note_settled(self) -> None:
        self._settled += 1
        if self._settled == self._first:
            self._began = time.thread_time()
        if self._settled == self._last:
            self._ended = time.thread_time()

    @property
    def milliseconds(self) -> float:
        """The CPU time of a row."""
        return (self._ended - self._began) / (self._last - self._first) * 1000


def cpu_milliseconds(kind_name: str, count: int) -> float:
    """Return the CPU time in ms that the event loop takes for an image of a list of `count` rows."""
    kind = KINDS[kind_name]
    if kind_name == "s3":
        os.environ |= S3_ENVIRONMENT
    fetch, http, decode = FetchSettings(allow_private_hosts=kind.allows_private_hosts), HttpSettings(), DecodeSettings()
    rows = [
        Row(number, kind.url.format(number=number), f"{number:016x}", "train", "https://c1.staticflickr.com/z.jpg")
        for number in range(count)
    ]
    meter, slots, times = _Meter(count), _Slots(), StageTimes(decode_threads=DECODERS)

    def put(_: int, slot: int) -> None:
        slots.return_slot(slot)
        meter.note_settled()

    def fail(position: int, failed: Exception) -> None:
        raise RuntimeError(f"row {position} has failed: {failed}")

    async def run(decoders: Decoders, proxies: RelayedProxies) -> None:
        fetcher: ImageFetcher[Job] = ImageFetcher(
            decoders,
            fetch,
            http,
            inflight_bytes=decode.inflight_bytes,
            sources=kind.sources,
            folder=None,
            proxies=proxies,
            resolver=_Resolver(),
            times=times,
        )
        with decoders.listening() as failed:
            decoders.open_room(slots)
            async with fetcher:
                maker = SquareMaker(
                    fetcher, rows, most_under_way=MOST_UNDER_WAY, put=put, fail=fail, end=failed.set_exception
                )
                settling = asyncio.ensure_future(maker.settle_all())
                await asyncio.wait([settling, failed], return_when=asyncio.FIRST_COMPLETED)
                if failed.done():
                    failed.result()
                await settling

    with (
        closing(RelayedProxies(connect_timeout_seconds=http.connect_timeout_seconds)) as proxies,
        closing(
            Decoders(DECODERS, decoder_settings(http, fetch, decode), times=times, server="benchmarks.idle_decoders")
        ) as decoders,
    ):
        asyncio.run(run(decoders, proxies))
    return meter.milliseconds
