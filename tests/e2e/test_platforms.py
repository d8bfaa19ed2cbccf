"""Names and namespaces of other people: the chart under odd names, below another chart, and where policies hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.charts.helm import CHART, run_helm
from tests.e2e.cluster import MERGE, RELEASE, WORKER, Cluster
from tests.e2e.conftest import ALL, CHUNKS, Bucket

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(1800)


def status(cluster: Cluster, release: str) -> str:
    """Return the screen of `embedder status` for the release."""
    command = [sys.executable, "-c", "from embedder.cli import main; main()", "status", "-n", cluster.namespace]
    done = subprocess.run(
        [*command, "--release", release],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "KUBECONFIG": cluster.inputs.kubeconfig},
    )
    return done.stdout


@pytest.mark.parametrize("release", ["2024", "true", "1e3", "team.search", "r" * 53])
def test_a_release_of_an_odd_name_runs_and_is_found_by_that_name(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path, release: str
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    cluster.install(values, tmp_path, release=release)
    items = cluster.get("jobs", "--selector", f"embedder-release={release}")["items"]
    jobs = {job["metadata"]["labels"]["app.kubernetes.io/component"]: job["metadata"]["name"] for job in items}
    cluster.wait_until_complete(jobs["worker"])
    cluster.wait_until_complete(jobs["merge"])
    assert bucket.result_urls() == urls
    assert f"{CHUNKS}" in status(cluster, release)
    assert "Succeeded" in cluster.helm("test", release)


def test_two_aliases_below_another_chart_run_side_by_side(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    shutil.copytree(CHART, tmp_path / "charts")
    umbrella = tmp_path / "charts" / "examples" / "umbrella"
    run_helm("dependency", "update", str(umbrella))
    runs = {
        alias: f"s3://{bucket.name}/{bucket.prefix}/{folder}"
        for alias, folder in (("train", "run"), ("validation", "other"))
    }
    both = {alias: values | {"run": {"uri": uri}} for alias, uri in runs.items()}
    nothing = {"imageRegistry": "", "imagePullSecrets": []}
    cluster.install(both | {"global": nothing}, tmp_path, release="media", chart=umbrella)
    for alias in runs:
        cluster.wait_until_complete(f"media-{alias}-worker")
        cluster.wait_until_complete(f"media-{alias}-merge")
        assert f"media-{alias}" in status(cluster, f"media-{alias}")
    assert bucket.result_urls() == urls


def test_a_namespace_with_a_quota_and_a_limit_range_admits_every_pod(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    amounts = {
        "requests.cpu": "8",
        "requests.memory": "16Gi",
        "limits.cpu": "16",
        "limits.memory": "32Gi",
        "pods": "20",
    }
    cluster.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": {"hard": amounts}}
    )
    limits = {
        "type": "Container",
        "default": {"cpu": "500m", "memory": "256Mi"},
        "defaultRequest": {"cpu": "100m", "memory": "128Mi"},
        "max": {"cpu": "4", "memory": "8Gi"},
    }
    cluster.apply(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": {"limits": [limits]}}
    )
    values["worker"]["resources"]["limits"]["cpu"] = "1"
    cluster.install(values, tmp_path)
    cluster.wait_until_complete(WORKER)
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == urls
    assert "Succeeded" in cluster.helm("test", RELEASE)
