"""The stages of a chunk together: every image gets its own vector or its own reason, whatever its decoder does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from PIL import Image

from common.errors import DeviceUnavailable, ResourceExhausted, SourceUnavailable
from common.format.reasons import Reason
from tests.image_server import ImageServer, answer, chunked, held, image_server, redirect
from tests.worker.decoders.conftest import *  # noqa: F403
from tests.worker.decoders.faults import CRASH, CRASH_ONCE, HANG, KILLER, KILLER_ONCE, SLOW
from tests.worker.decoders.pool import busy_decoders, decoder_processes
from tests.worker.images import encoded, noise, photo
from tests.worker.pipelines import ColourEncoder, Outcome, run_pipeline
from tests.worker.processes import wait_until
from worker.decode.preprocess import LARGE_PIXELS
from worker.rows import ImageFailed
from worker.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tests.image_server import Behaviour
    from worker.pipeline import Pipeline


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


def colour(number: int) -> tuple[int, int, int]:
    """Return a colour that no other image of a test has."""
    return number % 16 * 16, number // 16 % 16 * 16, number // 256 % 16 * 16


def coloured(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return an image of that colour."""
    return encoded(Image.new("RGB", size, colour(number)), "PNG")


def good_images(
    server: ImageServer, count: int, behave: Callable[[Behaviour], Behaviour] = lambda same: same
) -> list[str]:
    return [server.on(f"/{number}.png", behave(answer(coloured(number)))) for number in range(count)]


def answer_at_once(server: ImageServer, url: str) -> None:
    """Let the first of `good_images` not be held: a site whose first request has no answer gets few others."""
    server.on(url.removeprefix(server.origin), answer(coloured(0)))


def image_of(size: tuple[int, int], kind: str = "PNG") -> bytes:
    return encoded(photo().resize(size), kind)


def assert_all_good(outcome: Outcome, urls: Sequence[str], count: int) -> None:
    """Check that the first `count` of `urls`, the good images, were embedded."""
    assert outcome.colours[:count] == [colour(number) for number in range(count)]
    assert not set(outcome.failures) & set(urls[:count])


def test_every_image_gets_its_own_vector(server: ImageServer, tmp_path: Path) -> None:
    urls = good_images(server, 150)
    urls += [server.on(f"/c{number}", chunked(coloured(number))) for number in range(150, 200)]
    for number in range(200, 250):
        (tmp_path / f"{number}.png").write_bytes(coloured(number))
        urls.append(f"{number}.png")
    urls += [server.on(f"/r{number}", redirect(f"/{number - 250}.png")) for number in range(250, 300)]
    outcome = run_pipeline(urls, decoders=3, batch_size=7, folder=tmp_path)
    assert outcome.failures == {}
    assert outcome.colours == [colour(number if number < 250 else number - 250) for number in range(300)]
    assert outcome.batches == [7] * 42 + [6]
    assert outcome.times.decode_worked > 0
    assert outcome.times.loop_worked > 0


# Decoders that die


@pytest.mark.usefixtures("faulty_libraries")
def test_images_that_crash_or_hang_their_decoder_cost_themselves_only(server: ImageServer) -> None:
    urls = good_images(server, 60)
    sizes = {"crash": CRASH, "hang": HANG, "once": CRASH_ONCE}
    bad = {
        server.on(f"/{name}.{kind}", answer(image_of(size, kind))): name
        for name, size in sizes.items()
        for kind in ("PNG", "JPEG")
    }
    outcome = run_pipeline([*urls, *bad], decode_cpu_seconds=0.5)
    assert_all_good(outcome, urls, 60)
    reasons = {"crash": "decoder_died", "hang": "decode_timeout"}
    assert outcome.reasons == {url: reasons[name] for url, name in bad.items() if name in reasons}
    assert all("SIGSEGV" in failure for failure in outcome.failures.values() if "died" in failure)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_images_that_are_in_a_decoder_that_is_killed_are_begun_again_and_none_is_lost(
    server: ImageServer, number: signal.Signals
) -> None:
    release = threading.Event()
    urls = good_images(server, 50, lambda good: held(release, then=good))
    answer_at_once(server, urls[0])

    def kill(_: Pipeline) -> None:
        wait_until(lambda: len(server.requests) >= 50)
        os.kill(decoder_processes()[0], number)
        wait_until(lambda: len(server.requests) > 50)
        os.kill(decoder_processes()[0], number)
        release.set()

    outcome = run_pipeline(urls, while_running=kill, fetch_concurrency=50, fetch_concurrency_per_host=50)
    assert outcome.failures == {}
    assert_all_good(outcome, urls, 50)
    assert sum(outcome.batches) == 50  # each was encoded once


