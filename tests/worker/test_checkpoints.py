"""What a chunk has embedded survives its pod: the next attempt goes on from the checkpoints, to the same bytes."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from common.run.keys import CHECKPOINTS_PREFIX, chunk_key
from tests.image_server import answer, held, image_server
from tests.worker.images import encoded, noise
from tests.worker.worker_process import (
    Ended,
    object_keys,
    read_chunk,
    run_worker,
    start_worker,
    worker_environment,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from subprocess import Popen

    from common.store.contract import Store
    from tests.image_server import ImageServer

ROWS = 48
"""Number of the chunk's images. The last third of them is not answered until the test says so."""

ANSWERED = 32
"""Number of images that are answered at once."""

OFTEN = 0.1
"""Time between two checkpoints in these tests, in seconds."""

SECONDS = 60
"""Longest time that a test waits for a worker to come to some point, in seconds."""


class Photos(NamedTuple):
    """A list of images on a server that holds back the last of them."""

    server: ImageServer
    manifest: Path
    release: threading.Event
    urls: list[str]
    model: Path
    expected: bytes
    """The vectors of an undisturbed run."""

    def settings(self, uri: str, **others: Any) -> dict[str, Any]:  # noqa: ANN401 - any setting
        return {
            "run_uri": uri,
            "manifest_uri": self.manifest,
            "model": self.model,
            "batch_size": 8,
            "checkpoint_seconds": OFTEN,
            "fetch_concurrency": 64,
        } | others

    def asked(self) -> list[int]:
        """Return how often each image was asked for."""
        return [self.server.count(f"/{row}.jpg") for row in range(ROWS)]

    def forget_requests(self) -> None:
        self.server.requests.clear()


@pytest.fixture(scope="module")
def listed(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Photos]:
    folder = tmp_path_factory.mktemp("listed")
    with image_server() as server:
        release = threading.Event()
        urls = []
        for row in range(ROWS):
            jpeg = answer(encoded(noise("RGB", 40, 40, seed=row), "JPEG"))
            urls.append(server.on(f"/{row}.jpg", jpeg if row < ANSWERED else held(release, then=jpeg)))
        manifest = write_manifest(folder, [*urls, server.url("/gone.jpg")])
        photos = Photos(server, manifest, release, urls, tiny_clip, b"")
        release.set()
        ended = run_worker(**photos.settings(str(folder / "undisturbed"), checkpoint_seconds=0))
        assert ended.exit_code == 0, ended.log
        yield photos._replace(expected=read_chunk(folder / "undisturbed").embeddings.tobytes())
        release.set()


@pytest.fixture
def photos(listed: Photos) -> Iterator[Photos]:
    listed.release.clear()
    listed.forget_requests()
    yield listed
    listed.release.set()


def checkpoint_keys(store: Store) -> list[str]:
    return sorted(found.key for found in store.list(CHECKPOINTS_PREFIX))


@contextmanager
def worker(settings: dict[str, Any]) -> Iterator[Popen[str]]:
    with start_worker(worker_environment(**settings)) as process:
        try:
            yield process
        finally:
            process.kill()


def kept_rows(line: str) -> int:
    return int(line.partition(" kept=")[2].split()[0])


def wait_until_kept(process: Popen[str], rows: int) -> str:
    """Wait until checkpoints keep so many rows of the worker, and return its log until then."""
    lines = []
    assert process.stderr is not None
    deadline = time.monotonic() + SECONDS
    for line in process.stderr:
        lines.append(line)
        if " checkpoint " in line and kept_rows(line) >= rows:
            return "".join(lines)
        assert time.monotonic() < deadline, "".join(lines)
    raise AssertionError("".join(lines))


def killed(photos: Photos, store: Store, *, rows: int = ANSWERED, **settings: Any) -> None:  # noqa: ANN401
    """Run a worker until checkpoints keep so many rows, and kill it."""
    with worker(photos.settings(store.uri, **settings)) as process:
        wait_until_kept(process, rows)
        process.kill()
    photos.forget_requests()


def finished(photos: Photos, store: Store, **settings: Any) -> Ended:  # noqa: ANN401 - any setting
    """Run a worker to its end, and check that the chunk is that of an undisturbed run."""
    photos.release.set()
    ended = run_worker(**photos.settings(store.uri, **settings))
    assert ended.exit_code == 0, ended.log
    assert "Traceback" not in ended.log
    assert_undisturbed(photos, store)
    return ended


def assert_undisturbed(photos: Photos, store: Store) -> None:
    chunk = read_chunk(store.uri)
    assert chunk.urls == photos.urls
    assert chunk.embeddings.tobytes() == photos.expected
    assert chunk.failures == {photos.server.url("/gone.jpg"): "not_found"}
    assert object_keys(store) == [chunk_key(0)]


def test_the_next_attempt_fetches_only_what_a_killed_worker_has_not_embedded(photos: Photos, store: Store) -> None:
    killed(photos, store)
    assert checkpoint_keys(store)
    assert checkpoint_keys(store) == object_keys(store)
    ended = finished(photos, store)
    assert ended.events("resumed")[0].values["rows"] == str(ANSWERED)
    assert photos.asked() == [0] * ANSWERED + [1] * (ROWS - ANSWERED)
