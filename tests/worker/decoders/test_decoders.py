"""Decoders fetch and decode. When one dies, every image that it had is lost to it, and the next one does them all."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from common.errors import ResourceExhausted
from tests.image_server import ImageServer, answer, chunked, held, image_server, partly
from tests.worker.decoders.faults import CRASH, HANG, NO_MEMORY
from tests.worker.decoders.pool import (
    busy_decoders,
    cpu_ticks,
    decoder_processes,
    decoders,
    get_order,
    is_asleep,
    server_of_decoders,
)
from tests.worker.images import PHOTOS, encoded, photo
from tests.worker.processes import descendants, stop, wait_until
from tests.worker.worker_process import start_worker, worker_environment, write_manifest
from worker.decode.preprocess import LARGE_PIXELS, image_square
from worker.decoders.decoder import MAX_EARLY_DEATHS, SLOTS_AHEAD
from worker.decoders.job import Lost
from worker.decoders.process import ROUND_SECONDS, pause_seconds
from worker.fetch.transport import Answered
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tests.worker.decoders.pool import Pool


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


def image_of(size: tuple[int, int], kind: str = "PNG") -> bytes:
    return encoded(photo().resize(size), kind)


def expected_square(data: bytes, *, rotation: int = 0) -> NDArray[np.uint8]:
    return image_square(data, rotation=rotation, max_pixels=10**9).numpy()


def test_the_pixels_equal_those_of_the_same_code_in_this_process(server: ImageServer) -> None:
    with decoders(2) as pool:
        for path in PHOTOS:
            data = path.read_bytes()
            urls = server.on(f"/{path.name}", answer(data)), server.on(f"/pieces/{path.name}", chunked(data))
            for rotation in (0, 90, 180, 270):
                expected = expected_square(data, rotation=rotation)
                for image in (path, *urls):
                    assert np.array_equal(pool.pixels(image, rotation=rotation), expected), path.name


def test_all_decoders_work_at_the_same_time(server: ImageServer) -> None:
    image = answer(image_of((2000, 1500)))
    urls = [server.on(f"/{number}", image) for number in range(12)]

    async def ask(pool: Pool) -> None:
        await asyncio.gather(*map(pool.square, urls))

    with decoders(3) as pool:
        pool.run(lambda: ask(pool))
        assert min(map(cpu_ticks, decoder_processes())) > 10


def test_the_fetching_thread_pauses_for_less_time_than_the_waiting_images_take() -> None:
    assert pause_seconds(0, 0.01) == 0
    assert pause_seconds(1, 0.002) == pytest.approx(0.001)
    assert pause_seconds(8, 0.0005) == pytest.approx(0.002)
    assert pause_seconds(1000, 0.01) == ROUND_SECONDS


def test_no_image_gets_the_pixels_or_the_slot_of_a_cancelled_one(server: ImageServer) -> None:
    slow = [server.on(f"/slow{number}", answer(image_of((3000, 3000), "JPEG"))) for number in range(6)]
    others = [path.read_bytes() for path in PHOTOS[:6]]
    urls = [server.on(f"/{number}", answer(data)) for number, data in enumerate(others)]

    async def ask_and_leave(pool: Pool) -> list[NDArray[np.uint8]]:
        await asyncio.gather(pool.square(slow[0]), pool.square(slow[1]))  # both decoders have started
        for moment in (0.0, 0.005, 0.03, 0.1):
            left = [asyncio.create_task(pool.square(url)) for url in slow]
            await asyncio.sleep(moment)
            for task in left:
                task.cancel()
        return await asyncio.gather(*map(pool.square, urls))

    with decoders(2, slot_count=2 * SLOTS_AHEAD) as pool:
        for _ in range(4):
            found = pool.run(lambda: ask_and_leave(pool))
            for data, square in zip(others, found, strict=True):
                assert np.array_equal(square, expected_square(data))


def test_a_decoder_with_one_slot_is_as_right_as_one_with_many(server: ImageServer) -> None:
    data = [path.read_bytes() for path in PHOTOS]
    urls = [server.on(f"/{number}", answer(each)) for number, each in enumerate(data)]

    async def ask(pool: Pool) -> list[NDArray[np.uint8]]:
        return await asyncio.gather(*map(pool.square, urls * 4))

    with decoders(1, slot_count=1) as pool:
        for each, square in zip(data * 4, pool.run(lambda: ask(pool)), strict=True):
            assert np.array_equal(square, expected_square(each))


def test_a_body_that_needs_more_bytes_than_it_was_granted_waits_for_them(server: ImageServer, tmp_path: Path) -> None:
    data = image_of((700, 600), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    images: list[str | Path] = [server.on("/a", answer(data)), server.on("/b", chunked(data)), tmp_path / "a.png"]

    async def ask(pool: Pool) -> None:
        await pool.budget.reserve(pool.budget.limit - 10)
        waiting = [asyncio.create_task(pool.square(image, granted_bytes=2)) for image in images]
        await asyncio.sleep(1)
        assert not any(task.done() for task in waiting)
        pool.budget.release(pool.budget.limit - 10)
        for square in await asyncio.gather(*waiting):
            assert np.array_equal(square, expected_square(data))
        assert pool.budget.reserved == 0

    with decoders(1, inflight_bytes=1 << 20) as pool:
        pool.run(lambda: ask(pool))


def test_an_image_that_is_not_there_is_an_answer_and_one_that_cannot_be_decoded_a_failure(
    server: ImageServer, tmp_path: Path
) -> None:
    with decoders() as pool:
        with pytest.raises(LookupError, match="404"):
            pool.pixels(server.url("/missing"))
        with pytest.raises(LookupError, match="not_found"):
            pool.pixels(tmp_path / "missing")
        with pytest.raises(LookupError, match="broke off"):
            pool.pixels(server.on("/half", partly(b"half", announced=8)))
        with pytest.raises(ImageFailed, match="not_an_image"):
            pool.pixels(server.on("/page", answer(b"<html>")))
        probe = get_order(server.on("/a", answer(bytes(10**6))))._replace(is_probe=True, granted_bytes=0)
        assert pool.run(lambda: pool.decoders.get(probe, None)) == Answered(200, "", "", 0)


def test_a_large_image_waits_for_its_turn(server: ImageServer) -> None:
    large = server.on("/large", answer(encoded(Image.new("L", (8000, LARGE_PIXELS // 8000 + 1)), "PNG")))
    with decoders() as pool:
        with pytest.raises(LargeImage):
            pool.pixels(large, may_be_large=False)
        assert pool.pixels(large).shape == (224, 224, 3)


# Deaths


async def again_if_lost(pool: Pool, url: str) -> NDArray[np.uint8]:
    """Return the square, and ask once more if the decoder has just died."""
    try:
        return await pool.square(url)
    except Lost as lost:
        if lost.is_blamed:
            raise
        return await pool.square(url)


async def outcomes_of(pool: Pool, urls: list[str]) -> list[NDArray[np.uint8] | BaseException]:
    return await asyncio.gather(*map(pool.square, urls), return_exceptions=True)


@pytest.mark.usefixtures("faulty_libraries")
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_decoder_that_dies_names_the_image_that_it_was_decoding(server: ImageServer, kind: str) -> None:
    crash = server.on("/crash", answer(image_of(CRASH, kind)))
    good = server.on("/good", answer(image_of((70, 61), kind)))
    with decoders() as pool:
        before = pool.pixels(good)
        with pytest.raises(Lost, match="SIGSEGV") as lost:
            pool.pixels(crash)
        assert lost.value.is_blamed
        assert np.array_equal(pool.pixels(good), before)


@pytest.mark.usefixtures("faulty_libraries")
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_decoder_that_hangs_on_an_image_is_ended_after_its_cpu_time(server: ImageServer, kind: str) -> None:
    hang, good = server.on("/hang", answer(image_of(HANG, kind))), server.on("/good", answer(image_of((70, 61), kind)))
    with decoders(decode_cpu_seconds=0.5) as pool:
        with pytest.raises(Lost, match="SIGPROF") as lost:
            pool.pixels(hang)
        assert lost.value.is_blamed
        assert pool.pixels(good).shape == (224, 224, 3)


@pytest.mark.usefixtures("faulty_libraries")
def test_images_that_wait_in_a_decoder_that_dies_are_lost_and_not_blamed(server: ImageServer) -> None:
    crash = server.on("/crash", answer(image_of(CRASH)))
    waiting = [server.on(f"/{number}", answer(image_of((70 + number, 61)))) for number in range(5)]
    fetched = [server.on(f"/{number}.late", partly(b"", announced=8, then="stall")) for number in range(5)]

    async def ask(pool: Pool) -> list[NDArray[np.uint8] | BaseException]:
        asked = asyncio.create_task(outcomes_of(pool, [*fetched, crash, *waiting]))
        while len(server.requests) < len(fetched):
            await asyncio.sleep(0.01)
        return await asked

    with decoders() as pool:
        outcomes = pool.run(lambda: ask(pool))
        lost = [outcome for outcome in outcomes if isinstance(outcome, Lost)]
        assert [each.is_blamed for each in lost].count(True) == 1
        assert all(isinstance(outcome, Lost) for outcome in outcomes[: len(fetched) + 1])
        assert [square.shape for square in map(pool.pixels, waiting)] == [(224, 224, 3)] * 5


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
@pytest.mark.parametrize("deaths", [1, 3])
def test_decoders_that_die_while_they_are_idle_cost_nothing(
    server: ImageServer, deaths: int, number: signal.Signals
) -> None:
    url = server.on("/a", answer(image_of((70, 61))))
    with decoders() as pool:
        pool.pixels(url)
        for _ in range(deaths):
            (decoder,) = decoder_processes()
            os.kill(decoder, number)
            wait_until(lambda: decoder_processes() not in ([], [decoder]))  # noqa: B023 - called at once
        wait_until(lambda: is_asleep(*decoder_processes()))
        assert pool.run(lambda: again_if_lost(pool, url)).shape == (224, 224, 3)


def test_the_slots_of_decoders_that_die_are_used_by_the_next_ones(server: ImageServer) -> None:
    url = server.on("/a", answer(image_of((70, 61))))
    with decoders(slot_count=3) as pool:
        for _ in range(5):
            assert pool.run(lambda: again_if_lost(pool, url)).shape == (224, 224, 3)
            (decoder,) = decoder_processes()
            os.kill(decoder, signal.SIGKILL)
            wait_until(lambda: decoder_processes() not in ([], [decoder]))  # noqa: B023 - called at once


def test_orders_to_a_decoder_that_died_are_ignored_by_the_next_one(server: ImageServer) -> None:
    urls = [server.on(f"/{number}", answer(image_of((70, 61)))) for number in range(20)]

    async def ask(pool: Pool, decoder: int) -> None:
        stop(decoder)
        asked = asyncio.create_task(outcomes_of(pool, urls))
        await asyncio.sleep(0.5)  # the orders are in the socket
        os.kill(decoder, signal.SIGKILL)
        assert [outcome.is_blamed for outcome in await asked if isinstance(outcome, Lost)] == [False] * 20
        assert server.requests == []
        assert all(isinstance(outcome, np.ndarray) for outcome in await outcomes_of(pool, urls))
        await asyncio.sleep(0.2)
        assert len(server.requests) == 20

    with decoders() as pool:
        pool.pixels(PHOTOS[0])
        (decoder,) = decoder_processes()
        pool.run(lambda: ask(pool, decoder))


def test_decoders_that_die_before_they_are_ready_lose_no_image(server: ImageServer, early_deaths: Path) -> None:
    urls = [server.on(f"/{number}", answer(image_of((70, 61)))) for number in range(10)]
    early_deaths.write_bytes(bytes(MAX_EARLY_DEATHS - 1))
    with decoders() as pool:
        outcomes = pool.run(lambda: outcomes_of(pool, urls))
        assert [type(outcome) for outcome in outcomes] == [np.ndarray] * 10
    assert early_deaths.read_bytes() == b""


def test_decoders_that_never_become_ready_are_this_machines_fault(server: ImageServer, early_deaths: Path) -> None:
    url = server.on("/a", answer(image_of((70, 61))))
    early_deaths.write_bytes(bytes(10 * MAX_EARLY_DEATHS))
    with decoders() as pool, pytest.raises(ResourceExhausted, match=f"{MAX_EARLY_DEATHS} decoders died.*SIGKILL"):
        pool.pixels(url)


def test_without_a_server_of_decoders_this_machine_is_at_fault(server: ImageServer) -> None:
    url = server.on("/a", answer(image_of((70, 61))))
    with decoders() as pool:
        pool.pixels(url)
        (decoder,) = decoder_processes()
        os.kill(server_of_decoders(), signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{decoder}/cwd").exists())
        with pytest.raises(ResourceExhausted, match="the decoders have ended"):
            pool.pixels(url)


@pytest.mark.usefixtures("faulty_libraries")
def test_a_decoder_without_memory_blames_no_image(server: ImageServer) -> None:
    url = server.on("/a", answer(image_of(NO_MEMORY)))
    with decoders() as pool, pytest.raises(MemoryError):
        pool.pixels(url)


def test_decoders_end_within_two_seconds_even_while_they_fetch_and_decode(server: ImageServer) -> None:
    release = threading.Event()
    urls = [server.on(f"/{number}", held(release, then=answer(b""))) for number in range(5)]

    async def ask(pool: Pool) -> None:
        tasks = [asyncio.create_task(pool.square(url)) for url in urls]
        while len(server.requests) < len(urls):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()

    others = descendants(os.getpid())  # servers of other tests
    with decoders(2) as pool:
        pool.run(lambda: ask(pool))
        family = set(descendants(os.getpid())) - set(others)
    release.set()
    assert not [process for process in family if Path(f"/proc/{process}/cwd").exists()]


def test_no_decoder_knows_a_secret(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HTTPS_PROXY", "EMBEDDER_RUN_URI"):
        monkeypatch.setenv(name, "planted")
    with decoders() as pool:
        pool.pixels(server.on("/a", answer(image_of((70, 61)))))
        for process in descendants(os.getpid()):
            assert b"planted" not in Path(f"/proc/{process}/environ").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("faulty_libraries")
def test_no_decoder_outlives_a_worker_that_is_killed(server: ImageServer, tmp_path: Path) -> None:
    hang = server.on("/hang.png", answer(image_of(HANG, "PNG")))
    with start_worker(
        worker_environment(manifest_uri=write_manifest(tmp_path, [hang] * 4), run_uri=tmp_path / "run")
    ) as worker:
        wait_until(lambda: len(descendants(worker.pid)) > 3)  # the server and its decoders
        wait_until(lambda: busy_decoders(worker.pid))
        family = descendants(worker.pid)
        worker.kill()
        worker.communicate()
    wait_until(lambda: not any(Path(f"/proc/{process}/cwd").exists() for process in family))
