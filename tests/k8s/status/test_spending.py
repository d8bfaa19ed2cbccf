"""GPU hours, cost and pace in `embedder status`, with a double of the cluster's API."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import SettingsError
from tests.embedder.command_line import embedder
from tests.k8s.release_objects import ended, finished, merge_job, pod_of, running, worker_job
from tests.k8s.status.reading import status, stored

if TYPE_CHECKING:
    from tests.k8s.cluster_double import ClusterDouble
    from tests.k8s.release_objects import Object


def ended_after(hours: float, word: Any, *, exit_code: int = 0, container: str = "worker") -> Object:  # noqa: ANN401 - LastWord or text
    """Return the status of a pod that ran for so many hours."""
    found = ended(exit_code, word, container=container)
    began = datetime(2026, 11, 23, 12, tzinfo=UTC)
    times = {"startedAt": began.isoformat(), "finishedAt": (began + timedelta(hours=hours)).isoformat()}
    found["containerStatuses"][0]["state"]["terminated"] |= times
    return found


def running_for(hours: float) -> Object:
    found = running()
    began = datetime.now(UTC) - timedelta(hours=hours)
    found["containerStatuses"][0]["state"]["running"]["startedAt"] = began.isoformat(timespec="seconds")
    return found


def put_run(cluster: ClusterDouble, *, gpus: str = "1", resource: str = "nvidia.com/gpu", price: str = "") -> Object:
    """Chunk 0 is done after a failed attempt, chunk 1 runs, and chunk 2 waits."""
    job = worker_job(3, completed="0", active=2)
    job["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": "6Gi", resource: gpus}}
    merge = merge_job()
    if price:
        env = merge["spec"]["template"]["spec"]["containers"][0]["env"]
        env.append({"name": "EMBEDDER_GPU_HOUR_PRICE", "value": price})
    cluster.put("jobs", job)
    cluster.put("jobs", merge)
    cluster.put("pods", pod_of(job, 0, **ended_after(0.5, "killed", exit_code=137)))
    cluster.put("pods", pod_of(job, 0, 1, **ended_after(1.5, stored(0, of=1000, failed=0))))
    cluster.put("pods", pod_of(job, 1, **running_for(2)))
    return merge


def test_the_gpu_hours_of_all_attempts_count(cluster: ClusterDouble) -> None:
    put_run(cluster)
    spending = status()["spending"]
    assert spending["gpu_hours"] == pytest.approx(4, abs=0.05)
    assert (spending["cost"], spending["cost_per_million"]) == (None, None)
    assert re.search(r"spent +4\.0\d GPU hours", embedder("status").out)


@pytest.mark.parametrize("resource", ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "amd.com/gpu"])
def test_slices_and_shares_of_a_gpu_count_by_their_resource(cluster: ClusterDouble, resource: str) -> None:
    put_run(cluster, gpus="2", resource=resource)
    assert status()["spending"]["gpu_hours"] == pytest.approx(8, abs=0.05)


def test_without_gpus_nothing_is_said_of_them(cluster: ClusterDouble) -> None:
    put_run(cluster, resource="example.com/nic")
    assert status()["spending"]["gpu_hours"] is None
    assert "GPU" not in embedder("status").out


def test_the_price_is_that_of_the_option_then_of_the_environment_then_of_the_chart(
    cluster: ClusterDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_run(cluster, price="2.5")
    assert status()["spending"]["cost"] == pytest.approx(10, abs=0.2)
    monkeypatch.setenv("EMBEDDER_GPU_HOUR_PRICE", "3")
    assert status()["spending"]["cost"] == pytest.approx(12, abs=0.2)
    spending = status("--gpu-hour-price", "1")["spending"]
    assert spending["cost"] == pytest.approx(4, abs=0.05)
    assert spending["cost_per_million"] == pytest.approx(4000, rel=0.02)
    monkeypatch.delenv("EMBEDDER_GPU_HOUR_PRICE")
    assert re.search(r"cost 10\.\d\d at 2\.5 an hour", embedder("status").out)


def test_a_price_that_is_no_amount_is_refused(cluster: ClusterDouble) -> None:
    put_run(cluster)
    with pytest.raises(SettingsError, match="give an amount"):
        embedder("status", "--gpu-hour-price", "inf")


def test_a_merged_run_has_the_figures_of_its_summary(cluster: ClusterDouble) -> None:
    job = worker_job(1, completed="0", ended="Complete")
    merge = merge_job(ended="Complete")
    cluster.put("jobs", job)
    cluster.put("jobs", merge)
    cluster.put("pods", pod_of(job, 0, **ended_after(5, stored(0, of=1000, failed=0))))
    word = finished("s3://b/r.h5 has 900 images", embedded=900, computing_seconds=90, gpu_seconds=7200)
    cluster.put("pods", pod_of(merge, None, **ended_after(1, word, container="merger")))
    spending = status("--gpu-hour-price", "1.5")["spending"]
    assert (spending["gpu_hours"], spending["cost"], spending["images_per_s"]) == (2.0, 3.0, 10.0)
    assert spending["images"] == 900
    assert "10 images/s, 2.00 GPU hours" in embedder("status").out


def test_a_merge_of_an_earlier_version_leaves_the_hours_to_the_pods(cluster: ClusterDouble) -> None:
    job = worker_job(1, completed="0", ended="Complete")
    merge = merge_job(ended="Complete")
    cluster.put("jobs", job)
    cluster.put("jobs", merge)
    cluster.put("pods", pod_of(job, 0, **ended_after(5, stored(0, of=1000, failed=0))))
    cluster.put("pods", pod_of(merge, None, **ended_after(1, finished("done"), container="merger")))
    assert status()["spending"]["gpu_hours"] == pytest.approx(5)