@pytest.mark.usefixtures("faulty_libraries")
@pytest.mark.parametrize(("decoders", "killers"), [(3, 1)])
def test_images_on_which_libcurl_crashes_cost_themselves_only(server: ImageServer, decoders: int, killers: int) -> None:
    # The good images are under way for so long that all of them are in decoders that crash. The image that kills once
    # comes first: if others had killed its decoder before, its own crash would be the last one that it may have.
    urls = good_images(server, 80, slowly)
    once = server.on(f"/{KILLER_ONCE}.png", slowly(answer(coloured(80))))
    bad = [server.on(f"/{KILLER}-{number}.png", slowly(answer(coloured(0)))) for number in range(killers)]
    mixed = [once, *urls[:40], *bad, *urls[40:]]
    outcome = run_pipeline(mixed, decoders=decoders, fetch_concurrency=24, fetch_concurrency_per_host=24)
    assert outcome.reasons == dict.fromkeys(bad, "decoder_died")
    assert all("SIGSEGV" in failure for failure in outcome.failures.values())
    assert [found for found in outcome.colours if found] == [colour(number) for number in (80, *range(80))]


@pytest.mark.slow
@pytest.mark.usefixtures("faulty_libraries")
def test_an_image_is_not_blamed_for_other_images_that_kill_its_decoder_one_after_the_other(server: ImageServer) -> None:
    # The first image is fetched so slowly that others kill the decoder beside it, each only once. Those that kill
    # nothing take the time in which the first one begins again.
    names = ["0", f"{KILLER_ONCE}-1", f"{KILLER_ONCE}-2", "3", f"{KILLER_ONCE}-4", "5", f"{KILLER_ONCE}-6"]
    pauses = [3, 0, 0.3, 0.6, 0.3, 0.6, 0.3]
    urls = [
        server.on(f"/{name}.png", slowly(answer(coloured(number)), seconds=pause))
        for number, (name, pause) in enumerate(zip(names, pauses, strict=True))
    ]
    outcome = run_pipeline(urls, decoders=1, fetch_concurrency=2, fetch_concurrency_per_host=2)
    assert outcome.failures == {}
    assert outcome.colours == [colour(number) for number in range(7)]


@pytest.mark.usefixtures("faulty_libraries")
def test_an_image_is_not_blamed_for_another_one_that_kills_its_decoder_whenever_both_are_there(
    server: ImageServer,
) -> None:
    slow = server.on("/slow.png", answer(image_of(SLOW)))
    killer = server.on(f"/{KILLER}.png", slowly(answer(coloured(0))))
    outcome = run_pipeline([slow, killer], decoders=1)
    assert outcome.reasons == {killer: "decoder_died"}


def slowly(behaviour: Behaviour, *, seconds: float = 0.2) -> Behaviour:
    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await behaviour(request)

    return behave


@pytest.mark.usefixtures("faulty_libraries")
def test_a_decoder_that_is_killed_again_and_again_is_this_machines_fault_and_not_the_images(
    server: ImageServer,
) -> None:
    urls = [server.on("/hang", answer(image_of(HANG)))]

    def kill(_: Pipeline) -> None:
        for _attempt in range(2):
            wait_until(busy_decoders)
            (decoder,) = busy_decoders()
            os.kill(decoder, signal.SIGKILL)
            wait_until(lambda: decoder not in busy_decoders())  # noqa: B023 - called at once

    with pytest.raises(ResourceExhausted, match="raise the memory limit"):
        run_pipeline(urls, while_running=kill)


# Slow images


