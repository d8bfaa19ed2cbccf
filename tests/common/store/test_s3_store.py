"""The requests to S3, and what happens on stores that support fewer of them."""

from __future__ import annotations

import cProfile
import pstats
import re
from typing import TYPE_CHECKING

import pytest

from common.store import open_store
from common.store.contract import ObjectExists, ObjectStat, Store
from common.store.s3.client import clear_clients, s3_client
from tests.s3_proxy import Answer, Fault, has_condition, refuse_conditions, s3_proxy

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from tests.s3_server import S3Server


def test_an_object_that_a_killed_access_check_left_is_removed_once_it_is_old(
    s3: S3Server, s3_api: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("run/.access/new", "run/.access/old", "run/.accessible"):
        s3_api.put_object(Bucket=bucket, Key=key, Body=b"")

    def make_old(answer: Answer) -> Answer:
        before, old, after = answer.body.decode().partition("<Key>run/.access/old</Key>")
        changed = re.sub("<LastModified>[^<]*<", "<LastModified>2026-01-01T00:00:00.000Z<", after, count=1)
        return answer._replace(body=(before + old + changed).encode())

    with s3_proxy(s3, lambda each: Fault(change=make_old) if each.operation == "ListObjectsV2" else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        open_store(f"s3://{bucket}/run").check_access()
    left = [each["Key"] for each in s3_api.list_objects_v2(Bucket=bucket)["Contents"]]
    assert left == ["run/.access/new", "run/.accessible"]


def assemble(store: Store, key: str, data: bytes, *, replacing: ObjectStat | None) -> None:
    with store.assemble(key, size=len(data), replacing=replacing) as assembly:
        assembly.upload(1, 0, data)
        assembly.publish()


@pytest.mark.parametrize("code", ["NotImplemented", "InvalidArgument"])
def test_a_store_without_conditional_writes_is_written_to_after_a_look(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "one").write_bytes(b"one")
    with s3_proxy(s3, refuse_conditions(code)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        store = open_store(f"s3://{bucket}/run")
        for key in ("a", "b"):
            store.put_file(key, tmp_path / "one", overwrite=False)
            assert store.read(key) == b"one"
        seen = store.put_bytes("a", b"seen")
        with pytest.raises(ObjectExists):
            store.put_file("a", tmp_path / "one", overwrite=False)
        for replacing in (None, seen._replace(version="0" * 32)):
            with pytest.raises(ObjectExists):
                assemble(store, "a", b"new", replacing=replacing)
        assert store.read("a") == b"seen"
        assemble(store, "a", b"new", replacing=seen)
        assert store.read("a") == b"new"
        # After the first refusal of an operation it has no condition.
        with_condition = [request.operation for request in proxy.requests if has_condition(request)]
        assert with_condition == ["PutObject", "CompleteMultipartUpload"]


def test_a_store_may_support_conditions_for_puts_and_not_for_assemblies(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").write_bytes(b"one")
    refuse = refuse_conditions("NotImplemented")
    with s3_proxy(s3, lambda request: refuse(request) if request.method == "POST" else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        store = open_store(f"s3://{bucket}/run")
        store.put_file("a", tmp_path / "one", overwrite=False)
        assemble(store, "b", b"new", replacing=None)
        assert store.read("b") == b"new"
        assert sum(has_condition(request) for request in proxy.requests) == 2


@pytest.mark.usefixtures("s3_environment")
def test_a_list_of_objects_does_not_take_the_sdks_slow_parser_of_times(s3_api: S3Client, bucket: str) -> None:
    # That parser takes 40 µs or more for each object, and a gate lists up to 100,000 chunks every half a minute.
    open_store(f"s3://{bucket}/run").put_bytes("chunks/a", b"abc")

    def listed(client: S3Client) -> tuple[object, set[str]]:
        with cProfile.Profile() as profile:
            found = client.list_objects_v2(Bucket=bucket, Prefix="run/")["Contents"]
        return found, {file for file, _, _ in pstats.Stats(profile).stats if "dateutil" in file}  # type: ignore[attr-defined]

    theirs, slow_files = listed(s3_api)
    assert slow_files, "this client has the SDK's own parser"
    assert listed(s3_client()) == (theirs, set())
