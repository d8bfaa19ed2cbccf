"""A run in the cluster, and its status as a program reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.embedder.command_line import embedder
from tests.k8s.release_objects import (
    NOT_SCHEDULED,
    ended,
    failed,
    finished,
    merge_job,
    pod_of,
    running,
    worker_job,
)

if TYPE_CHECKING:
    from common.process.last_word import LastWord
    from tests.k8s.cluster_double import ClusterDouble

EMBEDDED = "2026-11-23T12:00:00.000Z info embedded chunk={0} images={1} of=1000 failed=2 rate_per_s={2} waiting_on={3}"


def status(*options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(embedder("status", "--output", "json", *options).out)
    return found


def stored(chunk: int, *, of: int, failed: int) -> LastWord:
    """Return the last word of a worker that has stored its chunk."""
    return finished(f"chunk {chunk} is in the store: s3://b/c_{chunk}.h5", images=of, of=of, failed=failed)


def put_mixed_run(cluster: ClusterDouble) -> None:
    """Ten chunks: 0-3 done, 4-5 running, 6 pending, 7-8 failed, 9 without a pod."""
    job = worker_job(10, completed="0-3", failed="7,8", active=3)
    cluster.put("jobs", job)
    cluster.put("jobs", merge_job())
    for chunk in range(4):
        cluster.put("pods", pod_of(job, chunk, **ended(0, stored(chunk, of=1000, failed=10))))
    for chunk, rate in ((4, 100), (5, 150)):
        pod = cluster.put("pods", pod_of(job, chunk, **running()))["metadata"]["name"]
        cluster.append_log(pod, "worker", EMBEDDED.format(chunk, 500, rate, "fetch"))
        cluster.append_log(pod, "worker", "2026-11-23T12:00:01.000Z warning library message=whatever")
    cluster.put("pods", pod_of(job, 6, **NOT_SCHEDULED))
    cluster.put("pods", pod_of(job, 7, 0, **ended(75, failed("the store does not answer"))))
    cluster.put("pods", pod_of(job, 7, 1, **ended(65, failed("400 of 1000 images failed"))))
    cluster.put("pods", pod_of(job, 8, **ended(137, reason="OOMKilled")))
    merge = cluster.put("pods", pod_of(merge_job(), None, **running("gate")))["metadata"]["name"]
    line = '2026-11-23T12:00:00.000Z warning waiting in_store=4 message="Job embedder-worker is running"'
    cluster.append_log(merge, "gate", line)