@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_batch_waits_for_a_slow_image(server: ImageServer, batch_size: int) -> None:
    release = threading.Event()
    slow = [server.on(f"/slow{number}", held(release, then=answer(coloured(number)))) for number in range(9)]
    fast = good_images(server, 90)
    encoder = ColourEncoder()

    def watch(_: Pipeline) -> None:
        wait_until(lambda: sum(encoder.batches) >= 90 - batch_size + 1, 30)
        release.set()

    mixed = [url for number in range(9) for url in (*fast[number * 10 : number * 10 + 10], slow[number])]
    outcome = run_pipeline(
        mixed,
        decoders=3,
        batch_size=batch_size,
        encoder=encoder,
        while_running=watch,
        fetch_concurrency=12,
        fetch_concurrency_per_host=12,
    )
    assert outcome.failures == {}
    assert len(set(outcome.colours)) == 90
    assert sum(outcome.batches) == 99


@pytest.mark.parametrize(("decoders", "batch_size"), [(1, 1), (4, 1), (2, 200)])
def test_any_numbers_of_decoders_and_slots_come_to_an_end(server: ImageServer, decoders: int, batch_size: int) -> None:
    big, small = encoded(noise("RGB", 1500, 1200), "PNG", compress_level=1), coloured(3)
    images = [server.on(f"/{number}", answer(big if number % 5 == 0 else small)) for number in range(60)]
    outcome = run_pipeline(images * 2, decoders=decoders, batch_size=batch_size, max_inflight_bytes=12 << 20)
    assert outcome.failures == {}
    assert outcome.colours.count(colour(3)) == 96


def test_an_encoder_that_is_slow_holds_up_the_fetching(server: ImageServer) -> None:
    urls = good_images(server, 300)
    release = threading.Event()

    class SlowEncoder(ColourEncoder):
        def start(self, pieces: Sequence[Tensor]) -> Callable[[], NDArray[np.float32]]:
            release.wait(30)
            return super().start(pieces)

    asked = []

    def watch(pipeline: Pipeline) -> None:
        wait_until(lambda: pipeline.requests > 20)
        count = -1
        while pipeline.requests != count:
            count = pipeline.requests
            time.sleep(0.5)
        asked.append(count)
        release.set()

    outcome = run_pipeline(
        urls, batch_size=4, encoder=SlowEncoder(), while_running=watch, max_inflight_bytes=1 << 20, fetch_concurrency=8
    )
    assert_all_good(outcome, urls, 300)
    assert asked[0] < 300


# Limits over all processes


def test_all_decoders_together_keep_the_limits_of_requests(server: ImageServer) -> None:
    release = threading.Event()
    urls = good_images(server, 60, lambda good: held(release, then=good))
    answer_at_once(server, urls[0])
    with image_server() as other:
        elsewhere = other.origin.replace("127.0.0.1", "localhost")
        urls += [f"{elsewhere}/{number}.png" for number in range(60, 120)]
        for number in range(60, 120):
            other.on(f"/{number}.png", held(release, then=answer(coloured(number))))

        def watch(_: Pipeline) -> None:
            wait_until(lambda: len(server.requests) + len(other.requests) == 15)
            time.sleep(0.5)
            assert (len(server.requests), len(other.requests)) == (8, 7)
            release.set()

        outcome = run_pipeline(
            urls, decoders=4, while_running=watch, fetch_concurrency=14, fetch_concurrency_per_host=7
        )
        assert outcome.failures == {}
        assert (server.most_at_once[""], other.most_at_once[""]) == (7, 7)


def test_all_decoders_together_keep_the_limit_of_bytes(server: ImageServer) -> None:
    body = encoded(noise("RGB", 1160, 1160), "BMP")
    assert 4_000_000 < len(body) < 4_040_000
    wide, narrow = Sending(body), Sending(body)
    limits: dict[str, Any] = {"fetch_concurrency": 12, "fetch_concurrency_per_host": 12}
    urls = [server.on(f"/wide{number}", wide.behave) for number in range(40)]
    assert run_pipeline(urls, decoders=4, max_inflight_bytes=100 << 20, **limits).failures == {}
    assert wide.most_at_once > 6
    urls = [server.on(f"/narrow{number}", narrow.behave) for number in range(24)]
    assert run_pipeline(urls, decoders=4, max_inflight_bytes=10_000_000, **limits).failures == {}
    assert 1 <= narrow.most_at_once <= 2


