"""Merges after top-ups with a bucket that fails or copies wrongly, and with other programs at work meanwhile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from common.errors import StoreUnavailable
from common.run.keys import EARLIER_RESULT_KEY, FAILURES_KEY, RESULT_KEY, SUMMARY_KEY
from common.store import open_store
from common.store.s3.client import clear_clients
from common.store.s3.store import S3Store
from merger.merge import merge
from tests.merger.runs import put_chunk, read_summary, settings_for
from tests.merger.top_ups import FINISHED, content, manifest, merged_at_once, objects, put
from tests.s3_proxy import CUT_SHORT, LOST, RESET, SLOW_DOWN, Intervention, s3_proxy, storm, wrong_copy

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from tests.merger.top_ups import Content
    from tests.s3_proxy import Reaction, Request
    from tests.s3_server import S3Server

COUNTS = (2700, 40, 2750, 3)
"""Rows of the chunks. Two are large enough for the store to copy, and two are not."""

pytestmark = pytest.mark.slow


class Prepared:
    """A finished run of which one chunk was topped up, and what its next merge makes of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows = manifest(COUNTS)
        store = open_store(str(folder / "run"))
        put(store, [each.chunk({0, 1}) for each in self.rows])
        merge(store, settings_for(store, len(COUNTS)))
        self.old = content(store)
        put_chunk(store, self.rows[1].chunk())
        self.objects = {key: store.read(key) for key in objects(store)}
        self._expected: dict[tuple[int, ...], Content] = {}

    def expected(self, *topped_up: int) -> Content:
        if topped_up not in self._expected:
            chunks = [each.chunk() if each.index in topped_up else each.chunk({0, 1}) for each in self.rows]
            self._expected[topped_up] = merged_at_once(chunks, self._folder)
        return self._expected[topped_up]


class ToppedUp:
    """The prepared run in a bucket."""

    def __init__(self, bucket: str, prepared: Prepared) -> None:
        self.store = S3Store(f"s3://{bucket}/run")
        self.rows, self.old, self.expected = prepared.rows, prepared.old, prepared.expected
        for key, data in prepared.objects.items():
            self.store.put_bytes(key, data)

    def merge_through(self, s3: S3Server, intervene: Intervention, **options: str) -> None:
        with s3_proxy(s3, intervene) as proxy, pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
            clear_clients()
            try:
                merge(open_store(self.store.uri), settings_for(self.store, len(COUNTS), **options))
            finally:
                clear_clients()

    def assert_finished(self, *topped_up: int) -> None:
        assert content(self.store) == self.expected(*topped_up)
        assert objects(self.store) == FINISHED
        assert "Uploads" not in self.store.prefix.client.list_multipart_uploads(Bucket=self.store.prefix.bucket)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def run(bucket: str, prepared: Prepared) -> ToppedUp:
    return ToppedUp(bucket, prepared)


def test_a_merge_after_a_top_up_in_a_storm_ends_as_if_there_were_none(run: ToppedUp, s3: S3Server) -> None:
    run.merge_through(s3, storm(seed=4, share=0.1, faults=[RESET, SLOW_DOWN, LOST, CUT_SHORT]))
    run.assert_finished(1)


@pytest.mark.parametrize("key", [EARLIER_RESULT_KEY, RESULT_KEY])
def test_a_store_that_copies_wrongly_is_noticed_and_streamed_to(
    run: ToppedUp, s3: S3Server, s3_api: S3Client, key: str
) -> None:
    wrong = wrong_copy(s3_api, lambda copied: copied.read(s3_api)[:-2048] + bytes(2048))
    run.merge_through(s3, lambda request: wrong(request) if f"/run/{key}" in request.path else None)
    run.assert_finished(1)
    assert read_summary(run.store)["assembly"] == ("streaming" if key == RESULT_KEY else "server-side")


def test_a_result_that_cannot_be_verified_does_not_cost_the_rows_of_the_earlier_one(
    run: ToppedUp, s3: S3Server, s3_api: S3Client
) -> None:
    wrong = wrong_copy(s3_api, lambda copied: copied.read(s3_api)[:-2048] + bytes(2048))

    def intervene(request: Request) -> Reaction:
        return wrong(request) if f"/run/{RESULT_KEY}" in request.path else None

    with pytest.raises(StoreUnavailable, match="could not be made"):
        run.merge_through(s3, intervene, assembly="server-side")
    assert EARLIER_RESULT_KEY in objects(run.store)
    assert RESULT_KEY not in objects(run.store)
    merge(run.store, settings_for(run.store, len(COUNTS)))
    run.assert_finished(1)


def test_readers_get_the_earlier_result_back_where_no_other_can_be_made(
    run: ToppedUp, s3: S3Server, s3_api: S3Client
) -> None:
    wrong = wrong_copy(s3_api, lambda copied: copied.read(s3_api)[:-2048] + bytes(2048))
    copies = iter(range(2))

    def intervene(request: Request) -> Reaction:
        # The first copy is a part of the new result. The second one puts the earlier result back.
        is_wrong = request.is_copy and f"/run/{RESULT_KEY}" in request.path and next(copies) == 0
        return wrong(request) if is_wrong else None

    with pytest.raises(StoreUnavailable, match="could not be made"):
        run.merge_through(s3, intervene, assembly="server-side")
    assert content(run.store) == run.old
    merge(run.store, settings_for(run.store, len(COUNTS)))
    run.assert_finished(1)


class Meanwhile:
    """Does something when the merger sends the first request of a kind."""

    def __init__(self, run: ToppedUp, what: str, *, operation: str, key: str) -> None:
        self._run, self._what, self._operation, self._key = run, what, operation, key
        self._lock = threading.Lock()
        self.happened = False

    def __call__(self, request: Request) -> Reaction:
        with self._lock:
            if self.happened or request.operation != self._operation or self._key not in request.path:
                return None
            self.happened = True
        run = self._run
        if self._what == "merge":
            merge(run.store, settings_for(run.store, len(COUNTS)))
        elif self._what == "same chunk":
            put_chunk(run.store, run.rows[1].chunk())
        else:
            put_chunk(run.store, run.rows[2].chunk())
        return None


@pytest.mark.parametrize(
    ("what", "operation", "key"),
    [
        ("merge", "UploadPartCopy", EARLIER_RESULT_KEY),
        ("merge", "CompleteMultipartUpload", RESULT_KEY),
        ("merge", "PutObject", SUMMARY_KEY),
        ("same chunk", "UploadPart", RESULT_KEY),
        ("same chunk", "PutObject", FAILURES_KEY),
        ("other chunk", "UploadPartCopy", RESULT_KEY),
        ("other chunk", "DeleteObjects", ""),
    ],
)
def test_another_program_in_the_middle_of_a_merge_costs_nothing(
    run: ToppedUp, s3: S3Server, what: str, operation: str, key: str
) -> None:
    if what == "same chunk":
        # At first, only one of the two failed rows is embedded.
        put_chunk(run.store, run.rows[1].chunk({1}))
    meanwhile = Meanwhile(run, what, operation=operation, key=key)
    run.merge_through(s3, meanwhile)
    assert meanwhile.happened
    if what != "merge":
        merge(run.store, settings_for(run.store, len(COUNTS)))
    run.assert_finished(*((1, 2) if what == "other chunk" else (1,)))
