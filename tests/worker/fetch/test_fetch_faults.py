"""Fetching from servers that fail, hang, lie and die."""

from __future__ import annotations

import asyncio
import errno
import resource
import shutil
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import ResourceExhausted, SourceUnavailable
from common.format.reasons import Reason
from tests.image_server import (
    Behaviour,
    ImageServer,
    answer,
    chunked,
    chunked_slowly,
    drip,
    first,
    held,
    image_server,
    partly,
    raw,
    reset,
    stall,
)
from tests.worker.fetch.fetching import (
    PICTURE,
    failure,
    fetch,
    fetch_together,
    fetcher_among_others,
    get,
    image_fetcher,
    worker_settings,
)
from worker.fetch.circuit import FAILURES_TO_OPEN
from worker.fetch.must_wait import MustWait
from worker.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiohttp import web


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture
def untrusted_server(tmp_path: Path) -> Iterator[ImageServer]:
    """A server with a certificate that no authority has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make a certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 1"
    files = "-keyout key.pem -out cert.pem"
    subprocess.run(f"{command} {files}".split(), cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with image_server(tls=tls) as running:
        yield running


TEMPORARY: list[tuple[str, Behaviour, Reason]] = [
    *(
        (str(status), answer(status=status), reason)
        for status, reason in {
            408: Reason.HTTP_ERROR,
            425: Reason.HTTP_ERROR,
            500: Reason.SERVER_ERROR,
            502: Reason.SERVER_ERROR,
            503: Reason.SERVER_ERROR,
            504: Reason.SERVER_ERROR,
        }.items()
    ),
    ("a reset", reset(), Reason.CONNECTION_FAILED),
    ("a close", raw(b""), Reason.CONNECTION_FAILED),
    ("no HTTP", raw(b"SSH-2.0-server\r\n\r\n"), Reason.CONNECTION_FAILED),
    ("half an image", partly(b"half", announced=8), Reason.CONNECTION_FAILED),
    ("half an image and a reset", partly(b"half", announced=8, then="reset"), Reason.CONNECTION_FAILED),
    ("a stall", stall(), Reason.TIMEOUT),
    ("a stall within the image", partly(b"half", announced=8, then="stall"), Reason.TIMEOUT),
    ("a stall before the first byte of the image", partly(b"", announced=8, then="stall"), Reason.TIMEOUT),
    (
        "half a chunked image",
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        Reason.CONNECTION_FAILED,
    ),
]


@pytest.mark.parametrize(("behaviour", "reason"), [case[1:] for case in TEMPORARY], ids=[case[0] for case in TEMPORARY])
def test_what_may_pass_is_tried_again(server: ImageServer, behaviour: Behaviour, reason: Reason) -> None:
    good = server.on("/good.jpg", first(1, behaviour, then=answer(PICTURE)))
    bad = server.on("/bad.jpg", behaviour)
    assert fetch_together(good, bad, fetch_attempts=2, read_timeout_seconds=0.2) == [PICTURE, reason]
    assert failure(bad, fetch_attempts=2, read_timeout_seconds=0.2).detail.endswith(" after 2 attempts")


def test_a_request_whose_bytes_drip_ends_after_the_whole_time(server: ImageServer) -> None:
    url = server.on("/drip.jpg", drip(PICTURE, every_seconds=0.02))
    assert fetch(url, fetch_timeout_seconds=0.3, read_timeout_seconds=0.2) == [Reason.TIMEOUT]


def test_a_closed_port_is_a_failed_connection() -> None:
    with image_server() as gone:
        url = gone.url("/a.jpg")
    assert fetch(url, fetch_attempts=2) == [Reason.CONNECTION_FAILED]


def test_bytes_beyond_the_announced_length_are_not_read(server: ImageServer) -> None:
    url = server.on("/long.jpg", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour and more"))
    assert set(fetch(url, url, url)) <= {b"four", Reason.CONNECTION_FAILED}


@pytest.mark.parametrize("length", ["-1", "four", "99999999999999999999999999", "4, 5"])
def test_an_answer_with_an_invalid_content_length_fails(server: ImageServer, length: str) -> None:
    url = server.on("/odd.jpg", raw(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nfour".encode()))
    assert fetch(url)[0] in {Reason.CONNECTION_FAILED, Reason.TOO_LARGE}


def test_headers_without_an_end_are_a_failed_connection(server: ImageServer) -> None:
    url = server.on("/odd.jpg", raw(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 400_000 + b"\r\n\r\n"))
    assert fetch(url) == [Reason.CONNECTION_FAILED]


@pytest.mark.parametrize(
    ("status", "headers"), [(429, {}), (429, {"Retry-After": "1"}), (503, {"Retry-After": "1"})], ids=str
)
def test_a_site_that_asks_for_fewer_requests_sends_the_row_back_and_uses_up_no_attempt(
    server: ImageServer, status: int, headers: dict[str, str]
) -> None:
    url = server.on("/a.jpg", answer(status=status, headers=headers))

    async def run() -> None:
        async with image_fetcher(worker_settings(fetch_attempts=3)) as fetcher:
            with pytest.raises(MustWait) as caught:
                await fetcher.fetch(Row(position=0, url=url))
            assert caught.value.refusal is not None
            assert caught.value.refusal.status == status
            assert caught.value.refusal.retry_after_seconds == float(headers.get("Retry-After", 0))
            assert fetcher.retries == fetcher.in_flight == 0

    asyncio.run(run())
    assert server.count("/a.jpg") == 1


@pytest.mark.parametrize(
    ("limits", "most"),
    [({"fetch_concurrency": 3}, 3), ({"fetch_concurrency": 9, "fetch_concurrency_per_host": 2}, 2)],
)
def test_no_more_requests_are_under_way_than_is_allowed(server: ImageServer, limits: dict[str, Any], most: int) -> None:
    release = threading.Event()
    urls = [server.on(f"/{number}", held(release, then=chunked(PICTURE))) for number in range(40)]

    async def run() -> None:
        async with fetcher_among_others(**limits) as fetcher:
            images = asyncio.gather(*(get(fetcher, url) for url in urls))
            while len(server.requests) < most:
                await asyncio.sleep(0.01)
            assert fetcher.in_flight == most
            release.set()
            assert await images == [PICTURE] * 40

    asyncio.run(run())
    assert server.most_at_once[""] == most
    assert server.connection_count == most


def test_a_slow_host_delays_no_other_host(server: ImageServer) -> None:
    release = threading.Event()
    with image_server() as slow:
        slow_host = slow.origin.replace("127.0.0.1", "localhost")
        for number in range(8):
            slow.on(f"/{number}", held(release, then=answer(b"slow")))
        fast = [server.on(f"/{number}", answer(b"fast")) for number in range(20)]

        async def run() -> None:
            async with fetcher_among_others(fetch_concurrency=4, fetch_concurrency_per_host=3) as fetcher:
                waiting = [asyncio.create_task(get(fetcher, f"{slow_host}/{number}")) for number in range(8)]
                while len(slow.requests) < 3:
                    await asyncio.sleep(0.01)
                assert await asyncio.gather(*(get(fetcher, url) for url in fast)) == [b"fast"] * 20
                assert not any(task.done() for task in waiting)
                release.set()
                assert await asyncio.gather(*waiting) == [b"slow"] * 8

        asyncio.run(run())
        assert slow.most_at_once[""] == 3


def test_nothing_is_held_while_an_image_waits_for_its_next_attempt(server: ImageServer) -> None:
    busy = server.on("/busy", answer(status=502, headers={"Retry-After": "3600"}))
    good = server.on("/good", answer(PICTURE))

    async def run() -> None:
        limits = worker_settings(fetch_concurrency=1, fetch_attempts=2)
        async with image_fetcher(limits) as fetcher:
            waiting = asyncio.create_task(get(fetcher, busy))
            while not fetcher.retries:
                await asyncio.sleep(0.01)
            assert fetcher.in_flight == 0
            assert await get(fetcher, good) == PICTURE
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(run())


def test_the_bytes_in_memory_stay_within_their_budget(server: ImageServer) -> None:
    body = bytes(400_000)
    urls = [server.on(f"/{number}", answer(body)) for number in range(20)]
    urls += [server.on(f"/chunked{number}", chunked(body, piece=50_000)) for number in range(4)]
    held_now, most = 0, 0

    async def run() -> None:
        async with image_fetcher(limits) as fetcher:

            async def hold(url: str) -> None:
                nonlocal held_now, most
                held = await fetcher.fetch(Row(position=0, url=url))
                held_now += held.image.length
                most = max(most, held_now)
                await asyncio.sleep(0.01)
                held_now -= held.image.length
                held.release()

            await asyncio.gather(*(hold(url) for url in urls))

    limits = worker_settings(max_inflight_bytes=1 << 20, max_image_bytes=1 << 20)
    asyncio.run(run())
    assert 0 < most <= 1 << 20


def test_waiting_for_the_byte_budget_is_not_time_of_the_request(server: ImageServer) -> None:
    url = server.on("/a.jpg", answer(bytes(1 << 20)))

    async def run() -> None:
        limits = worker_settings(max_inflight_bytes=1 << 20, fetch_timeout_seconds=0.4, read_timeout_seconds=0.4)
        async with image_fetcher(limits) as fetcher:
            first = await fetcher.fetch(Row(position=0, url=url))
            second = asyncio.create_task(get(fetcher, url))
            await asyncio.sleep(1)
            assert not second.done()
            first.release()
            assert await second == bytes(1 << 20)

    asyncio.run(run())


def test_an_image_above_the_budget_is_fetched_alone(server: ImageServer) -> None:
    urls = [server.on(f"/{number}", answer(bytes(3 << 20))) for number in range(3)]
    assert fetch_together(*urls, max_inflight_bytes=1 << 20) == [bytes(3 << 20)] * 3


def test_bodies_of_unknown_length_reserve_no_more_bytes_than_they_need(server: ImageServer) -> None:
    release = threading.Event()
    slow = [server.on(f"/slow/{number}", chunked_slowly(bytes(1000), release)) for number in range(6)]
    quick = server.on("/quick", answer(bytes(1 << 20)))

    async def run() -> None:
        limits = worker_settings(max_inflight_bytes=8 << 20, max_image_bytes=64 << 20)
        async with image_fetcher(limits) as fetcher:
            assert await get(fetcher, quick) == bytes(1 << 20)  # a site that answers nothing gets few requests
            waiting = [asyncio.create_task(get(fetcher, url)) for url in slow]
            while len(server.requests) < 1 + len(slow):
                await asyncio.sleep(0.01)
            assert await get(fetcher, quick) == bytes(1 << 20)
            assert not any(task.done() for task in waiting)
            release.set()
            assert await asyncio.gather(*waiting) == [bytes(1000)] * len(slow)

    asyncio.run(run())


def test_large_bodies_of_unknown_length_never_wait_for_each_other(server: ImageServer) -> None:
    urls = [server.on(f"/{number}", chunked(bytes(5 << 20), piece=100_000)) for number in range(4)]
    assert fetch_together(*urls, max_inflight_bytes=4 << 20) == [bytes(5 << 20)] * 4


def test_a_failed_body_gives_its_bytes_back(server: ImageServer) -> None:
    half = server.on("/half", partly(b"half", announced=1 << 20))
    assert fetch(*[half] * 5, max_inflight_bytes=1 << 20) == [Reason.CONNECTION_FAILED] * 5


@pytest.mark.slow
def test_a_cancelled_image_leaves_nothing_behind(server: ImageServer) -> None:
    stalled = server.on("/stalled", partly(b"half", announced=1 << 20, then="stall"))
    good = server.on("/good", answer(bytes(1 << 20)))

    async def run() -> None:
        limits = worker_settings(max_inflight_bytes=1 << 20, fetch_concurrency=2)
        async with image_fetcher(limits) as fetcher:
            tasks = [asyncio.create_task(get(fetcher, stalled)) for _ in range(4)]
            while not fetcher.bytes_received and len(server.requests) < 2:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert fetcher.in_flight == 0
            assert await get(fetcher, good) == bytes(1 << 20)

    asyncio.run(run())


def test_a_short_outage_of_a_host_costs_no_image(server: ImageServer) -> None:
    release = threading.Event()

    def until_released(number: int) -> str:
        good, bad = answer(b"%d" % number), answer(status=502)

        async def behave(request: web.BaseRequest) -> web.StreamResponse:
            return await (good if release.is_set() else bad)(request)

        return server.on(f"/{number}", behave)

    urls = [until_released(number) for number in range(60)]

    async def run() -> list[bytes | Reason]:
        limits = worker_settings(fetch_attempts=4, fetch_concurrency=10)
        async with image_fetcher(limits) as fetcher:
            tasks = [asyncio.create_task(get(fetcher, url)) for url in urls]
            while len(server.requests) < FAILURES_TO_OPEN:
                await asyncio.sleep(0.01)
            release.set()
            return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [b"%d" % number for number in range(60)]


def test_a_request_that_was_the_probe_of_an_open_circuit_is_not_an_attempt_of_its_image(server: ImageServer) -> None:
    busy_at_first = first(FAILURES_TO_OPEN + 1, answer(status=502), then=answer(PICTURE))
    urls = [server.on(f"/{number}", busy_at_first) for number in range(FAILURES_TO_OPEN + 1)]
    assert fetch(*urls, fetch_attempts=1) == [Reason.SERVER_ERROR] * FAILURES_TO_OPEN + [PICTURE]
    assert server.count(f"/{FAILURES_TO_OPEN}") == 2


def test_a_host_that_is_dead_is_given_up_and_the_others_go_on(server: ImageServer) -> None:
    good = [server.on(f"/{number}", answer(b"good")) for number in range(20)]
    dead = server.origin.replace("127.0.0.1", "localhost")
    for number in range(200):
        server.on(f"/dead{number}", reset())

    async def run() -> None:
        limits = worker_settings(fetch_attempts=2, fetch_concurrency=50, source_patience_seconds=1)
        async with image_fetcher(limits) as fetcher:
            assert await get(fetcher, good[0]) == b"good"
            lost = asyncio.gather(*(get(fetcher, f"{dead}/dead{number}") for number in range(200)))
            assert await asyncio.gather(*(get(fetcher, url) for url in good)) == [b"good"] * 20
            assert set(await lost) == {Reason.CONNECTION_FAILED}
            assert fetcher.requests < 300

    asyncio.run(run())


def test_a_dead_network_ends_the_chunk_and_blames_no_image() -> None:
    with image_server() as gone:
        urls = [gone.url(f"/{number}") for number in range(50)]
    urls += [url.replace("127.0.0.1", "localhost") for url in urls]

    async def run() -> None:
        limits = worker_settings(fetch_attempts=3, source_patience_seconds=1)
        async with image_fetcher(limits) as fetcher:
            outcomes = await asyncio.gather(*(get(fetcher, url) for url in urls), return_exceptions=True)
            unavailable = [outcome for outcome in outcomes if isinstance(outcome, SourceUnavailable)]
            assert len(unavailable) > 90
            assert "no image source has given a usable answer" in str(unavailable[0])

    asyncio.run(run())


def test_a_lack_of_descriptors_is_blamed_on_this_machine_and_not_on_the_images(server: ImageServer) -> None:
    url = server.on("/a.jpg", answer(PICTURE))

    async def run() -> None:
        async with image_fetcher(worker_settings()) as fetcher:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                with pytest.raises(ResourceExhausted) as caught:
                    await get(fetcher, url)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert errno.errorcode[errno.EMFILE] in str(caught.value) or "Too many open files" in str(caught.value)

    asyncio.run(run())


def test_a_host_with_an_untrusted_certificate_is_not_asked_again(untrusted_server: ImageServer) -> None:
    failed = failure(untrusted_server.url("/a.jpg"), fetch_attempts=4)
    assert failed.reason == Reason.CONNECTION_FAILED
    assert "certificate" in failed.detail
    assert "attempts" not in failed.detail


def test_a_name_that_does_not_exist_is_not_asked_again() -> None:
    failed = failure("http://does-not-exist.invalid/a.jpg", fetch_attempts=4)
    assert failed.reason == Reason.CONNECTION_FAILED
    assert failed.detail == "url: connection_failed no such host: does-not-exist.invalid"
