"""Decoders crash, hang and are killed, and each time only the image at fault is lost, or none."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
from PIL import Image
from worker.decode.decoders import Decoders

from common.errors import ExitCode, ResourceExhausted
from tests.image_server import ImageServer, answer, image_server
from tests.worker.images import encoded, photo
from tests.worker.worker_process import (
    PHOTOS,
    read_chunk,
    run_worker,
    start_worker,
    worker_environment,
    write_manifest,
)
from worker.decode.preprocess import LARGE_PIXELS, image_square
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from numpy.typing import NDArray

T = TypeVar("T")

CRASH, CRASH_ONCE, HANG = (61, 61), (62, 61), (63, 61)
"""Sizes of the images on which the faulty library crashes or hangs."""

FAULTY_LIBRARY = f"""
import ctypes, pathlib, simplejpeg
from PIL import Image

crashed = pathlib.Path(__file__).with_name("crashed")
right_resize, right_header = Image.Image.resize, simplejpeg.decode_jpeg_header

def fail(size):
    if size == {CRASH}:
        ctypes.string_at(0)
    if size == {CRASH_ONCE} and not crashed.exists():
        crashed.touch()
        ctypes.string_at(0)
    while size == {HANG}:
        pass

def resize(image, *arguments, **named):
    fail(image.size)
    return right_resize(image, *arguments, **named)

def decode_header(data, *arguments, **named):
    height, width, *rest = right_header(data, *arguments, **named)
    fail((width, height))
    return height, width, *rest

Image.Image.resize, simplejpeg.decode_jpeg_header = resize, decode_header
"""


@pytest.fixture
def faulty_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Pillow and simplejpeg faulty in every process that is started after this."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULTY_LIBRARY, "utf-8")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    )


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


class Pool:
    """Decoders and their event loop."""

    def __init__(self, decoders: Decoders, loop: asyncio.Runner) -> None:
        self._decoders = decoders
        self._loop = loop

    def pixels(self, data: bytes, *, rotation: int = 0, may_be_large: bool = True) -> NDArray[np.uint8]:
        return self.run(lambda: self.ask(data, rotation=rotation, may_be_large=may_be_large))

    async def ask(self, data: bytes, *, rotation: int = 0, may_be_large: bool = True) -> NDArray[np.uint8]:
        async with self._decoders.idle() as decoder:
            square = await decoder.square(
                data, rotation=rotation, size=224, max_pixels=10**9, may_be_large=may_be_large
            )
            return square.copy()

    def run(self, ask: Callable[[], Awaitable[T]]) -> T:
        async def listen() -> T:
            with self._decoders.listening():
                return await ask()

        return self._loop.run(listen())


@contextmanager
def decoders(count: int = 1, *, timeout_seconds: float = 30) -> Iterator[Pool]:
    with (
        closing(Decoders(count, max_image_bytes=64 << 20, timeout_seconds=timeout_seconds)) as pool,
        asyncio.Runner() as loop,
    ):
        yield Pool(pool, loop)


def image_of(size: tuple[int, int], kind: str = "PNG") -> bytes:
    return encoded(photo().resize(size), kind)


def descendants(process: int) -> list[int]:
    """Return the descendants of `process`, parents before their children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(folder.read_text().rpartition(")")[2].split()[1])
        except OSError:  # the process has just ended
            continue
        if parent == process:
            found.append(int(folder.parent.name))
    return [*found, *(each for child in found for each in descendants(child))]


def decoder_processes() -> list[int]:
    """Return the server of this process's only pool, and its decoders."""
    return [
        process
        for process in descendants(os.getpid())
        if b"worker.decode.decoder_server" in Path(f"/proc/{process}/cmdline").read_bytes()
    ]


def busy_decoders(of: int | None = None) -> set[int]:
    """Return the decoders of a worker, by default of this process, that have used far more CPU time than a start."""
    found = set()
    for process in descendants(of or os.getpid()):
        try:
            status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            is_forked = command == Path(f"/proc/{status[1]}/cmdline").read_bytes()
            if is_forked and sum(map(int, status[11:13])) >= 20:
                found.add(process)
        except OSError:  # the process has just ended
            continue
    return found


