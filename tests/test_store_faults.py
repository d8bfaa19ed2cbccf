"""Whole runs over a store that fails: first the workers, whose list and images lie there too, then the merge."""

from __future__ import annotations

import csv
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest

from common.store.s3.client import clear_clients
from common.store.s3.store import S3Store
from tests.interruptions.runs import assert_same
from tests.merger.runs import assert_merged, put_run, run_merger
from tests.s3_proxy import (
    BAD_GATEWAY,
    CUT_SHORT,
    FLIPPED,
    INTERNAL_ERROR,
    LOST,
    RESET,
    SLOW_DOWN,
    WRONG_ETAG,
    Answer,
    Fault,
    Outage,
    Reaction,
    Request,
    late,
    s3_proxy,
    stall,
    storm,
)
from tests.worker.conftest import tiny_clip
from tests.worker.worker_process import PHOTOS, start_worker, worker_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

__all__ = ["tiny_clip"]

CHUNKS = 2
ROWS = 60
FAULTS: list[Answer | Fault] = [
    RESET,
    INTERNAL_ERROR,
    SLOW_DOWN,
    BAD_GATEWAY,
    LOST,
    CUT_SHORT,
    late(0.5),
    stall(2),
]

ATTEMPTS = 6
"""Number of times that a program which ends with 75 is started, as a cluster would start it."""

SECONDS = 250
"""Longest time that a test waits for a program, in seconds: far more than any takes, even in an outage of a minute."""


class Ended(NamedTuple):
    exit_code: int
    log: str


class Runs(NamedTuple):
    """Runs over one list. Each has its own prefix in a bucket, which also holds the list and its images."""

    bucket: str
    model: Path

    def store(self, name: str) -> S3Store:
        return S3Store(f"s3://{self.bucket}/{name}")

    def embed(self, name: str, sdk: Mapping[str, str], **settings: object) -> list[Ended]:
        """Run all workers at once."""
        processes = [
            start_worker(
                worker_environment(
                    index=index,
                    chunk_count=CHUNKS,
                    run_uri=self.store(name).uri,
                    manifest_uri=f"s3://{self.bucket}/list.csv",
                    model=self.model,
                    allow_private_hosts=False,
                    **settings,
                )
                | dict(sdk)
            )
            for index in range(CHUNKS)
        ]
        logs = [process.communicate(timeout=SECONDS)[1] for process in processes]
        return [Ended(process.returncode, log) for process, log in zip(processes, logs, strict=True)]

    def merge(self, name: str, sdk: Mapping[str, str], *, chunk_count: int = CHUNKS) -> Ended:
        process = run_merger(self.store(name).uri, chunk_count, sdk)
        _, log = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, log)


@pytest.fixture(scope="module")
def runs(s3: S3Server, tiny_clip: Path) -> Iterator[Runs]:
    """The runs, with a finished one named "undisturbed"."""
    made = Runs("whole-runs", tiny_clip)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        clear_clients()
        made.store("").prefix.client.create_bucket(Bucket=made.bucket)
        objects = made.store("")
        for number, photo in enumerate(PHOTOS):
            objects.put_bytes(f"images/{number}", photo.read_bytes())
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(["id", "url"])
        for row in range(ROWS):
            # The last number of each round has no image, so it becomes a row of the ledger.
            rows.writerow([f"id-{row}", f"s3://{made.bucket}/images/{row % (len(PHOTOS) + 1)}"])
        objects.put_bytes("list.csv", text.getvalue().encode())
        for ended in [*made.embed("undisturbed", s3.environment), made.merge("undisturbed", s3.environment)]:
            assert ended.exit_code == 0, ended.log
        yield made
    clear_clients()


def assert_undisturbed(runs: Runs, name: str) -> None:
    store = runs.store(name)
    assert_same(store, runs.store("undisturbed"))
    uploads = store.prefix.client.list_multipart_uploads(Bucket=store.prefix.bucket, Prefix=store.prefix.path)
    assert "Uploads" not in uploads


