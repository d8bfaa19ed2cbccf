"""The requests to S3, and what happens on stores that support fewer of them."""

from __future__ import annotations

import cProfile
import pstats
import re
from typing import TYPE_CHECKING, Any

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
@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
def test_the_objects_of_a_list_are_those_that_the_sdk_reads(s3_api: S3Client, bucket: str, operation: str) -> None:
    for name in ("a", "b c", "d+e", "f&g<h>", "ü"):
        open_store(f"s3://{bucket}/run").put_bytes(f"chunks/{name}", b"abc")

    def answer(client: S3Client, **arguments: object) -> dict[str, Any]:
        found: dict[str, Any] = getattr(client, operation)(Bucket=bucket, **arguments)
        del found["ResponseMetadata"]
        return found

    for arguments in ({"Prefix": "run/"}, {"Prefix": "run/", "MaxKeys": 2}, {"Prefix": "other/"}):
        theirs, ours = (answer(client, **arguments) for client in (s3_api, s3_client()))
        used = {"Key", "Size", "ETag", "LastModified"}
        if "Contents" in theirs:
            theirs["Contents"] = [{name: each[name] for name in used} for each in theirs["Contents"]]
        assert ours == theirs


@pytest.mark.usefixtures("s3_environment")
def test_a_list_of_objects_passes_the_sdks_slow_parser_by(s3_api: S3Client, bucket: str) -> None:
    for number in range(20):
        open_store(f"s3://{bucket}/run").put_bytes(f"chunks/{number}", b"abc")

    def parsed_fields(client: S3Client) -> int:
        with cProfile.Profile() as profile:
            assert len(client.list_objects_v2(Bucket=bucket, Prefix="run/")["Contents"]) == 20
        calls = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        return sum(call[1] for (_, _, name), call in calls.items() if name == "_parse_shape")

    assert parsed_fields(s3_api) > 20 * 4, "this client has the SDK's own parser"
    assert parsed_fields(s3_client()) < 20
