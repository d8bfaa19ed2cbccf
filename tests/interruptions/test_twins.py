"""Two pods do the same work at the same time. Whichever is late, there is one right chunk and one right result."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from tests.image_server import answer, first
from tests.interruptions.killing import SECONDS, asks
from tests.interruptions.runs import ended
from tests.merger.runs import assert_merged, make_chunk, put_chunk, read_summary, run_merger
from tests.s3_proxy import NOT_IMPLEMENTED, Answer, Fault, has_condition, s3_proxy
from tests.worker.worker_process import (
    PHOTOS,
    Ended,
    object_keys,
    read_chunk,
    run_worker,
    start_worker,
    worker_environment,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from subprocess import Popen

    from aiohttp import web

    from common.store.contract import Store
    from tests.image_server import ImageServer
    from tests.s3_proxy import Reaction, Request
    from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

FINISHED = [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY]


class Held:
    """A program that waits at one of its requests, or for the answer to it, until the test lets it go."""

    def __init__(self, request: Callable[[Request], bool], *, nth: int, is_answered: bool, others: Reaction) -> None:
        self._request, self._left, self._is_answered, self._others = request, nth, is_answered, others
        self._lock = threading.Lock()
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.process: Popen[str]

    def __call__(self, request: Request) -> Reaction:
        if self._others is not None and has_condition(request):
            return self._others
        with self._lock:
            self._left -= self._request(request)
            is_it = self._left == 0 and self._request(request)
        if not is_it:
            return None
        if self._is_answered:
            return Fault(change=self._wait)
        self._wait(None)
        return None

    def _wait(self, answer: Answer | None) -> Answer:
        self.reached.set()
        assert self.go_on.wait(SECONDS)
        return answer or Answer(500, b"")

    def let_go(self) -> Ended:
        self.go_on.set()
        _, log = self.process.communicate(timeout=SECONDS)
        return Ended(self.process.returncode, log)


@contextmanager
def held_up(
    start: Callable[[Mapping[str, str]], Popen[str]],
    request: Callable[[Request], bool],
    *,
    s3: S3Server,
    nth: int = 1,
    is_answered: bool = False,
    others: Reaction = None,
) -> Iterator[Held]:
    """Start a program, and yield it when it waits at its n-th such request.

    `others` is the answer to every request with a condition, where it is set.
    """
    hold = Held(request, nth=nth, is_answered=is_answered, others=others)
    with s3_proxy(s3, hold) as proxy, start(proxy.environment) as hold.process:
        try:
            while not hold.reached.wait(0.1):
                assert hold.process.poll() is None, hold.let_go().log
            yield hold
        finally:
            hold.go_on.set()
            hold.process.kill()


class Workers(NamedTuple):
    """The workers of a run with two chunks."""

    uri: str
    manifest: Path
    chunks: Store
    """A store with both chunks of the run, from pods that have ended."""

    def settings(self, **settings: object) -> dict[str, object]:
        return {"run_uri": self.uri, "manifest_uri": self.manifest, "chunk_count": 2, **settings}

    def start(self, **settings: object) -> Callable[[Mapping[str, str]], Popen[str]]:
        environment = worker_environment(**self.settings(**settings))  # type: ignore[arg-type]
        return lambda sdk: start_worker(environment | dict(sdk))

    def run(self, **settings: object) -> Ended:
        ended = run_worker(**self.settings(**settings))  # type: ignore[arg-type]
        assert ended.exit_code == 0, ended.log
        return ended

    def have_stored(self, *indexes: int) -> None:
        """Put these chunks into the store."""
        for index in indexes:
            self.store.put_bytes(chunk_key(index), self.chunks.read(chunk_key(index)), overwrite=False)

    @property
    def store(self) -> Store:
        return open_store(self.uri)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("manifest"), [str(photo) for photo in PHOTOS[:10]])


@pytest.fixture(scope="module")
def chunks(manifest: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Both chunks of the run, stored by workers."""
    store = open_store(str(tmp_path_factory.mktemp("chunks") / "run"))
    settings = {"run_uri": store.uri, "manifest_uri": manifest, "chunk_count": 2, "model": model}
    for process in [start_worker(worker_environment(index=index, **settings)) for index in (0, 1)]:
        ended(process)
    return store


