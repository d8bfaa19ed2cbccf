"""Faults of the network and of S3: a request still succeeds, or it fails within its limits with a clear error."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from common.errors import StoreAccessDenied, StoreUnavailable
from common.store import open_store
from common.store.contract import AssemblyGone, AssemblyRefused, ObjectExists, Store
from common.store.s3.client import clear_clients
from common.store.s3.store import S3Store
from tests.s3_proxy import (
    BAD_GATEWAY,
    CONFLICT,
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
    S3Proxy,
    has_condition,
    s3_proxy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.s3_server import S3Server

PART = 5 << 20


@pytest.fixture
def direct(bucket: str) -> S3Store:
    """The store without faults."""
    return S3Store(f"s3://{bucket}/run")


@contextmanager
def faulty(s3: S3Server, direct: S3Store, intervene: Intervention, **sdk: str) -> Iterator[tuple[Store, S3Proxy]]:
    """Give the store behind a proxy that plants the faults."""
    with pytest.MonkeyPatch.context() as patch, s3_proxy(s3, intervene) as proxy:
        for name, value in (proxy.environment | sdk).items():
            patch.setenv(name, value)
        clear_clients()
        yield open_store(direct.uri), proxy
    clear_clients()


def uploads(store: S3Store) -> list[str]:
    bucket = store.prefix.bucket
    return [upload["Key"] for upload in store.prefix.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def assemble(store: Store) -> None:
    with store.assemble("a", size=5, replacing=None) as assembly:
        assembly.upload(1, 0, b"12345")
        assembly.publish()


OPERATIONS = {
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CreateMultipartUpload",
    "DeleteObjects",
    "GetObject",
    "HeadObject",
    "ListObjectsV2",
    "PutObject",
    "UploadPart",
    "UploadPartCopy",
}


UNHEARD = [LOST, CUT_SHORT]
SILENT = {"AbortMultipartUpload", "PutObject"}
"""The operations whose answers have no body that HTML could replace."""


@pytest.mark.parametrize(
    "fault",
    [RESET, INTERNAL_ERROR, SLOW_DOWN, BAD_GATEWAY, NOT_S3, *UNHEARD],
    ids=["reset", "500", "503", "502", "html", "lost", "cut"],
)
def test_one_fault_of_each_operation_changes_nothing(
    s3: S3Server, direct: S3Store, tmp_path: Path, fault: Answer | Fault
) -> None:
    data = os.urandom(PART + 1000)
    (tmp_path / "file").write_bytes(data)
    is_unheard = fault in UNHEARD
    # A completion whose answer is lost has a test of its own below.
    operations = OPERATIONS - ({"CompleteMultipartUpload"} if is_unheard else SILENT if fault == NOT_S3 else set())
    once = Once(fault, *operations)
    with faulty(s3, direct, once) as (store, _):
        store.check_access()
        stored = store.put_file("a", tmp_path / "file", overwrite=False)
        assert store.stat("a") == stored
        assert store.stat("b") is None
        assert store.read("a", 1000, 5000) == data[1000:6000]
        with store.assemble("b", size=PART + 4, replacing=None) as assembly:
            assembly.copy(1, 0, stored, 300, PART)
            assembly.upload(2, PART, b"last")
            assembly.publish()
        assert {found.key for found in store.list("")} == {"a", "b"}
        store.delete(["a"])
        with suppress(KeyError), store.assemble("c", size=1, replacing=None):
            raise KeyError
    assert once.struck == operations
    assert direct.read("b") == data[300 : 300 + PART] + b"last"
    assert [found.key for found in direct.list("")] == ["b"]
    # A program that begins an upload and gets no answer cannot abort it.
    assert uploads(direct) == (["run/b"] if is_unheard else [])


def test_a_new_object_whose_answer_was_lost_is_recognised_and_another_object_is_not(
    s3: S3Server, direct: S3Store, tmp_path: Path
) -> None:
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")
    with faulty(s3, direct, Once(LOST, "PutObject")) as (store, proxy):
        stored = store.put_file("a", tmp_path / "one", overwrite=False)
        assert stored == direct.stat("a")
        assert sum(has_condition(request) for request in proxy.requests) == 2
        with pytest.raises(ObjectExists):
            store.put_file("a", tmp_path / "two", overwrite=False)
    assert direct.read("a") == b"one"


@pytest.mark.parametrize("fault", [LOST, CUT_SHORT], ids=["lost", "cut"])
def test_an_assembly_whose_completion_got_no_answer_raises_an_error_and_is_whole(
    s3: S3Server, direct: S3Store, fault: Fault
) -> None:
    with (
        faulty(s3, direct, Once(fault, "CompleteMultipartUpload")) as (store, _),
        pytest.raises((AssemblyGone, ObjectExists)),
    ):
        assemble(store)
    assert direct.read("a") == b"12345"
    assert uploads(direct) == []


def test_an_assembly_with_a_wrong_etag_of_a_part_is_refused(s3: S3Server, direct: S3Store) -> None:
    with (
        faulty(s3, direct, Once(WRONG_ETAG, "UploadPart")) as (store, _),
        pytest.raises(AssemblyRefused, match="InvalidPart"),
    ):
        assemble(store)
    assert direct.stat("a") is None
    assert uploads(direct) == []


def test_a_conflict_of_two_writers_is_tried_again(s3: S3Server, direct: S3Store, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    with faulty(s3, direct, Once(CONFLICT, "PutObject")) as (store, _):
        store.put_file("a", tmp_path / "one", overwrite=False)
    assert direct.read("a") == b"one"


@pytest.mark.slow
def test_all_requests_in_flight_survive_an_outage(s3: S3Server, direct: S3Store) -> None:
    # The SDK's own retries would not be enough: all requests of a client share a hundred of them.
    stored = direct.put_bytes("a", b"one")
    outage = Outage(RESET, seconds=4, begins=lambda _: True)
    with faulty(s3, direct, outage) as (store, _), ThreadPoolExecutor(50) as pool:
        found = list(pool.map(store.stat, ["a"] * 50))
    assert found == [stored] * 50
    assert len(outage.struck) > 150


def test_an_upload_with_a_wrong_etag_is_compared_byte_by_byte(s3: S3Server, direct: S3Store) -> None:
    with faulty(s3, direct, Once(WRONG_ETAG, "HeadObject", "PutObject")) as (store, _):
        store.put_bytes("a", b"one")
    assert direct.read("a") == b"one"


def test_a_whole_object_with_a_wrong_byte_is_read_again(s3: S3Server, direct: S3Store) -> None:
    data = os.urandom(3000)
    direct.put_bytes("a", data)
    with faulty(s3, direct, Once(FLIPPED, "GetObject")) as (store, proxy):
        assert store.read("a") == data
        assert [request.operation for request in proxy.requests] == ["GetObject"] * 2


def test_a_store_may_have_etags_that_are_never_the_md5(s3: S3Server, direct: S3Store) -> None:
    direct.put_bytes("a", b"one")
    with faulty(s3, direct, lambda _: WRONG_ETAG) as (store, _):
        assert store.read("a") == b"one"


def test_a_store_that_always_fails_is_given_up_after_the_attempts_that_the_settings_allow(
    s3: S3Server, direct: S3Store
) -> None:
    for fault in (RESET, SLOW_DOWN, NOT_S3):
        with (
            faulty(s3, direct, Outage(fault, seconds=60, begins=lambda _: True), AWS_MAX_ATTEMPTS="3") as (
                store,
                proxy,
            ),
            pytest.raises(StoreUnavailable, match="attempt 3, the last"),
        ):
            store.read("a")
        assert len(proxy.requests) == 3


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket"), (400, "MalformedXML")])
def test_a_refused_request_is_not_sent_again(s3: S3Server, direct: S3Store, status: int, code: str) -> None:
    refusal = Answer(status, f"<Error><Code>{code}</Code></Error>".encode())
    with faulty(s3, direct, lambda _: refusal) as (store, proxy):
        with pytest.raises((StoreAccessDenied, StoreUnavailable), match=code):
            store.read("a")
        assert len(proxy.requests) == 1


def test_a_program_that_stops_during_an_outage_does_not_wait_for_the_abort(s3: S3Server, direct: S3Store) -> None:
    def be_stopped(store: Store) -> None:
        with store.assemble("a", size=5, replacing=None):
            raise KeyboardInterrupt

    outage = Outage(RESET, seconds=60, begins=lambda request: request.operation == "AbortMultipartUpload")
    with faulty(s3, direct, outage) as (store, _):
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            be_stopped(store)
        assert time.monotonic() - began < 30
    assert len(outage.struck) > 1
    assert direct.abort_assemblies("a") == 1
