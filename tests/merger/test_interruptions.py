"""Merges that are stopped while they copy, and two merges at the same time; see also tests/interruptions."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY
from common.store import open_store
from merger.merge import merge
from tests.merger.runs import assert_merged, put_run, read_summary, run_merger, settings_for
from tests.s3_proxy import Answer, Request, s3_proxy

if TYPE_CHECKING:
    from subprocess import Popen

    from mypy_boto3_s3 import S3Client

    from common.format.chunk_file import Chunk
    from common.store.contract import Store
    from merger.outcome import AlreadyFinished, Merged
    from tests.s3_server import S3Server

SIZES = [2600, 0, 40, 2700]


def end(process: Popen[str]) -> tuple[int, str]:
    _, log = process.communicate(timeout=60)
    return process.returncode, log


def assert_finished(store: Store, chunks: list[Chunk]) -> None:
    assert_merged(store, chunks)
    assert sorted(found.key for found in store.list("")) == [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY]
    assert read_summary(store)["result_bytes"] == store.stat(RESULT_KEY).size  # type: ignore[union-attr]


class Trap:
    """Acts when the merger sends the first request of the given kind."""

    def __init__(self, *, method: str, path: str, copy: bool = False) -> None:
        self.process: Popen[str] | None = None
        self.sprung = threading.Event()
        self.started = threading.Event()
        self._method, self._path, self._copy = method, path, copy
        self._lock = threading.Lock()

    def matches(self, request: Request) -> bool:
        return request.method == self._method and self._path in request.path and request.is_copy == self._copy

    def __call__(self, request: Request) -> Answer | None:
        with self._lock:
            springs = self.matches(request) and not self.sprung.is_set()
            if springs:
                self.sprung.set()
        if springs:
            assert self.started.wait(10)
            self.act()
        return None

    def act(self) -> None:
        raise NotImplementedError


class Terminate(Trap):
    def act(self) -> None:
        assert self.process is not None
        self.process.terminate()


class SecondMerge(Trap):
    """Runs a whole second merge, which talks to the server directly."""

    def __init__(self, uri: str, **when: str) -> None:
        super().__init__(method=when["method"], path=when["path"], copy=bool(when.get("copy")))
        self.uri = uri
        self.outcome: Merged | AlreadyFinished | None = None

    def act(self) -> None:
        store = open_store(self.uri)
        self.outcome = merge(store, settings_for(store, len(SIZES)))


def merge_with(trap: Trap, s3: S3Server, uri: str) -> tuple[int, str]:
    with s3_proxy(s3, trap) as proxy:
        trap.process = run_merger(uri, len(SIZES), proxy.environment)
        trap.started.set()
        return end(trap.process)


@pytest.mark.slow
@pytest.mark.usefixtures("s3_environment")
def test_a_merge_that_is_told_to_stop_aborts_its_upload_and_exits_143(
    s3: S3Server, s3_api: S3Client, bucket: str
) -> None:
    store = open_store(f"s3://{bucket}/run")
    chunks = put_run(store, SIZES)
    before = sorted(store.list(""))
    code, log = merge_with(Terminate(method="PUT", path="partNumber", copy=True), s3, store.uri)
    assert code == 143, log
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)
    assert sorted(store.list("")) == before
    assert end(run_merger(store.uri, len(SIZES), s3.environment))[0] == 0
    assert_finished(store, chunks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        {"method": "POST", "path": "uploads"},
        {"method": "PUT", "path": "partNumber", "copy": "yes"},
        {"method": "PUT", "path": "partNumber"},
        {"method": "POST", "path": "uploadId"},
        {"method": "PUT", "path": FAILURES_KEY},
        {"method": "PUT", "path": SUMMARY_KEY},
        {"method": "POST", "path": "delete"},
    ],
    ids=["begin", "copy", "upload", "publish", "ledger", "summary", "delete"],
)
@pytest.mark.usefixtures("s3_environment")
def test_a_second_pod_that_merges_meanwhile_leaves_one_right_result_and_both_succeed(
    s3: S3Server, s3_api: S3Client, bucket: str, moment: dict[str, str]
) -> None:
    store = open_store(f"s3://{bucket}/run")
    chunks = put_run(store, SIZES, failed=1)
    second = SecondMerge(store.uri, **moment)
    code, log = merge_with(second, s3, store.uri)
    assert second.outcome is not None
    assert second.outcome.summary.rows_embedded == sum(SIZES)
    assert code == 0, log
    assert_finished(store, chunks)
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)