@pytest.fixture
def workers(bucket: str, model: Path, manifest: Path, chunks: Store, monkeypatch: pytest.MonkeyPatch) -> Workers:
    monkeypatch.setenv("EMBEDDER_MODEL", str(model))
    return Workers(f"s3://{bucket}/run", manifest, chunks)


INTERLEAVINGS: dict[str, list[dict[str, Any]]] = {
    # The delayed pods of one case run at the same time. The chunk is stored by the pod that is not delayed ...
    "before they store": [
        {"request": asks("HeadObject", chunk_key(0))},
        {"request": asks("HeadObject", chunk_key(0)), "is_answered": True},
        {"request": asks("PutObject", chunk_key(0))},
    ],
    # ... or by the delayed pod itself.
    "after it stored": [{"request": asks("PutObject", chunk_key(0)), "is_answered": True}],
    "before it verifies": [{"request": asks("HeadObject", chunk_key(0)), "nth": 3}],
}


@pytest.mark.parametrize("interleaving", INTERLEAVINGS)
def test_two_pods_on_one_chunk_both_succeed_with_one_right_chunk(
    interleaving: str, s3: S3Server, workers: Workers
) -> None:
    with ExitStack() as delayed:
        late_pods = [
            delayed.enter_context(held_up(workers.start(), s3=s3, **moment)) for moment in INTERLEAVINGS[interleaving]
        ]
        workers.run()
        before = workers.store.stat(chunk_key(0))
        for late in late_pods:
            ended = late.let_go()
            assert ended.exit_code == 0, ended.log
            assert workers.store.stat(chunk_key(0)) == before, "the first pod's chunk"
    assert object_keys(workers.store) == [chunk_key(0)]
    assert len(read_chunk(workers.uri).urls) == 5


def test_a_pod_whose_chunk_is_overwritten_in_a_store_without_conditional_writes_succeeds_with_the_other_pods_chunk(
    s3: S3Server, workers: Workers
) -> None:
    with (
        held_up(workers.start(), asks("PutObject", chunk_key(0)), s3=s3, others=NOT_IMPLEMENTED) as one,
        held_up(workers.start(), asks("HeadObject", chunk_key(0)), nth=3, s3=s3, others=NOT_IMPLEMENTED) as other,
    ):
        assert one.let_go().exit_code == 0
        ended = other.let_go()
    assert ended.exit_code == 0, ended.log
    assert "already" in ended.last_word
    assert len(read_chunk(workers.uri).urls) == 5


@pytest.mark.parametrize("index", [0, 1])
def test_the_later_of_two_pods_with_different_settings_ends_with_78_and_names_what_differs(
    index: int, s3: S3Server, workers: Workers
) -> None:
    with held_up(workers.start(index=index, rotate=False), asks("PutObject", chunk_key(index)), s3=s3) as late:
        workers.have_stored(0)
        ended = late.let_go()
    assert ended.exit_code == 78, ended.log
    assert chunk_key(0) in ended.last_word
    assert "rotation" in ended.last_word
    assert object_keys(workers.store) == [chunk_key(0)], "the later pod takes back what it stored"


TOO_LATE: dict[str, dict[str, Any]] = {
    "before it stores": {"request": asks("PutObject", chunk_key(0))},
    "before it verifies": {"request": asks("HeadObject", chunk_key(0)), "nth": 3},
    "before it reads another pod's chunk": {"request": asks("GetObject", chunk_key(0))},
}


@pytest.mark.parametrize("moment", TOO_LATE)
def test_a_pod_that_comes_after_the_merge_leaves_the_finished_run_as_it_is(
    moment: str, s3: S3Server, workers: Workers
) -> None:
    workers.have_stored(*(0, 1) if "another" in moment else (1,))
    with held_up(workers.start(), s3=s3, **TOO_LATE[moment]) as late:
        if workers.store.stat(chunk_key(0)) is None:
            workers.have_stored(0)
        ended_merge(workers, s3)
        finished = sorted(workers.store.list(""))
        ended = late.let_go()
    assert ended.exit_code == 0, ended.log
    assert "this run is finished" in ended.last_word
    assert sorted(workers.store.list("")) == finished
    assert [found.key for found in finished] == FINISHED
    assert "this run is finished" in ended_merge(workers, s3)


