"""Merges with a store that fails: the run is finished all the same, or by the next merge after exit code 75."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from common.errors import StoreUnavailable
from common.run.keys import CHUNKS_PREFIX, FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from common.store.s3.client import clear_clients
from common.store.s3.store import S3Store
from merger.merge import merge
from tests.merger.runs import assert_merged, put_run, read_summary, run_merger, settings_for
from tests.s3_proxy import (
    BAD_GATEWAY,
    CUT_SHORT,
    FLIPPED,
    INTERNAL_ERROR,
    LOST,
    NOT_S3,
    RESET,
    SLOW_DOWN,
    WRONG_ETAG,
    Answer,
    Fault,
    Intervention,
    Once,
    Outage,
    Reaction,
    Request,
    late,
    s3_proxy,
    stall,
    storm,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from common.format.chunk_file import Chunk
    from tests.s3_server import S3Server

SIZES = [2600, 0, 40, 2700]
"""Rows of the chunks. Two are large enough for the store to copy, and two are not."""

FAULTS: list[Answer | Fault] = [
    RESET,
    INTERNAL_ERROR,
    SLOW_DOWN,
    BAD_GATEWAY,
    NOT_S3,
    LOST,
    CUT_SHORT,
    late(0.3),
    stall(2),
]

CONTRADICTIONS = [FLIPPED, WRONG_ETAG]
"""Answers that look right and are wrong."""


@pytest.fixture
def store(bucket: str) -> S3Store:
    """The store of the run, without the faults."""
    return S3Store(f"s3://{bucket}/run")


def merge_through(intervene: Intervention, s3: S3Server, store: S3Store, **sdk: str) -> tuple[int, str]:
    with s3_proxy(s3, intervene) as proxy:
        process = run_merger(store.uri, len(SIZES), proxy.environment | sdk)
        _, log = process.communicate(timeout=240)
        return process.returncode, log


def merge_here(intervene: Intervention, s3: S3Server, store: S3Store, chunk_count: int) -> Sequence[Request]:
    """Merge in this process, which takes less time."""
    with pytest.MonkeyPatch.context() as patch, s3_proxy(s3, intervene) as proxy:
        patch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        merge(open_store(store.uri), settings_for(store, chunk_count))
    clear_clients()
    return proxy.requests


def assert_finished(store: S3Store, chunks: list[Chunk]) -> None:
    assert_merged(store, chunks)
    assert sorted(found.key for found in store.list("")) == [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY]
    assert read_summary(store)["rows_failed"] == sum(len(chunk.failures) for chunk in chunks)
    assert "Uploads" not in store.prefix.client.list_multipart_uploads(Bucket=store.prefix.bucket)


@pytest.mark.slow
def test_a_merge_in_a_storm_ends_as_if_there_were_none(s3: S3Server, store: S3Store) -> None:
    chunks = put_run(store, SIZES, failed=2)
    code, log = merge_through(storm(seed=2, share=0.1, faults=FAULTS), s3, store)
    assert code == 0, log
    assert_finished(store, chunks)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [LOST, CUT_SHORT, RESET], ids=["lost", "cut", "reset"])
def test_a_merge_goes_through_a_fault_of_each_operation(s3: S3Server, store: S3Store, fault: Fault) -> None:
    chunks = put_run(store, SIZES, failed=2)
    once = Once(fault)
    merge_here(once, s3, store, len(SIZES))
    assert once.struck >= {
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        "DeleteObjects",
        "GetObject",
        "HeadObject",
        "ListMultipartUploads",
        "ListObjectsV2",
        "PutObject",
        "UploadPart",
        "UploadPartCopy",
    }
    assert_finished(store, chunks)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["UploadPart", "UploadPartCopy", "ListObjectsV2"])
def test_a_wrong_etag_costs_an_attempt_and_no_result(s3: S3Server, store: S3Store, operation: str) -> None:
    chunks = put_run(store, SIZES, failed=2)
    once = Once(WRONG_ETAG, operation)
    merge_here(once, s3, store, len(SIZES))
    assert once.struck
    assert_finished(store, chunks)


@pytest.mark.slow
def test_a_wrong_byte_in_any_one_answer_is_noticed_and_the_merge_completed(s3: S3Server, bucket: str) -> None:
    sizes = [60, 0, 40]

    class FlipOne:
        def __init__(self, number: int) -> None:
            self.number, self.reads, self.read = number, 0, ""

        def __call__(self, request: Request) -> Reaction:
            if request.operation != "GetObject":
                return None
            self.reads += 1
            return FLIPPED if self.reads == self.number else None

    number, more = 1, True
    while more:
        store = S3Store(f"s3://{bucket}/run-{number}")
        chunks = put_run(store, sizes, failed=2)
        flip = FlipOne(number)
        merge_here(flip, s3, store, len(sizes))
        assert_finished(store, chunks)
        more = flip.reads >= number
        number += 1
    assert number > 10


class FlipSome:
    """A wrong byte in some of the answers to the same request for a range of an object."""

    def __init__(self, key: str, *, flips: Callable[[int], bool]) -> None:
        self._key, self._flips = key, flips
        self._lock = threading.Lock()
        self._answers: Counter[str] = Counter()

    def __call__(self, request: Request) -> Reaction:
        if request.operation != "GetObject" or not request.path.partition("?")[0].endswith(self._key):
            return None
        with self._lock:
            self._answers[request.headers["range"]] += 1
            return FLIPPED if self._flips(self._answers[request.headers["range"]]) else None


def test_two_wrong_answers_in_turn_to_one_request_do_not_make_a_sound_chunk_a_damaged_one(
    s3: S3Server, store: S3Store
) -> None:
    chunks = put_run(store, SIZES, failed=2)
    merge_here(FlipSome(chunk_key(2), flips=lambda answer: answer <= 2), s3, store, len(SIZES))
    assert_finished(store, chunks)


def test_a_column_that_is_wrong_in_every_attempt_and_right_when_it_is_read_again_is_no_damage(
    s3: S3Server, store: S3Store
) -> None:
    chunks = put_run(store, SIZES, failed=2)
    # Of each attempt's two reads of a range, the merge makes the first, and the search for damage the second.
    with pytest.raises(StoreUnavailable, match="5 attempts"):
        merge_here(FlipSome(chunk_key(2), flips=lambda answer: answer % 2 == 1), s3, store, len(SIZES))
    merge_here(lambda _: None, s3, store, len(SIZES))
    assert_finished(store, chunks)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_however_many_answers_are_wrong_a_result_is_right_or_there_is_none(
    s3: S3Server, store: S3Store, seed: int
) -> None:
    chunks = put_run(store, SIZES, failed=2)
    code, log = merge_through(storm(seed=seed, share=0.1, faults=CONTRADICTIONS), s3, store)
    assert code in {0, 75}, log
    if code:
        assert {found.key for found in store.list(CHUNKS_PREFIX)} or store.stat(SUMMARY_KEY), log
        merge_here(lambda _: None, s3, store, len(SIZES))
    assert_finished(store, chunks)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["ListObjectsV2", "UploadPartCopy", "CompleteMultipartUpload", "DeleteObjects"])
def test_an_outage_ends_the_merge_with_75_and_the_next_one_completes_it(
    s3: S3Server, store: S3Store, operation: str
) -> None:
    chunks = put_run(store, SIZES, failed=2)
    before = sorted(store.list(""))
    outage = Outage(RESET, seconds=600, begins=lambda request: request.operation == operation)
    code, log = merge_through(outage, s3, store, AWS_MAX_ATTEMPTS="2")
    assert code == 75, log
    assert outage.struck
    if operation != "DeleteObjects":
        assert sorted(store.list("")) == before
    merge_here(lambda _: None, s3, store, len(SIZES))
    assert_finished(store, chunks)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [RESET, SLOW_DOWN], ids=["reset", "503"])
def test_a_short_outage_in_the_middle_of_a_merge_is_waited_for(
    s3: S3Server, store: S3Store, fault: Answer | Fault
) -> None:
    chunks = put_run(store, SIZES, failed=2)
    outage = Outage(fault, seconds=3, begins=lambda request: request.is_copy)
    merge_here(outage, s3, store, len(SIZES))
    assert len(outage.struck) > 2
    assert_finished(store, chunks)
