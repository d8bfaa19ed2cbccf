"""What a chunk has embedded survives its pod: the next attempt goes on from the checkpoints, to the same bytes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from common.format.checkpoint_file import checkpoint_bytes, read_checkpoint
from common.run.keys import CHECKPOINTS_PREFIX, CHUNKS_PREFIX, chunk_key
from common.store import open_store
from tests.image_server import answer, image_server
from tests.merger.runs import read_result
from tests.s3_proxy import INTERNAL_ERROR, Answer, s3_proxy, stall
from tests.worker.images import encoded, noise
from tests.worker.worker_process import (
    Ended,
    object_keys,
    read_chunk,
    read_header_of,
    run_worker,
    start_worker,
    worker_environment,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from subprocess import Popen

    from aiohttp import web

    from common.store.contract import Store
    from tests.image_server import Behaviour, ImageServer
    from tests.s3_proxy import Reaction, Request
    from tests.s3_server import S3Server

ROWS = 48
"""Number of the chunk's images. The last third of them is not answered until the test says so."""

ANSWERED = 32
"""Number of images that are answered at once."""

OFTEN = 0.1
"""Time between two checkpoints in these tests, in seconds."""

SECONDS = 120
"""Longest time that a test waits for a worker to come to some point, in seconds."""


class Photos(NamedTuple):
    """A list of images on a server that holds back the last of them."""

    server: ImageServer
    manifest: Path
    release: threading.Event
    urls: list[str]
    model: Path
    undisturbed: Path
    """The folder of an undisturbed run."""
    expected: bytes
    """Its vectors."""

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


def later(release: threading.Event, *, then: Behaviour) -> Behaviour:
    """Wait for the event, however long it takes, then behave like `then`."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        while not release.is_set():
            await asyncio.sleep(0.02)
        return await then(request)

    return behave


@pytest.fixture(scope="module")
def listed(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Photos]:
    folder = tmp_path_factory.mktemp("listed")
    with image_server() as server:
        release = threading.Event()
        urls = []
        for row in range(ROWS):
            jpeg = answer(encoded(noise("RGB", 40, 40, seed=row), "JPEG"))
            urls.append(server.on(f"/{row}.jpg", jpeg if row < ANSWERED else later(release, then=jpeg)))
        manifest = write_manifest(folder, [*urls, server.url("/gone.jpg")])
        photos = Photos(server, manifest, release, urls, tiny_clip, folder / "undisturbed", b"")
        release.set()
        ended = run_worker(**photos.settings(str(photos.undisturbed), checkpoint_seconds=0))
        assert ended.exit_code == 0, ended.log
        yield photos._replace(expected=read_chunk(photos.undisturbed).embeddings.tobytes())
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


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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


@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_the_next_attempt_fetches_only_what_a_killed_worker_has_not_embedded(photos: Photos, store: Store) -> None:
    killed(photos, store)
    assert checkpoint_keys(store)
    assert checkpoint_keys(store) == object_keys(store)
    ended = finished(photos, store)
    assert ended.events("resumed")[0].values["rows"] == str(ANSWERED)
    assert photos.asked() == [0] * ANSWERED + [1] * (ROWS - ANSWERED)
    times = read_header_of(store, 0).times
    assert times is not None
    assert [attempt.images for attempt in times.attempts] == [ANSWERED, ROWS - ANSWERED]
    assert times.earlier[0].ended_at <= times.started_at
    assert 0 < times.earlier[0].seconds <= SECONDS


@pytest.fixture(scope="module")
def left_behind(listed: Photos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in which a worker was killed."""
    listed.release.clear()
    folder = tmp_path_factory.mktemp("left-behind") / "run"
    killed(listed, open_store(str(folder)))
    return folder


@pytest.fixture
def interrupted(left_behind: Path, tmp_path: Path) -> Store:
    """A copy of the run in which a worker was killed."""
    return open_store(str(shutil.copytree(left_behind, tmp_path / "run")))


def all_kept(photos: Photos, store: Store) -> None:
    """Put one checkpoint with all rows of the undisturbed run into the store, in place of those that are there."""
    keys = checkpoint_keys(store)
    some = read_checkpoint(store.read(keys[0]), name=keys[0])
    vectors = np.frombuffer(photos.expected, np.float32).reshape(ROWS, -1)
    store.delete(keys)
    whole = dataclasses.replace(some, rows=np.arange(ROWS, dtype=np.int64), vectors=vectors)
    store.put_bytes(keys[-1], checkpoint_bytes(whole))


@pytest.mark.slow
def test_a_chunk_whose_rows_are_all_kept_is_stored_with_the_failures_tried_again(
    photos: Photos, interrupted: Store
) -> None:
    all_kept(photos, interrupted)
    finished(photos, interrupted)
    assert photos.asked() == [0] * ROWS
    assert photos.server.count("/gone.jpg") == 1


@pytest.mark.slow
def test_a_chunk_without_any_row_to_fetch_is_stored(photos: Photos, tmp_path: Path) -> None:
    # The list without its last line is another list, so its run has checkpoints of its own.
    manifest = write_manifest(tmp_path, photos.urls, "whole.txt")
    store = open_store(str(tmp_path / "whole"))
    settings = photos.settings(store.uri, manifest_uri=manifest)
    with worker(settings) as process:
        wait_until_kept(process, ANSWERED)
        process.kill()
    all_kept(photos, store)
    photos.forget_requests()
    ended = run_worker(**settings)
    assert ended.exit_code == 0, ended.log
    assert photos.asked() == [0] * ROWS
    assert read_chunk(store.uri).embeddings.tobytes() == photos.expected
    assert object_keys(store) == [chunk_key(0)]