def is_asleep(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_pixels_equal_those_of_the_same_code_in_this_process() -> None:
    with decoders(2) as pool:
        for path in PHOTOS:
            for rotation in (0, 90):
                expected = image_square(path.read_bytes(), rotation=rotation, max_pixels=10**9).numpy()
                assert np.array_equal(pool.pixels(path.read_bytes(), rotation=rotation), expected), path.name


def test_no_image_gets_the_pixels_of_a_cancelled_request() -> None:
    slow, others = image_of((3000, 3000), "JPEG"), [path.read_bytes() for path in PHOTOS[:4]]

    async def ask_and_leave(pool: Pool) -> list[NDArray[np.uint8]]:
        await asyncio.gather(pool.ask(slow), pool.ask(slow))  # both decoders have started
        left = asyncio.create_task(pool.ask(slow))
        await asyncio.sleep(0.005)
        left.cancel()
        return await asyncio.gather(*map(pool.ask, others))

    with decoders(2) as pool:
        found = pool.run(lambda: ask_and_leave(pool))
    for data, square in zip(others, found, strict=True):
        assert np.array_equal(square, image_square(data, max_pixels=10**9).numpy())


@pytest.mark.usefixtures("faulty_library")
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_decoder_that_dies_of_an_image_costs_that_image(kind: str) -> None:
    with decoders() as pool:
        before = pool.pixels(image_of((70, 61), kind))
        with pytest.raises(ImageFailed, match=r"decoder_died.*SIGSEGV"):
            pool.pixels(image_of(CRASH, kind))
        assert np.array_equal(pool.pixels(image_of((70, 61), kind)), before)


@pytest.mark.usefixtures("faulty_library")
def test_an_image_is_not_blamed_for_one_death() -> None:
    with decoders() as pool:
        assert pool.pixels(image_of(CRASH_ONCE)).shape == (224, 224, 3)


@pytest.mark.usefixtures("faulty_library")
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_decoder_that_hangs_on_an_image_costs_that_image(kind: str) -> None:
    with decoders(timeout_seconds=0.5) as pool:
        with pytest.raises(ImageFailed, match="decode_timeout"):
            pool.pixels(image_of(HANG, kind))
        assert pool.pixels(image_of((70, 61), kind)).shape == (224, 224, 3)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
@pytest.mark.parametrize("deaths", [1, 3])
def test_decoders_that_die_while_they_are_idle_cost_nothing(deaths: int, number: signal.Signals) -> None:
    with decoders() as pool:
        pool.pixels(image_of((70, 61)))
        server, *_ = decoder_processes()
        for _ in range(deaths):
            (decoder,) = descendants(server)
            os.kill(decoder, number)
            wait_until(lambda: descendants(server) not in ([], [decoder]))  # noqa: B023 - called at once
        wait_until(lambda: is_asleep(*descendants(server)))
        assert pool.pixels(image_of((70, 61))).shape == (224, 224, 3)


@pytest.mark.usefixtures("faulty_library")
def test_a_decoder_that_is_killed_is_this_machines_fault_and_not_the_images() -> None:
    with decoders() as pool:
        pool.pixels(image_of((70, 61)))
        raised: list[BaseException] = []

        def hang() -> None:
            try:
                pool.pixels(image_of(HANG))
            except ResourceExhausted as error:
                raised.append(error)

        thread = threading.Thread(target=hang)
        thread.start()
        for _ in range(2):  # attempts
            wait_until(busy_decoders)
            (decoder,) = busy_decoders()
            os.kill(decoder, signal.SIGKILL)
            wait_until(lambda: not busy_decoders())
        thread.join(60)
        assert "raise the memory limit" in str(raised[0])


def test_without_a_server_of_decoders_this_machine_is_at_fault() -> None:
    with decoders() as pool:
        pool.pixels(image_of((70, 61)))
        server, decoder = decoder_processes()
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{decoder}/cwd").exists())
        with pytest.raises(ResourceExhausted, match="the decoders have ended"):
            pool.pixels(image_of((70, 61)))


def test_a_large_image_is_refused_only_if_it_must_not_be_large() -> None:
    large = encoded(Image.new("L", (8000, LARGE_PIXELS // 8000 + 1)), "PNG")
    with decoders() as pool:
        with pytest.raises(LargeImage):
            pool.pixels(large, may_be_large=False)
        assert pool.pixels(large).shape == (224, 224, 3)


def test_no_decoder_knows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HTTPS_PROXY", "EMBEDDER_RUN_URI"):
        monkeypatch.setenv(name, "planted")
    with decoders() as pool:
        pool.pixels(image_of((70, 61)))
        for process in descendants(os.getpid()):
            assert b"planted" not in Path(f"/proc/{process}/environ").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("faulty_library")
def test_a_workers_ledger_says_which_images_its_decoders_died_of(server: ImageServer, tmp_path: Path) -> None:
    sizes = {"good": (70, 61), "crash": CRASH, "hang": HANG, "once": CRASH_ONCE, "also-good": (64, 61)}
    urls = {
        (name, kind): server.on(f"/{name}.{kind}", answer(image_of(size, kind)))
        for name, size in sizes.items()
        for kind in ("PNG", "JPEG")
    }
    ended = run_worker(
        manifest_uri=write_manifest(tmp_path, list(urls.values())),
        run_uri=tmp_path / "run",
        decode_timeout_seconds=1,
        max_failure_ratio=1,
    )
    assert ended.exit_code == ExitCode.OK, ended.log
    reasons = {"crash": "decoder_died", "hang": "decode_timeout"}
    expected = {url: reasons[name] for (name, _), url in urls.items() if name in reasons}
    chunk = read_chunk(tmp_path / "run")
    assert chunk.failures == expected
    assert chunk.urls == [url for url in urls.values() if url not in chunk.failures]


@pytest.mark.slow
@pytest.mark.usefixtures("faulty_library")
def test_no_decoder_outlives_a_worker_that_is_killed(server: ImageServer, tmp_path: Path) -> None:
    hang = server.on("/hang.png", answer(image_of(HANG)))
    with start_worker(
        worker_environment(manifest_uri=write_manifest(tmp_path, [hang] * 4), run_uri=tmp_path / "run")
    ) as worker:
        wait_until(lambda: busy_decoders(worker.pid))
        family = descendants(worker.pid)
        worker.kill()
        worker.communicate()
    wait_until(lambda: not any(Path(f"/proc/{process}/cwd").exists() for process in family))
