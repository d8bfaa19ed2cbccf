"""A top-up on a real cluster, by the command and by the chart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.cluster import MERGE, RELEASE, WORKER, Cluster, CommandError
from tests.e2e.conftest import ALL, CHUNKS, Bucket

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(1800)

ABSENT = (5, 10)
"""Photos of the second and the third chunk, which are not there while the run is computed."""

REASONS = "not_found,access_denied"
"""The reasons of an object that is absent. Some stores deny it to those who may not list the bucket."""

WHOLE_RUN = {"Images_Embedded.h5", "failures.csv", "report.html", "summary.json"}


def put_run_with_failures(cluster: Cluster, bucket: Bucket, values: dict[str, Any], folder: Path) -> list[str]:
    """Finish a run in which two photos have failed, and return the URLs of all photos."""
    for number in ALL:
        if number not in ABSENT:
            bucket.upload_photos(range(number, number + 1))
    urls = bucket.upload_list()
    values["worker"]["maxFailureRatio"] = 0.5
    cluster.install(values, folder)
    cluster.wait_until_complete(WORKER)
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == [url for number, url in enumerate(urls) if number not in ABSENT]
    return urls


def test_what_failed_is_fetched_again_by_the_command_and_then_by_the_chart(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    urls = put_run_with_failures(cluster, bucket, values, tmp_path)

    bucket.upload_photos(range(ABSENT[0], ABSENT[0] + 1))
    cluster.embedder("topup", "--reasons", REASONS, "--device", "cpu")
    job = f"{RELEASE}-topup-1"
    cluster.wait_until_complete(job)
    assert cluster.status(job)["completedIndexes"] == f"0-{CHUNKS - 1}"
    cluster.wait_until_complete(f"{job}-merge")
    assert f"Job {job} is" in cluster.log(f"job/{job}-merge", "gate")
    assert bucket.result_urls() == [url for number, url in enumerate(urls) if number != ABSENT[1]]
    assert bucket.run_objects() == WHOLE_RUN

    bucket.upload_photos(range(ABSENT[1], ABSENT[1] + 1))
    with pytest.raises(CommandError, match=f"Job {job} exists, and `embedder topup` has created it"):
        cluster.upgrade("topUp.enabled=true")
    cluster.upgrade("topUp.enabled=true", "topUp.attempt=2", f"topUp.reasons={{{REASONS}}}")
    cluster.wait_until_complete(f"{RELEASE}-topup-2-merge")
    assert bucket.result_urls() == urls
    assert bucket.run_objects() == WHOLE_RUN
    found = json.loads(cluster.embedder("status", "--output", "json"))
    assert found["has_ended"]
    assert "Succeeded" in cluster.helm("test", RELEASE, "--logs")


def test_two_top_ups_at_once_and_one_without_anything_to_fetch_leave_one_whole_result(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    urls = put_run_with_failures(cluster, bucket, values, tmp_path)
    for number in ABSENT:
        bucket.upload_photos(range(number, number + 1))
    for _ in range(2):
        cluster.embedder("topup", "--reasons", REASONS)
    for number in (1, 2):
        cluster.wait_until_complete(f"{RELEASE}-topup-{number}-merge")
    assert bucket.result_urls() == urls

    cluster.embedder("topup")
    cluster.wait_until_complete(f"{RELEASE}-topup-3-merge")
    assert bucket.result_urls() == urls
    assert bucket.run_objects() == WHOLE_RUN
    cluster.helm("uninstall", RELEASE, "--wait")
    cluster.until(
        lambda: not cluster.get("jobs")["items"], "the Jobs of the top-ups are deleted with those of the release"
    )
