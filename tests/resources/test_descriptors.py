"""The number of open files and threads does not grow during a run, whatever the hosts do.

A program whose limit of open files is too low ends with 75.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from common.errors import ExitCode, ResourceExhausted
from common.store import open_store
from tests.image_server import ImageServer, answer, first, image_server, partly, redirect, reset
from tests.merger.runs import assert_merged, merger_environment, put_run
from tests.resources.program import MERGER, SECONDS, WORKER, run
from tests.worker.worker_process import (
    PHOTOS,
    Ended,
    object_keys,
    read_chunk,
    start_worker,
    worker_environment,
    write_manifest,
)
from worker.encode.model import find_model

if TYPE_CHECKING:
    import subprocess

    from aiohttp import web

    from tests.image_server import Behaviour

pytestmark = pytest.mark.slow

PHOTO = min(PHOTOS, key=lambda path: path.stat().st_size).read_bytes()

CONCURRENCY = 8


class Held(NamedTuple):
    """The numbers of open files and threads of a process at one moment."""

    files: int
    threads: int


class Watch:
    """Counts what a process holds whenever it asks the server for an image."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.seen: list[Held] = []

    def before(self, behaviour: Behaviour) -> Behaviour:
        async def behave(request: web.BaseRequest) -> web.StreamResponse:
            if self.process is not None:
                folder = Path(f"/proc/{self.process.pid}")
                self.seen.append(Held(*(len(list((folder / name).iterdir())) for name in ("fd", "task"))))
            return await behaviour(request)

        return behave


def images(server: ImageServer, watch: Watch, count: int) -> list[str]:
    """Return URLs. One half are photos; the other half fail in every way, at another host name."""
    ways = [
        first(1, reset(), then=answer(PHOTO)),
        partly(PHOTO[:500], announced=len(PHOTO)),
        answer(b"no image"),
        answer(status=404),
        redirect("/elsewhere"),
    ]
    urls = []
    for number in range(count // 2):
        urls.append(server.on(f"/{number}.jpg", watch.before(answer(PHOTO))))
        server.on(f"/{number}.bad", watch.before(ways[number % len(ways)]))
        urls.append(f"{server.origin.replace('127.0.0.1', 'localhost')}/{number}.bad")
    return urls


def test_a_worker_holds_no_more_files_and_threads_late_in_its_chunk_than_early(
    tmp_path: Path, wide_tower: Path
) -> None:
    watch = Watch()
    with image_server() as server:
        urls = images(server, watch, 600)
        environment = worker_environment(
            manifest_uri=write_manifest(tmp_path, urls),
            run_uri=tmp_path / "run",
            model=wide_tower,
            dtype="float32",
            max_failure_ratio=1,
            fetch_concurrency=CONCURRENCY,
            fetch_attempts=2,
            fetch_concurrency_per_host=CONCURRENCY,
            # With little room, most images are fetched after everything is loaded.
            max_inflight_bytes=1 << 20,
            max_image_bytes=1 << 16,
        )
        with start_worker(environment) as process:
            watch.process = process
            _, log = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, log
    assert len([url for url in read_chunk(tmp_path / "run").urls if url.endswith(".jpg")]) == 300
    early, late = watch.seen[len(watch.seen) // 4 : len(watch.seen) // 2], watch.seen[-len(watch.seen) // 4 :]
    assert len(late) > 50
    assert max(held.files for held in late) <= max(held.files for held in early) + CONCURRENCY
    assert max(held.threads for held in late) <= max(held.threads for held in early) + 2


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_merge_opens_no_more_files_for_more_chunks(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    uri, sdk = str(tmp_path / "run"), {}
    if kind == "s3":
        sdk, uri = request.getfixturevalue("s3_environment"), f"s3://{request.getfixturevalue('bucket')}/run"
    store = open_store(uri)
    chunks = put_run(store, [3] * 120, failed=1)
    environment = merger_environment(uri, len(chunks), sdk, merge_concurrency="4")
    # A third of the files that would be open if every chunk stayed open.
    ended = run(MERGER, environment, prefix=["prlimit", "--nofile=40"])
    assert ended.exit_code == 0, ended.log
    assert_merged(store, chunks)


def assert_too_few_files(ended: Ended) -> None:
    assert ended.exit_code == ExitCode.TEMPORARY_FAILURE, ended.log
    assert "Too many open files" in ended.last_word
    assert "CONCURRENCY" in ended.last_word  # the settings that can be lowered
    assert "Traceback" not in ended.log


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_merge_that_may_open_too_few_files_says_what_to_change_and_leaves_the_chunks(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri, sdk = str(tmp_path / "run"), {}
    if kind == "s3":
        sdk, uri = request.getfixturevalue("s3_environment"), f"s3://{request.getfixturevalue('bucket')}/run"
    store = open_store(uri)
    chunks = put_run(store, [3] * 40)
    before = object_keys(store)
    for limit in (6, 8):  # 9 can be enough, if the merge's threads never open files at the same time
        ended = run(MERGER, merger_environment(uri, len(chunks), sdk), prefix=["prlimit", f"--nofile={limit}"])
        assert_too_few_files(ended)
        assert object_keys(store) == before
    assert run(MERGER, merger_environment(uri, len(chunks), sdk)).exit_code == 0
    assert_merged(store, chunks)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_worker_that_may_open_too_few_files_says_what_to_change_and_blames_no_image(
    kind: str, tmp_path: Path, wide_tower: Path, request: pytest.FixtureRequest
) -> None:
    uri, sdk = str(tmp_path / "run"), {}
    if kind == "s3":
        sdk, uri = request.getfixturevalue("s3_environment"), f"s3://{request.getfixturevalue('bucket')}/run"
    with image_server() as server:
        urls = [server.on(f"/{number}.jpg", answer(PHOTO)) for number in range(100)]
        manifest = write_manifest(tmp_path, [*urls, str(PHOTOS[0])])
        settings = worker_environment(manifest_uri=manifest, run_uri=uri, model=wide_tower, dtype="float32")
        for limit in (8, 12, 30):
            ended = run(WORKER, settings | sdk, prefix=["prlimit", f"--nofile={limit}"])
            assert_too_few_files(ended)
            assert object_keys(open_store(uri)) == []
        ended = run(WORKER, settings | sdk | {"EMBEDDER_FETCH_CONCURRENCY": "4"}, prefix=["prlimit", "--nofile=64"])
        assert ended.exit_code == 0, ended.log
    assert read_chunk(uri).failures == {}


def test_weights_that_cannot_be_opened_because_of_too_many_open_files_are_not_called_bad(wide_tower: Path) -> None:
    # Bad weights would end the whole Job, although another node may have files to open.
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
    try:
        with pytest.raises(ResourceExhausted, match="Too many open files"):
            find_model(str(wide_tower), revision="")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert find_model(str(wide_tower), revision="").folder == wide_tower
