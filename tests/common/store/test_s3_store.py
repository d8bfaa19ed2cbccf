"""The requests to S3, and what happens on stores that support fewer of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from common.store import open_store
from common.store.contract import ObjectExists, ObjectStat, Store
from common.store.s3.client import clear_clients, s3_client
from tests.s3_proxy import Answer, Request, has_condition, refuse_conditions, s3_proxy

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from tests.s3_server import S3Server


def test_a_probe_that_a_killed_program_left_is_aborted_once_it_is_old(
    s3: S3Server, s3_api: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(key: str) -> str:
        return s3_api.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]

    def uploads() -> set[str]:
        return {upload["UploadId"] for upload in s3_api.list_multipart_uploads(Bucket=bucket).get("Uploads", [])}

    old, new, other = begin("run/.access"), begin("run/.access"), begin("run/.accessible")

    def list_an_old_one(request: Request) -> Answer | None:
        if request.method != "GET" or "uploads" not in request.path:
            return None
        listed = "".join(
            f"<Upload><Key>{key}</Key><UploadId>{upload}</UploadId><Initiated>{begun}</Initiated></Upload>"
            for key, upload, begun in (
                ("run/.access", old, "2026-01-01T00:00:00.000Z"),
                ("run/.access", new, datetime.now(UTC).isoformat()),
                ("run/.accessible", other, "2026-01-01T00:00:00.000Z"),
            )
        )
        return Answer(200, f"<ListMultipartUploadsResult>{listed}</ListMultipartUploadsResult>".encode())

    with s3_proxy(s3, list_an_old_one) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        open_store(f"s3://{bucket}/run").check_access()
    assert uploads() == {new, other}


def test_a_program_that_may_not_list_uploads_still_has_access(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = Answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")

    def deny(request: Request) -> Answer | None:
        return denied if request.method == "GET" and "uploads" in request.path else None

    with s3_proxy(s3, deny) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        open_store(f"s3://{bucket}/run").check_access()
        assert any(deny(request) for request in proxy.requests), "the store was not asked for the uploads"


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
        # After the first refusal no write has a condition.
        assert sum(has_condition(request) for request in proxy.requests) == 1


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
def test_a_list_of_objects_does_not_parse_their_times(s3_api: S3Client, bucket: str) -> None:
    # The SDK parses a time in 40 µs, and a gate lists up to 100,000 chunks every half a minute.
    store = open_store(f"s3://{bucket}/run")
    stored = store.put_bytes("chunks/a", b"abc")
    assert list(store.list("chunks/")) == [stored]
    listed = s3_api.list_objects_v2(Bucket=bucket, Prefix="run/")["Contents"]
    assert "LastModified" in listed[0], "this client has the SDK's own parser"
    ours = s3_client().list_objects_v2(Bucket=bucket, Prefix="run/")["Contents"]
    assert ours == [{key: value for key, value in listed[0].items() if key != "LastModified"}]
