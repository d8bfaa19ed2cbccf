"""An index on a real cluster, added to a run that is merged, and built again after a top-up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from common.run.keys import INDEX_KEY, SUMMARY_KEY
from tests.e2e.cluster import MERGE, RELEASE, WORKER
from tests.e2e.conftest import ALL

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster
    from tests.e2e.conftest import Bucket

pytestmark = pytest.mark.timeout(1800)

INDEX = f"{RELEASE}-index"
RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
"""A small cluster has no room for the chart's own."""

ABSENT = 5
"""A photo that is not there while the run is computed."""


def summary(bucket: Bucket) -> dict[str, Any]:
    body = bucket.client.get_object(Bucket=bucket.name, Key=f"{bucket.prefix}/run/{SUMMARY_KEY}")["Body"]
    found: dict[str, Any] = json.loads(body.read())
    return found


def test_an_index_follows_the_merge(cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path) -> None:
    bucket.upload_photos(ALL)
    bucket.upload_list()
    values["index"] = {"enabled": True, "resources": RESOURCES}
    cluster.install(values, tmp_path)
    cluster.wait_until_complete(MERGE)
    cluster.wait_until_complete(INDEX)
    assert f"Job {MERGE} is" in cluster.log(f"job/{INDEX}", "gate")
    assert INDEX_KEY in bucket.run_objects()
    found = summary(bucket)
    assert found["index"]["rows"] == found["rows_embedded"] == len(ALL)
    status = json.loads(cluster.embedder("status", "--output", "json"))
    assert status["index"].startswith("finished")
    assert status["has_ended"]
    assert "index" in cluster.embedder("logs", "--index")


def test_an_index_is_added_by_an_upgrade_and_a_top_up_builds_it_again(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    for number in ALL:
        if number != ABSENT:
            bucket.upload_photos(range(number, number + 1))
    bucket.upload_list()
    values["worker"]["maxFailureRatio"] = 0.5
    values["index"] = {"resources": RESOURCES}
    cluster.install(values, tmp_path)
    cluster.wait_until_complete(WORKER)
    cluster.wait_until_complete(MERGE)
    assert not cluster.has_job(INDEX)
    cluster.upgrade("index.enabled=true")
    cluster.wait_until_complete(INDEX)
    assert summary(bucket)["index"]["rows"] == len(ALL) - 1

    bucket.upload_photos(range(ABSENT, ABSENT + 1))
    cluster.embedder("topup", "--reasons", "not_found,access_denied")
    cluster.wait_until_complete(f"{RELEASE}-topup-1-index")
    assert summary(bucket)["index"]["rows"] == len(ALL)