@pytest.mark.slow
def test_checkpoints_of_other_settings_are_left_alone_named_and_gone_in_the_end(
    photos: Photos, interrupted: Store
) -> None:
    photos.release.set()
    ended = run_worker(**photos.settings(interrupted.uri, rotate=False))
    assert ended.exit_code == 0, ended.log
    assert all("other settings" in line.values["error"] for line in ended.events("checkpoint_ignored"))
    assert ended.events("resumed")[0].values["rows"] == "0"
    assert photos.asked() == [1] * ROWS
    assert object_keys(interrupted) == [chunk_key(0)]


@pytest.mark.slow
def test_without_the_setting_checkpoints_are_neither_written_nor_read_and_gone_in_the_end(
    photos: Photos, interrupted: Store
) -> None:
    ended = finished(photos, interrupted, checkpoint_seconds=0)
    assert not ended.events("resumed")
    assert photos.asked() == [1] * ROWS


@pytest.mark.slow
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_two_pods_on_one_chunk_leave_one_chunk_and_no_checkpoint(photos: Photos, store: Store) -> None:
    with worker(photos.settings(store.uri)) as one, worker(photos.settings(store.uri)) as other:
        for each in (one, other):
            wait_until_kept(each, ANSWERED)
        photos.release.set()
        for each in (one, other):
            _, log = each.communicate(timeout=SECONDS)
            assert each.returncode == 0, log
    assert_undisturbed(photos, store)


@pytest.mark.slow
def test_a_chunk_that_is_in_the_store_has_its_checkpoints_removed(photos: Photos, interrupted: Store) -> None:
    interrupted.put_bytes(chunk_key(0), open_store(str(photos.undisturbed)).read(chunk_key(0)))
    assert checkpoint_keys(interrupted)
    ended = finished(photos, interrupted)
    assert "already" in ended.last_word
    assert photos.asked() == [0] * ROWS


@pytest.mark.slow
def test_a_chunk_in_which_too_many_images_fail_keeps_its_checkpoints_for_the_rerun(
    photos: Photos, interrupted: Store
) -> None:
    before = checkpoint_keys(interrupted)
    photos.release.set()
    ended = run_worker(**photos.settings(interrupted.uri, max_failure_ratio=0))
    assert ended.exit_code == 65, ended.log
    assert checkpoint_keys(interrupted)[: len(before)] == before
    finished(photos, interrupted)


STALLED = stall(SECONDS)


@pytest.mark.slow
def test_an_embedder_run_that_was_killed_goes_on_from_its_checkpoints(photos: Photos, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"checkpoint_seconds": OFTEN, "batch_size": 8, "allow_private_hosts": True, "fetch_concurrency": 64}
    command = [sys.executable, "-c", "from embedder.cli import main; main()", "run", str(photos.manifest), str(run)]
    options = ["--chunks", "1", "--model", str(photos.model), "--log-dir", str(tmp_path / "logs")]
    environment = os.environ | {f"EMBEDDER_{name.upper()}": str(value) for name, value in settings.items()}
    store = open_store(str(run))
    with subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL) as program:
        wait_for(lambda: _kept(store) == ANSWERED)
        program.kill()
    photos.release.set()
    photos.forget_requests()
    ended = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert ended.returncode == 0, ended.stderr
    assert photos.asked() == [0] * ANSWERED + [1] * (ROWS - ANSWERED)
    assert read_result(store).embeddings.tobytes() == photos.expected
    assert list(store.list(CHUNKS_PREFIX)) == []


def _kept(store: Store) -> int:
    """Return the number of rows that checkpoints in the store keep."""
    return sum(len(read_checkpoint(store.read(key), name=key).rows) for key in checkpoint_keys(store))


REFUSED = Answer(403, b"<Error><Code>AccessDenied</Code><Message>no checkpoints</Message></Error>")


def is_checkpoint(request: Request) -> bool:
    return request.method == "PUT" and "/checkpoint_" in request.path


@pytest.mark.slow
@pytest.mark.parametrize("fault", [REFUSED, INTERNAL_ERROR, STALLED], ids=["refused", "failing", "silent"])
def test_a_store_that_takes_no_checkpoints_gets_the_chunk(
    fault: Reaction, photos: Photos, s3: S3Server, bucket: str
) -> None:
    store = open_store(f"s3://{bucket}/run")
    with s3_proxy(s3, lambda request: fault if is_checkpoint(request) else None) as proxy:
        environment = worker_environment(**photos.settings(store.uri)) | proxy.environment
        with start_worker(environment) as process:
            wait_for(lambda: any(is_checkpoint(request) for request in proxy.requests))
            photos.release.set()
            _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    if fault is REFUSED:
        assert "no_checkpoint" in log
    assert_undisturbed(photos, store)


def test_a_worker_that_is_stopped_while_the_store_keeps_a_checkpoint_waiting_ends_at_once(
    photos: Photos, s3: S3Server, bucket: str
) -> None:
    store = open_store(f"s3://{bucket}/run")
    with s3_proxy(s3, lambda request: STALLED if is_checkpoint(request) else None) as proxy:
        environment = worker_environment(**photos.settings(store.uri)) | proxy.environment
        with start_worker(environment) as process:
            wait_for(lambda: any(is_checkpoint(request) for request in proxy.requests))
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, log
    assert time.monotonic() - began < 6
    assert "Traceback" not in log
    assert object_keys(store) == []