class Sending:
    """Sends a body and waits in its middle. It counts how many of its bodies are past their middle at the same time."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at_once = 0
        self.most_at_once = 0

    async def behave(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(self._body)
        # So that little is on its way in the kernel, which gives more room to a connection that has been in use.
        response.force_close()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.set_write_buffer_limits(0)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        half = len(self._body) // 2
        await response.write(self._body[:half])
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0.1)
        await response.write(self._body[half:])
        self._at_once -= 1
        await response.write_eof()
        return response


@pytest.mark.usefixtures("faulty_libraries")
def test_all_decoders_together_decode_one_large_image_at_a_time(server: ImageServer, tmp_path: Path) -> None:
    large = encoded(Image.new("L", (8000, LARGE_PIXELS // 8000 + 1), 80), "PNG")
    urls = [server.on(f"/large{number}", answer(large)) for number in range(6)] + good_images(server, 60)
    outcome = run_pipeline(urls, decoders=4)
    assert outcome.failures == {}
    assert outcome.colours == [(80, 80, 80)] * 6 + [colour(number) for number in range(60)]
    spans = sorted(
        (float(began), float(ended), process)
        for process, began, ended in map(str.split, (tmp_path / "faulty" / "large").read_text().splitlines())
    )
    assert len(spans) == 6
    assert len({process for _, _, process in spans}) > 1
    assert all(one[1] <= next_one[0] for one, next_one in pairwise(spans))


# Images that the manifest holds


@pytest.mark.usefixtures("faulty_libraries")
def test_images_of_the_manifest_come_to_an_end_whatever_they_are_and_however_little_room_they_have(
    server: ImageServer,
) -> None:
    large = encoded(Image.new("L", (8000, LARGE_PIXELS // 8000 + 1), 80), "PNG")
    gone = ImageFailed(Reason.NO_SOURCE, "the row has no bytes")
    special: dict[str, tuple[bytes | ImageFailed, str]] = {
        "crash": (image_of(CRASH), "decoder_died"),
        "once": (image_of(CRASH_ONCE), ""),
        "hang": (image_of(HANG), "decode_timeout"),
        "text": (b"no picture", "not_an_image"),
        "large": (large, ""),
        "large too": (large, ""),
        "no URL": (gone, "invalid_url"),
        server.on("/slow.png", slowly(answer(coloured(7)))): (gone, ""),
    }
    contents: list[bytes | ImageFailed] = [coloured(number) for number in range(100)]
    urls = [str(number) for number in range(100)]
    for place, (url, (content, _)) in enumerate(special.items()):
        contents.insert(place * 13, content)
        urls.insert(place * 13, url)
    with Spool((each for each in enumerate(contents)), most_bytes=2000) as spool:
        outcome = run_pipeline(urls, held=spool, decode_cpu_seconds=0.5)
    assert outcome.reasons == {url: reason for url, (_, reason) in special.items() if reason}
    good = [found for found, url in zip(outcome.colours, urls, strict=True) if url not in special]
    assert good == [colour(number) for number in range(100)]


def test_an_error_of_the_manifests_source_ends_the_chunk() -> None:
    def images() -> Generator[tuple[int, bytes | ImageFailed]]:
        yield from ((number, coloured(number)) for number in range(20))
        raise SourceUnavailable("the manifest's server is gone")

    with (
        Spool(images()) as spool,
        pytest.raises(SourceUnavailable, match="the manifest's server is gone"),
    ):
        run_pipeline([str(number) for number in range(40)], held=spool)


# The device


def test_a_device_that_does_not_answer_ends_the_chunk_and_blames_no_image(server: ImageServer) -> None:
    release = threading.Event()

    class DeafDevice(ColourEncoder):
        def start(self, pieces: Sequence[Tensor]) -> Callable[[], NDArray[np.float32]]:
            release.wait(60)
            return super().start(pieces)

        def too_slow(self, seconds: float) -> DeviceUnavailable:
            return DeviceUnavailable(f"no batch in {seconds} s")

    try:
        with pytest.raises(DeviceUnavailable, match="no batch in 1"):
            run_pipeline(good_images(server, 20), encoder=DeafDevice(), encode_timeout_seconds=1)
    finally:
        release.set()
