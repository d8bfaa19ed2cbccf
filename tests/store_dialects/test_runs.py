"""Whole runs by the real programs on every double: chunks with twins, both ways to merge, clean-up, a second merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY
from common.store.s3.store import S3Store
from tests.interruptions.conftest import model, run, shared_run, undisturbed
from tests.interruptions.runs import assert_same, ended
from tests.merger.runs import read_summary
from tests.s3_proxy import s3_proxy
from tests.store_dialects.dialects import DIALECTS, ENCRYPTED, ENCRYPTION, PAID, PAYING, Dialect, Double

if TYPE_CHECKING:
    from common.store.contract import Store
    from tests.interruptions.runs import RunOfImages
    from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

__all__ = ["model", "run", "shared_run", "undisturbed"]

STREAMED = {"google", "r2", "old ceph", "least", "without copy etags"}
"""The stores on which a merge has to pass the vectors through itself."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_whole_run_needs_no_setting(
    dialect: Dialect, s3: S3Server, bucket: str, run: RunOfImages, undisturbed: Store
) -> None:
    check_whole_run(dialect, {}, s3=s3, bucket=bucket, run=run, undisturbed=undisturbed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("dialect", "settings"), [(ENCRYPTED, ENCRYPTION), (PAID, PAYING)], ids=["encrypted", "requester pays"]
)
def test_a_whole_run_gives_a_bucket_what_it_demands(
    *,
    dialect: Dialect,
    settings: dict[str, str],
    s3: S3Server,
    bucket: str,
    run: RunOfImages,
    undisturbed: Store,
) -> None:
    check_whole_run(dialect, settings, s3=s3, bucket=bucket, run=run, undisturbed=undisturbed)


def check_whole_run(
    dialect: Dialect, settings: dict[str, str], *, s3: S3Server, bucket: str, run: RunOfImages, undisturbed: Store
) -> None:
    direct = S3Store(f"s3://{bucket}/run")
    with s3_proxy(s3, Double(dialect)) as proxy:
        sdk = proxy.environment | settings
        workers = [run.start_worker(direct.uri, index, sdk) for index in (0, 1, 2, 1)]
        logs = [ended(process) for process in workers]
        assert all("store_checked" in log for log in logs)

        ended(run.start_merger(direct.uri, sdk, keep_chunks="true"))
        expected = "streaming" if dialect.name in STREAMED else "server-side"
        assert read_summary(direct)["assembly"] == expected
        assert "this run is finished" in ended(run.start_merger(direct.uri, sdk, keep_chunks="true"))

        direct.delete([RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY])
        ended(run.start_merger(direct.uri, sdk, assembly="streaming"))
        assert_same(direct, undisturbed)
        assert "this run is finished" in ended(run.start_merger(direct.uri, sdk))
    assert_same(direct, undisturbed)
    if dialect.list_uploads is None:
        assert "Uploads" not in direct.prefix.client.list_multipart_uploads(Bucket=bucket)
