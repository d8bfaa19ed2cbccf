"""Stores that cannot copy, or that copy wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.errors import StoreUnavailable
from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from common.store.s3.client import clear_clients
from merger.merge import merge
from tests.merger.runs import DIMENSIONS, assert_merged, put_run, read_summary, settings_for
from tests.s3_proxy import NOT_IMPLEMENTED, Answer, CopiedRange, Intervention, Request, s3_proxy, wrong_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from common.store.contract import Store
    from tests.s3_server import S3Server

SIZES = [2700, 2700, 10]

ROW = 4 * DIMENSIONS

ERROR_IN_SUCCESS = Answer(200, b"<Error><Code>InternalError</Code><Message>try again</Message></Error>")
"""An answer that S3 may give to requests that take long (S3 API reference, UploadPartCopy)."""


def other_chunk(copied: CopiedRange) -> str:
    zero, one = chunk_key(0), chunk_key(1)
    return copied.key.replace(zero, one) if copied.key.endswith(zero) else copied.key.replace(one, zero)


@pytest.fixture(
    params=["refused", "error", "no etag", "whole", "zeros", "truncated", "shifted", "other chunk", "torn", "swapped"]
)
def deceived(
    request: pytest.FixtureRequest, s3: S3Server, s3_api: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store that refuses to copy, or whose copies have a wrong size or only a wrong content."""
    answers = {"refused": NOT_IMPLEMENTED, "error": ERROR_IN_SUCCESS, "no etag": Answer(200, b"<CopyPartResult/>")}
    contents: dict[str, Callable[[CopiedRange], bytes]] = {
        "whole": lambda copied: s3_api.get_object(Bucket=bucket, Key=copied.key)["Body"].read(),
        "zeros": lambda copied: bytes(copied.length),
        "truncated": lambda copied: copied.read(s3_api)[:-ROW],
        "shifted": lambda copied: copied.read(s3_api, shift=-ROW),
        "other chunk": lambda copied: copied.read(s3_api, key=other_chunk(copied)),
        "torn": lambda copied: copied.read(s3_api)[:-1] + b"\0",
        "swapped": lambda copied: (data := copied.read(s3_api))[ROW : 2 * ROW] + data[:ROW] + data[2 * ROW :],
    }
    how: str = request.param
    behaviour: Intervention = (
        (lambda each: answers[how] if each.is_copy else None) if how in answers else wrong_copy(s3_api, contents[how])
    )
    with s3_proxy(s3, behaviour) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        clear_clients()
        yield open_store(f"s3://{bucket}/run")
        assert any(each.is_copy for each in proxy.requests), "nothing was copied, so nothing was tested"


@pytest.mark.slow
def test_a_store_that_does_not_copy_or_copies_wrongly_is_noticed_and_streamed_to(
    deceived: Store, s3_api: S3Client, bucket: str
) -> None:
    chunks = put_run(deceived, SIZES)
    merge(deceived, settings_for(deceived, len(SIZES)))
    assert_merged(deceived, chunks)
    assert read_summary(deceived)["assembly"] == "streaming"
    assert sorted(found.key for found in deceived.list("")) == [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY]
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)


@pytest.mark.slow
@pytest.mark.parametrize("deceived", ["refused", "whole", "torn"], indirect=True)
def test_with_server_side_assembly_a_wrong_copy_ends_the_merge_and_leaves_no_result(
    deceived: Store, s3_api: S3Client, bucket: str
) -> None:
    put_run(deceived, SIZES)
    with pytest.raises(StoreUnavailable, match=r"Images_Embedded\.h5 could not be made \(server-side\)"):
        merge(deceived, settings_for(deceived, len(SIZES), assembly="server-side"))
    assert sorted(found.key for found in deceived.list("")) == [chunk_key(index) for index in range(len(SIZES))]
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("refused", [1, 99], ids=["once", "each time"])
def test_an_error_within_a_successful_answer_to_the_end_of_the_upload_is_an_error(
    s3: S3Server, s3_api: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    answers = iter([ERROR_IN_SUCCESS] * refused)

    def intervene(request: Request) -> Answer | None:
        return next(answers, None) if request.operation == "CompleteMultipartUpload" else None

    with s3_proxy(s3, intervene) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        clear_clients()
        store = open_store(f"s3://{bucket}/run")
        chunks = put_run(store, SIZES)
        if refused == 1:
            merge(store, settings_for(store, len(SIZES)))
            assert_merged(store, chunks)
        else:
            with pytest.raises(StoreUnavailable, match="InternalError"):
                merge(store, settings_for(store, len(SIZES)))
            assert sorted(found.key for found in store.list("")) == [chunk_key(index) for index in range(len(SIZES))]
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)
