"""Stores that cannot copy, or do it wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.errors import StoreUnavailable
from common.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.s3 import clear_clients
from common.store import open_store
from merger.merge import merge
from tests.merger.runs import assert_merged, put_run, read_summary, settings_for
from tests.s3_proxy import NOT_IMPLEMENTED, Intervention, s3_proxy, wrong_copy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from common.store import Store
    from tests.s3_server import S3Server

SIZES = [2600, 2700, 10]


@pytest.fixture(params=["refused", "whole", "zeros"])
def deceived(
    request: pytest.FixtureRequest, s3: S3Server, s3_api: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store whose copies are refused, or wrong in size, or wrong in content alone."""
    behaviours: dict[str, Intervention] = {
        "refused": lambda each: NOT_IMPLEMENTED if each.is_copy else None,
        "whole": wrong_copy(s3_api, ignoring_the_range=True),
        "zeros": wrong_copy(s3_api, ignoring_the_range=False),
    }
    with s3_proxy(s3, behaviours[request.param]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        yield open_store(f"s3://{bucket}/run")
        assert any(each.is_copy for each in proxy.requests), "nothing was copied, so nothing was tested"


def test_a_store_that_does_not_copy_or_copies_wrongly_is_noticed_and_streamed_to(
    deceived: Store, s3_api: S3Client, bucket: str
) -> None:
    chunks = put_run(deceived, SIZES)
    merge(deceived, settings_for(deceived, len(SIZES)))
    assert_merged(deceived, chunks)
    assert read_summary(deceived)["assembly"] == "streaming"
    assert sorted(found.key for found in deceived.list("")) == [RESULT_KEY, FAILURES_KEY, SUMMARY_KEY]
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)


def test_where_copying_is_demanded_a_wrong_copy_ends_the_merge_and_leaves_no_result(
    deceived: Store, s3_api: S3Client, bucket: str
) -> None:
    put_run(deceived, SIZES)
    with pytest.raises(StoreUnavailable, match=r"Images_Embedded\.h5 could not be made \(server-side\)"):
        merge(deceived, settings_for(deceived, len(SIZES), assembly="server-side"))
    assert sorted(found.key for found in deceived.list("")) == [chunk_key(index) for index in range(len(SIZES))]
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)
