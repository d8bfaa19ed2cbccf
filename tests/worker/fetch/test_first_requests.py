"""The first request for an image, which is made at once where nothing has to be waited for."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from common.format.reasons import Reason
from tests.image_server import ImageServer, answer, image_server, partly, redirect
from tests.worker.fetch.fetching import PICTURE, get, image_fetcher, worker_settings
from worker.fetch.image_fetcher import ImageFetcher
from worker.fetch.image_url import MAX_URL_CHARS
from worker.fetch.pace import KNOWN_GOOD_ANSWERS
from worker.fetch.public_address import is_public_address
from worker.fetch.relayed_proxies import RelayedProxies
from worker.fetch.transport import Answered, Broken
from worker.rows import ImageFailed, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.worker.fetch.thread_transport import Image
    from worker.fetch.byte_budget import Reservation
    from worker.fetch.transport import Get, ReadFile

MIB = 1 << 20

OUTCOMES: dict[str, tuple[Callable[[ImageServer], str], bytes | Reason]] = {
    "image": (lambda server: server.on("/image", answer(PICTURE)), PICTURE),
    "redirect": (lambda server: server.on("/moved", redirect(server.on("/there", answer(PICTURE)))), PICTURE),
    "missing": (lambda server: server.url("/missing"), Reason.NOT_FOUND),
    "forbidden": (lambda server: server.on("/forbidden", answer(status=403)), Reason.RATE_LIMITED),
    "server error": (lambda server: server.on("/error", answer(status=500)), Reason.SERVER_ERROR),
    "half a body": (lambda server: server.on("/half", partly(b"half", announced=MIB)), Reason.CONNECTION_FAILED),
    "large body": (lambda server: server.on("/large", answer(bytes(MIB))), bytes(MIB)),
}


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_it_is_made_once_and_leaves_nothing_behind(server: ImageServer, outcome: str) -> None:
    make, expected = OUTCOMES[outcome]
    url, good = make(server), server.on("/good", answer(PICTURE))

    async def run() -> None:
        async with image_fetcher(worker_settings(max_inflight_bytes=MIB)) as fetcher:
            for _ in range(KNOWN_GOOD_ANSWERS):
                assert await get(fetcher, good) == PICTURE
            # More often than the budget of bytes would allow if any were kept.
            for number in range(1, 9):
                assert await get(fetcher, url) == expected
                assert [request.path for request in server.requests].count(f"/{url.rpartition('/')[2]}") == number
                assert fetcher.in_flight == 0
                assert await get(fetcher, good) == PICTURE

    asyncio.run(run())


def test_it_is_abandoned_with_its_task(server: ImageServer) -> None:
    stalled = server.on("/stalled", partly(b"half", announced=MIB, then="stall"))
    good = server.on("/good", answer(bytes(MIB)))

    async def run() -> None:
        async with image_fetcher(worker_settings(max_inflight_bytes=MIB, fetch_concurrency=2)) as fetcher:
            for _ in range(KNOWN_GOOD_ANSWERS):
                assert await get(fetcher, good) == bytes(MIB)
            before = len(server.requests)
            tasks = [asyncio.create_task(get(fetcher, stalled)) for _ in range(2)]
            while len(server.requests) == before:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [*map(type, ended)] == [asyncio.CancelledError] * 2
            assert fetcher.in_flight == 0
            assert await get(fetcher, good) == bytes(MIB)

    asyncio.run(run())


def test_a_url_that_is_too_long_for_a_decoder_is_not_requested(server: ImageServer) -> None:
    good = server.on("/good", answer(PICTURE))
    row = Row(0, good, thumbnail=f"{server.url('/')}{'a' * MAX_URL_CHARS}")

    async def run() -> None:
        async with image_fetcher(worker_settings(), sources=("thumbnail",)) as fetcher:
            for _ in range(KNOWN_GOOD_ANSWERS):
                await get(fetcher, Row(0, good, thumbnail=good))
            before = len(server.requests)
            assert await get(fetcher, row) == Reason.INVALID_URL
            assert len(server.requests) == before

    asyncio.run(run())


class _NoImages:
    """A transport whose servers have no images."""

    def __init__(self) -> None:
        self.orders: list[Get] = []

    async def get(self, order: Get, reservation: Reservation | None) -> Answered:  # noqa: ARG002 - the protocol's
        self.orders.append(order)
        return Answered(404, "", "", 0)

    async def read(self, order: ReadFile, reservation: Reservation) -> Broken:
        raise NotImplementedError


class _Resolver:
    def __init__(self, addresses: dict[str, list[str]]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str) -> list[str]:
        return self._addresses[host]

    async def close(self) -> None:
        pass


def _fetch_rows(urls: list[str], addresses: dict[str, list[str]]) -> tuple[list[Get], list[Reason]]:
    """Fetch images that no server has, from hosts with these addresses. Return the orders and the rows' reasons."""
    settings, transport, reasons = worker_settings(allow_private_hosts=False), _NoImages(), []

    async def run() -> None:
        with closing(RelayedProxies(connect_timeout_seconds=5)) as proxies:
            fetcher: ImageFetcher[Image] = ImageFetcher(
                transport,
                settings.fetch,
                settings.http,
                inflight_bytes=MIB,
                sources=("url",),
                folder=None,
                proxies=proxies,
                resolver=_Resolver(addresses),
            )
            async with fetcher:
                for number, url in enumerate(urls):
                    with pytest.raises(ImageFailed) as caught:
                        await fetcher.fetch(Row(number, url))
                    reasons.append(caught.value.reason)

    asyncio.run(run())
    return transport.orders, reasons


def test_the_addresses_of_a_host_are_judged_once_for_all_its_images() -> None:
    addresses = ["93.184.215.14", "2606:2800:21f::1"]
    is_public_address.cache_clear()
    urls = [f"https://photos.example.com/{number}.jpg" for number in range(100)]
    orders, reasons = _fetch_rows(urls, {"photos.example.com": addresses})
    assert reasons == [Reason.NOT_FOUND] * 100
    assert {order.addresses for order in orders} == {tuple(addresses)}
    assert all(order.is_guarded for order in orders)
    # To judge four addresses takes longer than all else that the event loop does for an image.
    assert is_public_address.cache_info().misses == len(addresses)


def test_no_image_is_requested_from_a_private_address_of_a_site_that_is_known() -> None:
    public = [f"https://photos.example.com/{number}.jpg" for number in range(KNOWN_GOOD_ANSWERS)]
    private = [f"https://inside.example.com/{number}.jpg" for number in range(3)]
    addresses = {"photos.example.com": ["93.184.215.14"], "inside.example.com": ["93.184.215.14", "10.0.0.1"]}
    orders, reasons = _fetch_rows(public + private, addresses)
    assert reasons == [Reason.NOT_FOUND] * len(public) + [Reason.FORBIDDEN_HOST] * len(private)
    assert [order.url for order in orders] == public
