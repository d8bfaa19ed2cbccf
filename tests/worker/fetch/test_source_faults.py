"""Whole chunks from sources that fail: in bounded time every row is settled, or the chunk ends with exit code 75."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import SourceUnavailable
from common.format.reasons import Reason
from common.store import open_store
from tests.certificates import Certificates
from tests.image_server import (
    Behaviour,
    answer,
    chunked,
    drip,
    first,
    image_server,
    mortal,
    partly,
    raw,
    redirect,
    stall,
)
from tests.image_server import reset as reset_connection
from tests.worker.fetch.fetching import get, image_fetcher, worker_settings
from tests.worker.worker_process import PHOTOS, Ended, object_keys, read_chunk, run_worker, write_manifest
from worker.fetch.circuit import FAILURES_TO_OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.image_server import ImageServer
    from tests.worker.fetch.thread_transport import Image
    from worker.fetch.image_fetcher import ImageFetcher

JPEG = next(path for path in PHOTOS if path.name == "coffee.jpg").read_bytes()

QUICK: dict[str, Any] = {
    "fetch_attempts": 2,
    "read_timeout_seconds": 1,
    "fetch_timeout_seconds": 2,
    "retry_after_limit_seconds": 1,
    "source_patience_seconds": 4,
}


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture
def busy_server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture
def dead_origin() -> str:
    with image_server() as gone:
        return gone.origin


def embed(folder: Path, urls: Sequence[str], **settings: Any) -> Ended:  # noqa: ANN401 - any setting
    return run_worker(run_uri=folder / "run", manifest_uri=write_manifest(folder, urls), **(QUICK | settings))


@pytest.mark.slow
def test_every_row_is_embedded_or_has_one_reason_however_its_source_misbehaves(
    server: ImageServer, busy_server: ImageServer, dead_origin: str, tmp_path: Path
) -> None:
    good = [server.on(f"/good{number}.jpg", answer(JPEG)) for number in range(20)]
    busy = answer(status=429, headers={"Retry-After": "1"})
    good += [busy_server.on(f"/storm{number}.jpg", first(1, busy, then=answer(JPEG))) for number in range(2)]
    good += [server.on("/pieces.jpg", chunked(JPEG))]
    expected = {
        server.on("/drip.jpg", drip(JPEG, every_seconds=0.3)): "timeout",
        server.on("/half.jpg", partly(JPEG[:900], announced=len(JPEG))): "connection_failed",
        server.on("/less.jpg", answer(JPEG[:900])): "truncated",
        server.on("/odd-length.jpg", raw(b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\nfour")): "connection_failed",
        server.on("/loop.jpg", redirect("/pool.jpg")): "too_many_redirects",
        server.on("/pool.jpg", redirect("/loop.jpg")): "too_many_redirects",
        busy_server.on("/always.jpg", busy): "deferred",
        busy_server.on("/hang.jpg", stall()): "timeout",
        "http://no-such-host.invalid/a.jpg": "connection_failed",
        # Enough to open a circuit, on the host of the good images and after them. The host must not be given up.
        **{server.on(f"/hang{n}.jpg", stall()): "timeout" for n in range(2 * FAILURES_TO_OPEN)},
        # A host that is gone, after all others are done.
        **{f"{dead_origin}/{n}.jpg": "connection_failed" for n in range(2 * FAILURES_TO_OPEN)},
    }
    ended = embed(tmp_path, [*good, *expected], max_failure_ratio=0.7, slow_site_seconds=20)
    assert ended.exit_code == 0, ended.log
    chunk = read_chunk(tmp_path / "run")
    assert chunk.urls == good
    assert chunk.failures == expected


DEATHS: dict[str, tuple[Behaviour, float]] = {
    "the connections break": (reset_connection(), 1),
    "it answers 503": (answer(status=503), 0.01),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", DEATHS)
def test_when_the_only_source_dies_halfway_no_image_is_blamed_whatever_share_may_fail(
    server: ImageServer, tmp_path: Path, how: str
) -> None:
    death, ratio = DEATHS[how]
    alive = mortal(12, death)
    urls = [server.on(f"/{number}.jpg", alive(answer(JPEG))) for number in range(20)]
    ended = embed(tmp_path, urls, max_failure_ratio=ratio, fetch_concurrency=4)
    assert ended.exit_code == 75, ended.log
    assert "no image source has given a usable answer" in ended.last_word
    assert object_keys(open_store(str(tmp_path / "run"))) == []


@pytest.mark.slow
def test_when_no_name_resolves_the_list_is_not_blamed_even_if_a_row_is_bad(tmp_path: Path) -> None:
    urls = [*(f"http://host{number}.invalid/a.jpg" for number in range(30)), f"http://host/{'x' * 3000}"]
    ended = embed(tmp_path, urls, max_failure_ratio=1)
    assert ended.exit_code == 75, ended.log
    assert "no such host" in ended.last_word


@pytest.mark.slow
def test_a_mirror_that_is_down_costs_no_image_that_another_source_has(
    server: ImageServer, dead_origin: str, tmp_path: Path
) -> None:
    urls = [server.on(f"/{number}.jpg", answer(JPEG)) for number in range(40)]
    rows = "".join(f"{number:016x},train,{url}\n" for number, url in enumerate(urls))
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"ImageID,Subset,OriginalURL\n{rows}")
    ended = run_worker(run_uri=tmp_path / "run", manifest_uri=manifest, mirror_url=dead_origin, **QUICK)
    assert ended.exit_code == 0, ended.log
    assert read_chunk(tmp_path / "run").urls == urls


@pytest.mark.slow
def test_images_without_a_valid_certificate_are_embedded_if_a_setting_says_so_and_a_warning_says_it_once(
    tmp_path: Path,
) -> None:
    with image_server(tls=Certificates(tmp_path).self_signed_server()) as server:
        urls = [server.on(f"/{number}.jpg", answer(JPEG)) for number in range(3)]
        ended = embed(tmp_path, urls, verify_image_certificates=False)
        assert ended.exit_code == 0, ended.log
        assert read_chunk(tmp_path / "run").urls == urls
        assert len(ended.events("certificates_not_checked")) == 1
        (tmp_path / "checked").mkdir()
        ended = embed(tmp_path / "checked", urls)
    assert ended.exit_code == 65, ended.log
    assert "EMBEDDER_VERIFY_IMAGE_CERTIFICATES" in ended.last_word


class Names:
    """Resolves every name to loopback until it breaks. Then it says that no name exists."""

    is_broken = False

    async def resolve(self, _: str) -> list[str]:
        if self.is_broken:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ["127.0.0.1"]

    async def close(self) -> None:
        pass


async def fetch_after(urls: Sequence[str], fetcher: ImageFetcher[Image]) -> list[bytes | Reason | BaseException]:
    return await asyncio.gather(*(get(fetcher, url) for url in urls), return_exceptions=True)


@pytest.mark.slow
def test_when_all_names_vanish_halfway_no_image_is_blamed(server: ImageServer) -> None:
    names = Names()
    # The server closes each connection, so that each request resolves its name.
    closing = answer(JPEG, headers={"Connection": "close"})
    good = server.on("/a.jpg", closing)

    def url(number: int) -> str:
        return good.replace("127.0.0.1", f"host{number}.example")

    async def run() -> list[bytes | Reason | BaseException]:
        settings = worker_settings(source_patience_seconds=1)
        async with image_fetcher(settings, resolver=names) as fetcher:
            assert await get(fetcher, url(0)) == JPEG
            await asyncio.to_thread(server.stop)
            names.is_broken = True
            return await fetch_after([url(number) for number in range(1, 30)], fetcher)

    outcomes = asyncio.run(run())
    assert {type(outcome) for outcome in outcomes} == {SourceUnavailable}


@pytest.mark.slow
def test_a_dead_network_is_told_from_a_dead_host_even_if_only_one_host_is_left_to_ask() -> None:
    async def run(*, is_network_gone: bool) -> set[object]:
        with image_server() as one, image_server() as other:
            for server in (one, other):
                server.on("/a.jpg", answer(JPEG))
            async with image_fetcher(worker_settings(fetch_attempts=2, source_patience_seconds=1)) as fetcher:
                assert [await get(fetcher, each.url("/a.jpg")) for each in (other, one)] == [JPEG, JPEG]
                await asyncio.to_thread(one.stop)
                if is_network_gone:
                    await asyncio.to_thread(other.stop)
                outcomes = await fetch_after([one.url(f"/{number}.jpg") for number in range(30)], fetcher)
                return {type(each) if isinstance(each, BaseException) else each for each in outcomes}

    assert asyncio.run(run(is_network_gone=True)) == {SourceUnavailable}
    assert asyncio.run(run(is_network_gone=False)) == {Reason.CONNECTION_FAILED}
