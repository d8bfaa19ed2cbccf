"""Two pods at the same work at the same time: whichever comes late, there is one right chunk, and one right result."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from common.run.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from tests.image_server import answer, first, held
from tests.interruptions.killing import asks
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

    from common.store.contract import Store
    from tests.image_server import ImageServer
    from tests.s3_proxy import Reaction, Request
    from tests.s3_server import S3Server

FINISHED = [RESULT_KEY, FAILURES_KEY, SUMMARY_KEY]


class Held:
    """A program whose request, or the answer to it, is held up until it is let go."""

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
        assert self.go_on.wait(280)
        return answer or Answer(500, b"")

    def let_go(self) -> Ended:
        self.go_on.set()
        _, log = self.process.communicate(timeout=280)
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
    """Start a program and give it once it waits for its n-th such request; with `others` conditions get this answer."""
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
    """Of a run with two chunks."""

    uri: str
    manifest: Path

    def settings(self, **settings: object) -> dict[str, object]:
        return {"run_uri": self.uri, "manifest_uri": self.manifest, "chunk_count": 2, **settings}

    def start(self, **settings: object) -> Callable[[Mapping[str, str]], Popen[str]]:
        environment = worker_environment(**self.settings(**settings))  # type: ignore[arg-type]
        return lambda sdk: start_worker(environment | dict(sdk))

    def run(self, **settings: object) -> Ended:
        ended = run_worker(**self.settings(**settings))  # type: ignore[arg-type]
        assert ended.exit_code == 0, ended.log
        return ended

    @property
    def store(self) -> Store:
        return open_store(self.uri)


@pytest.fixture
def workers(bucket: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workers:
    monkeypatch.setenv("EMBEDDER_MODEL", str(model))
    return Workers(f"s3://{bucket}/run", write_manifest(tmp_path, [str(photo) for photo in PHOTOS[:10]]))


INTERLEAVINGS = {
    "before it looks": {"request": asks("HeadObject", chunk_key(0))},
    "after it looked": {"request": asks("HeadObject", chunk_key(0)), "is_answered": True},
    "before it stores": {"request": asks("PutObject", chunk_key(0))},
    "after it stored": {"request": asks("PutObject", chunk_key(0)), "is_answered": True},
    "before it verifies": {"request": asks("HeadObject", chunk_key(0)), "nth": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("interleaving", INTERLEAVINGS)
def test_two_pods_on_one_chunk_both_succeed_with_one_right_chunk(
    interleaving: str, s3: S3Server, workers: Workers
) -> None:
    with held_up(workers.start(), s3=s3, **INTERLEAVINGS[interleaving]) as late:  # type: ignore[arg-type]
        workers.run()
        before = workers.store.stat(chunk_key(0))
        ended = late.let_go()
    assert ended.exit_code == 0, ended.log
    assert workers.store.stat(chunk_key(0)) == before, "whoever was first"
    assert object_keys(workers.store) == [chunk_key(0)]
    assert len(read_chunk(workers.uri).urls) == 5


@pytest.mark.slow
def test_a_pod_whose_chunk_is_overwritten_where_a_store_knows_no_conditions_succeeds_with_the_others(
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


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_of_two_pods_with_different_settings_the_later_ends_with_78_that_names_both(
    index: int, s3: S3Server, workers: Workers
) -> None:
    with held_up(workers.start(index=index, rotate=False), asks("PutObject", chunk_key(index)), s3=s3) as late:
        workers.run()
        ended = late.let_go()
    assert ended.exit_code == 78, ended.log
    assert chunk_key(0) in ended.last_word
    assert "rotation" in ended.last_word
    assert object_keys(workers.store) == [chunk_key(0)], "what was stored last is taken back"


TOO_LATE = {
    "before it stores": {"request": asks("PutObject", chunk_key(0))},
    "before it verifies": {"request": asks("HeadObject", chunk_key(0)), "nth": 2},
    "before it reads another's": {"request": asks("GetObject", chunk_key(0))},
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", TOO_LATE)
def test_a_pod_that_comes_after_the_merge_leaves_the_finished_run_as_it_is(
    moment: str, s3: S3Server, workers: Workers
) -> None:
    for index in (0, 1) if "another" in moment else (1,):
        workers.run(index=index)
    with held_up(workers.start(), s3=s3, **TOO_LATE[moment]) as late:  # type: ignore[arg-type]
        workers.run()
        ended_merge(workers, s3)
        finished = sorted(workers.store.list(""))
        ended = late.let_go()
    assert ended.exit_code == 0, ended.log
    assert "this run is finished" in ended.last_word
    assert sorted(workers.store.list("")) == finished
    assert [found.key for found in finished] == FINISHED
    assert "this run is finished" in ended_merge(workers, s3)


@pytest.mark.slow
def test_a_pod_with_other_settings_that_comes_after_the_merge_ends_with_78_and_leaves_the_run_as_it_is(
    s3: S3Server, workers: Workers
) -> None:
    with held_up(workers.start(rotate=False), asks("PutObject", chunk_key(0)), s3=s3) as late:
        for index in (0, 1):
            workers.run(index=index)
        ended_merge(workers, s3)
        ended = late.let_go()
    assert ended.exit_code == 78, ended.log
    assert RESULT_KEY in ended.last_word
    assert "rotation" in ended.last_word
    assert object_keys(workers.store) == FINISHED
    assert "this run is finished" in ended_merge(workers, s3)


def ended_merge(workers: Workers, s3: S3Server) -> str:
    return ended(run_merger(workers.uri, 2, s3.environment))


@pytest.mark.slow
def test_two_pods_on_one_chunk_of_a_folder_both_succeed_though_one_comes_after_the_merge(
    server: ImageServer, model: Path, tmp_path: Path
) -> None:
    jpeg = PHOTOS[0].read_bytes()
    for name, is_merged in (("twins", False), ("late", True)):
        release = threading.Event()
        url = server.on(f"/{name}.jpg", first(1, held(release, then=answer(jpeg)), then=answer(jpeg)))
        settings = {"run_uri": tmp_path / name, "manifest_uri": write_manifest(tmp_path, [url]), "model": model}
        with start_worker(worker_environment(**settings)) as late:  # type: ignore[arg-type]
            while not server.count(f"/{name}.jpg"):
                assert late.poll() is None
            first_pod = run_worker(**settings)  # type: ignore[arg-type]
            assert first_pod.exit_code == 0, first_pod.log
            if is_merged:
                ended(run_merger(str(tmp_path / name), 1, {}))
            release.set()
            log = ended(late)
        assert ("this run is finished" if is_merged else "another_pod_was_first") in log
        assert object_keys(open_store(str(tmp_path / name))) == (FINISHED if is_merged else [chunk_key(0)])
        assert not list((tmp_path / name).rglob(".*"))


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
def test_a_merge_of_fewer_chunks_never_takes_the_place_of_one_of_all(
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
        # As a merge leaves it that is killed while it deletes.
        put_chunk(store, chunks[1])
        outcome = fewer.let_go()
    assert outcome.exit_code == 0, outcome.log
    assert_merged(store, chunks)
    assert store.read(FAILURES_KEY) == ledger
    assert read_summary(store)["chunks_missing"] == ""
    assert object_keys(store) == FINISHED