def test_a_pod_with_other_settings_that_comes_after_the_merge_ends_with_78_and_leaves_the_run_as_it_is(
    s3: S3Server, workers: Workers
) -> None:
    with held_up(workers.start(rotate=False), asks("PutObject", chunk_key(0)), s3=s3) as late:
        workers.have_stored(0, 1)
        ended_merge(workers, s3)
        ended = late.let_go()
    assert ended.exit_code == 78, ended.log
    assert RESULT_KEY in ended.last_word
    assert "rotation" in ended.last_word
    assert object_keys(workers.store) == FINISHED
    assert "this run is finished" in ended_merge(workers, s3)


def ended_merge(workers: Workers, s3: S3Server) -> str:
    return ended(run_merger(workers.uri, 2, s3.environment))


def test_two_pods_on_one_chunk_of_a_folder_both_succeed_though_one_comes_after_the_merge(
    server: ImageServer, model: Path, tmp_path: Path
) -> None:
    release = threading.Event()
    jpeg = answer(PHOTOS[0].read_bytes())

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.to_thread(release.wait, SECONDS)
        return await jpeg(request)

    # The two late pods, one in each folder, wait for their image.
    manifest = write_manifest(tmp_path, [server.on("/photo.jpg", first(2, wait, then=jpeg))])
    twins, merged = tmp_path / "twins", tmp_path / "merged"

    def settings(folder: Path) -> dict[str, Any]:
        timeouts = {"read_timeout_seconds": SECONDS, "fetch_timeout_seconds": SECONDS}
        return {"run_uri": folder, "manifest_uri": manifest, "model": model, **timeouts}

    with (
        start_worker(worker_environment(**settings(twins))) as late_twin,
        start_worker(worker_environment(**settings(merged))) as late_for_the_merge,
    ):
        while server.count("/photo.jpg") < 2:
            time.sleep(0.05)
            assert late_twin.poll() is None
            assert late_for_the_merge.poll() is None
        first_pod = run_worker(**settings(twins))
        assert first_pod.exit_code == 0, first_pod.log
        open_store(str(merged)).put_bytes(chunk_key(0), open_store(str(twins)).read(chunk_key(0)), overwrite=False)
        ended(run_merger(str(merged), 1, {}))
        release.set()
        assert "another_pod_was_first" in ended(late_twin)
        assert "this run is finished" in ended(late_for_the_merge)
    assert object_keys(open_store(str(twins))) == [chunk_key(0)]
    assert object_keys(open_store(str(merged))) == FINISHED
    assert not list(tmp_path.rglob(".*"))


PARTIAL = {"on_missing_chunks": "partial"}


@pytest.mark.parametrize(
    "moment",
    [
        asks("ListObjectsV2"),
        asks("CompleteMultipartUpload", RESULT_KEY),
        asks("GetObject", RESULT_KEY),
        asks("PutObject", FAILURES_KEY),
        asks("PutObject", SUMMARY_KEY),
    ],
    ids=["listing", "publishing", "verifying", "ledger", "summary"],
)
@pytest.mark.usefixtures("s3_environment")
def test_a_merge_of_fewer_chunks_never_replaces_a_merge_of_all(
    moment: Callable[[Request], bool], s3: S3Server, bucket: str
) -> None:
    store = open_store(f"s3://{bucket}/run")
    chunks = [make_chunk(index, rows, chunk_count=3, failed=2) for index, rows in enumerate((30, 20, 25))]
    for chunk in chunks[:2]:
        put_chunk(store, chunk)
    with held_up(lambda sdk: run_merger(store.uri, 3, sdk, **PARTIAL), moment, s3=s3) as fewer:
        put_chunk(store, chunks[2])
        ended(run_merger(store.uri, 3, s3.environment))
        ledger = store.read(FAILURES_KEY)
        # A merge that is killed while it deletes the chunks leaves some of them.
        put_chunk(store, chunks[1])
        outcome = fewer.let_go()
    assert outcome.exit_code == 0, outcome.log
    assert_merged(store, chunks)
    assert store.read(FAILURES_KEY) == ledger
    assert read_summary(store)["chunks_missing"] == ""
    assert object_keys(store) == FINISHED