def is_image(request: Request) -> bool:
    return request.method == "GET" and "/images/" in urlsplit(request.path).path


class NthImage:
    """Recognizes every request from the n-th one for an image on."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def __call__(self, request: Request) -> bool:
        self._left -= is_image(request)
        return self._left <= 0


def test_a_run_in_a_storm_has_the_result_of_an_undisturbed_one(s3: S3Server, runs: Runs) -> None:
    with s3_proxy(s3, storm(seed=1, share=0.1, faults=FAULTS)) as proxy:
        for ended in runs.embed("storm", proxy.environment, fetch_attempts=8):
            assert ended.exit_code == 0, ended.log
        ended = runs.merge("storm", proxy.environment)
        assert ended.exit_code == 0, ended.log
    assert_undisturbed(runs, "storm")


def test_answers_with_wrong_bytes_or_etags_never_make_a_wrong_run(s3: S3Server, runs: Runs) -> None:
    wrong = storm(seed=3, share=0.1, faults=[FLIPPED, WRONG_ETAG])
    # No checksum protects the bytes of an image, so these answers stay as they are.
    with s3_proxy(s3, lambda request: None if is_image(request) else wrong(request)) as proxy:
        for program in (runs.embed, lambda name, sdk: [runs.merge(name, sdk)]):
            for _ in range(ATTEMPTS):
                all_ended = program("wrong", proxy.environment)
                for ended in all_ended:
                    assert ended.exit_code in {0, 75}, ended.log
                if not any(ended.exit_code for ended in all_ended):
                    break
    assert_undisturbed(runs, "wrong")


def test_bursts_cost_no_image_and_no_chunk(s3: S3Server, runs: Runs) -> None:
    outages = [
        Outage(SLOW_DOWN, seconds=5, begins=NthImage(20)),
        Outage(RESET, seconds=3, begins=lambda request: request.operation == "PutObject"),
        Outage(INTERNAL_ERROR, seconds=3, begins=lambda request: request.operation == "CompleteMultipartUpload"),
    ]

    def intervene(request: Request) -> Reaction:
        reactions: list[Reaction] = [outage(request) for outage in outages]
        return next((reaction for reaction in reactions if reaction), None)

    with s3_proxy(s3, intervene) as proxy:
        for ended in [*runs.embed("bursts", proxy.environment), runs.merge("bursts", proxy.environment)]:
            assert ended.exit_code == 0, ended.log
    assert all(outage.struck for outage in outages)
    assert_undisturbed(runs, "bursts")


@pytest.mark.timeout(600)
def test_a_minute_in_which_the_store_says_nothing_is_survived_by_workers_and_merge(s3: S3Server, runs: Runs) -> None:
    other = runs.store("merged-meanwhile")
    chunks = put_run(other, [2600, 40, 2700])
    outage = Outage(stall(90), seconds=60, begins=lambda request: request.is_copy)
    copying = threading.Event()

    def intervene(request: Request) -> Reaction:
        if request.is_copy:
            copying.set()
        # Slow images keep the workers in the middle of their chunks until the merge copies.
        return outage(request) or (late(0 if copying.is_set() else 1) if is_image(request) else None)

    with s3_proxy(s3, intervene) as proxy, ThreadPoolExecutor(2) as pool:
        embedding = pool.submit(runs.embed, "silence", proxy.environment, fetch_concurrency=2)
        while not any(map(is_image, proxy.requests)):
            assert not embedding.done(), embedding.result()
            time.sleep(0.1)
        merging = pool.submit(runs.merge, "merged-meanwhile", proxy.environment, chunk_count=len(chunks))
        for ended in [*embedding.result(), merging.result()]:
            assert ended.exit_code == 0, ended.log
        assert any(map(is_image, outage.struck))
        ended = runs.merge("silence", proxy.environment)
        assert ended.exit_code == 0, ended.log
    assert_merged(other, chunks)
    assert_undisturbed(runs, "silence")
