"""URLs of objects are signed many at a time, and each signature is used once and soon."""

from __future__ import annotations

import asyncio
import calendar
import threading
import time
from typing import TYPE_CHECKING

import pytest

from common.store.s3.client import clear_clients
from tests.worker.fetch.fetching import image_fetcher, worker_settings
from worker.fetch import object_urls
from worker.fetch.object_urls import ObjectUrls
from worker.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST, *OTHERS = (f"s3://photos/{name}" for name in ("first.jpg", "a.jpg", "b c.jpg"))
NOT_SIGNED = ["https://a.example/a.jpg", "s3://photos/", "s3://", "", "s3://\u24d0bucket/a.jpg", "s3://other/a.jpg"]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr/secret+KEY")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    clear_clients()
    yield
    clear_clients()


async def signed_ahead() -> tuple[ObjectUrls, float]:
    """Return URLs that were signed ahead, and when: the next signatures differ, because their second is another one."""
    urls = ObjectUrls()
    urls.sign_ahead(OTHERS)  # nothing is loaded yet, so nothing is signed
    await urls.sign(FIRST)
    urls.sign_ahead([*NOT_SIGNED, *OTHERS])
    signed_at = time.time()
    await asyncio.sleep(1.1)
    return urls, signed_at


def age(url: str, *, signed_at: float) -> float:
    """Return the number of seconds between two signatures."""
    moment = url.partition("X-Amz-Date=")[2].partition("&")[0]
    return calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ")) - signed_at


def test_a_url_that_was_signed_ahead_stays_until_it_is_used() -> None:
    async def run() -> None:
        urls, signed_at = await signed_ahead()
        for text in OTHERS:
            first = urls.signed_ahead(text)
            assert first is not None
            name = text.removeprefix("s3://").replace(" ", "%20")
            assert first.text.partition("?")[0] == f"http://127.0.0.1:9000/{name}"
            assert age(first.text, signed_at=signed_at) < 0.1
            # A row whose request cannot be made at once asks again.
            assert urls.signed_ahead(text) == first
            urls.forget_ahead(text)
            assert urls.signed_ahead(text) is None
            assert age((await urls.sign(text)).text, signed_at=signed_at) > 0.1

    asyncio.run(run())


def test_a_signature_that_waited_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        urls, signed_at = await signed_ahead()
        monkeypatch.setattr(object_urls, "AHEAD_SECONDS", 1)
        assert urls.signed_ahead(OTHERS[0]) is None
        assert age((await urls.sign(OTHERS[0])).text, signed_at=signed_at) > 0.1

    asyncio.run(run())


def test_the_first_url_of_a_bucket_is_signed_in_a_thread_and_the_others_after_it() -> None:
    async def run() -> int:
        urls = ObjectUrls()
        started: list[str] = []
        threading.setprofile(lambda *_: started.append(threading.current_thread().name))
        try:
            signed = await asyncio.gather(*(urls.sign(f"s3://photos/{number}.jpg") for number in range(100)))
        finally:
            threading.setprofile(None)
        assert [url.name for url in signed] == [f"{number}.jpg" for number in range(100)]
        return len(set(started))

    assert asyncio.run(run()) <= 2  # one to load the SDK, one to sign


def test_the_rows_of_a_bucket_wait_as_rows_once_its_server_is_known() -> None:
    rows = [Row(number, f"s3://photos/{number}.jpg") for number in range(100)]

    async def handed_out(*, is_prepared: bool) -> int:
        async with image_fetcher(worker_settings()) as fetcher:
            if is_prepared:
                await fetcher.prepare(rows[0])
            ahead = fetcher.ahead(rows, most_under_way=50)
            tasks = [asyncio.create_task(ahead.next()) for _ in range(50)]
            done, waiting = await asyncio.wait(tasks, timeout=0.1)
            for task in waiting:
                task.cancel()
            return len(done)

    assert asyncio.run(handed_out(is_prepared=False)) == 50
    assert asyncio.run(handed_out(is_prepared=True)) == 1  # what a new site gets


@pytest.mark.parametrize("url", ["s3://\u24d0bucket/a.jpg", "s3://photos/", "https://a.example/a.jpg", "a.jpg", ""])
def test_a_first_row_that_cannot_be_signed_holds_nothing_up(url: str) -> None:
    async def run() -> None:
        async with image_fetcher(worker_settings()) as fetcher:
            await fetcher.prepare(Row(0, url))

    asyncio.run(run())
