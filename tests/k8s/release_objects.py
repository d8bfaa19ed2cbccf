"""The objects of a release as a cluster shows them. They are made from the chart's default render."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from common.process.last_word import LastWord

MANIFESTS = Path(__file__).parents[2] / "k8s" / "manifests"

Object = dict[str, Any]

NOT_SCHEDULED: Object = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        }
    ],
}


def worker_job(
    count: int,
    *,
    of: int = 0,
    name: str = "embedder-worker",
    component: str = "worker",
    chunks: str = "",
    run_uri: str = "s3://my-bucket/embedded",
    completed: str = "",
    failed: str = "",
    ended: str = "",
    reason: str = "FailedIndexes",
    message: str = "Job has failed indexes",
    active: int = 0,
    suspended: bool = False,
) -> Object:
    """Return the worker Job, or a rerun where `chunks` are given. It has `count` indexes.

    The run has `of` chunks, by default `count`. `completed` and `failed` are indexes.
    """
    job: Object = yaml.safe_load((MANIFESTS / "worker-job.yaml").read_text())
    uid = f"uid-of-{name}"
    own = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": name}
    old = {"controller-uid": uid, "job-name": name}
    job["metadata"] |= {"name": name, "uid": uid}
    job["metadata"]["labels"]["app.kubernetes.io/component"] = component
    template = job["spec"]["template"]
    template["metadata"]["labels"] |= own | old | {"app.kubernetes.io/component": component}
    values = {"EMBEDDER_CHUNK_COUNT": str(of or count), "EMBEDDER_RUN_URI": run_uri}
    container = template["spec"]["containers"][0]
    container["env"] = [
        each | ({"value": values[each["name"]]} if each["name"] in values else {}) for each in container["env"]
    ]
    if chunks:
        container["env"].append({"name": "EMBEDDER_CHUNK_INDEXES", "value": chunks})
    job["spec"] |= {
        "completions": count,
        "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
        "suspend": suspended,
    }
    job["status"] = {"active": active, "completedIndexes": completed, "failedIndexes": failed}
    if ended:
        job["status"]["conditions"] = [{"type": ended, "status": "True", "reason": reason, "message": message}]
    return job


def merge_job(*, ended: str = "") -> Object:
    job: Object = yaml.safe_load((MANIFESTS / "merge-job.yaml").read_text())
    job["status"] = {"conditions": [{"type": ended, "status": "True"}]} if ended else {"active": 1}
    return job


def index_job(*, ended: str = "") -> Object:
    """Return the index Job, made from the merge Job, since a default render has no index."""
    job = merge_job(ended=ended)
    job["metadata"]["name"] = "embedder-index"
    template = job["spec"]["template"]
    for labels in (job["metadata"]["labels"], template["metadata"]["labels"]):
        labels["app.kubernetes.io/component"] = "index"
    (gate,), (indexer,) = template["spec"]["initContainers"], template["spec"]["containers"]
    gate["command"] = ["python", "-m", "k8s.gate", "index"]
    gate["env"].append({"name": "EMBEDDER_MERGE_JOB", "value": "embedder-merge"})
    indexer |= {"name": "indexer", "command": ["python", "-m", "results.index"]}
    return job


def pod_of(job: Object, index: int | None, attempt: int = 0, **status: Any) -> Object:  # noqa: ANN401 - of a PodStatus
    """Return a pod of the Job with that status."""
    name = job["metadata"]["name"]
    template = copy.deepcopy(job["spec"]["template"])
    labels = template["metadata"].get("labels", {}) | {"batch.kubernetes.io/job-name": name}
    annotations = {}
    suffix = f"-{attempt:05}"
    if index is not None:
        suffix = f"-{index}{suffix}"
        labels["batch.kubernetes.io/job-completion-index"] = str(index)
        annotations = {"batch.kubernetes.io/job-index-failure-count": str(attempt)}
    return {
        "metadata": {"name": f"{name}{suffix}", "labels": labels, "annotations": annotations},
        "spec": template["spec"],
        "status": {"phase": "Running"} | status,
    }


def running(container: str = "worker") -> Object:
    """Return the status of a pod whose container runs. While an init container runs, the pod is Pending."""
    state = {"name": container, "state": {"running": {"startedAt": "2026-11-23T12:00:00Z"}}}
    if container != "gate":
        return {"phase": "Running", "containerStatuses": [state]}
    waiting = {"name": "merger", "state": {"waiting": {"reason": "PodInitializing"}}}
    return {"phase": "Pending", "initContainerStatuses": [state], "containerStatuses": [waiting]}


def finished(message: str, **counts: int) -> LastWord:
    return LastWord(event="finished", message=message, counts=counts)


def failed(message: str, **counts: int) -> LastWord:
    return LastWord(event="failed", message=message, counts=counts)


def ended(
    exit_code: int,
    word: LastWord | str = "",
    *,
    reason: str = "",
    container: str = "worker",
    **more: Any,  # noqa: ANN401 - of a PodStatus
) -> Object:
    """Return the status of a pod whose container has ended.

    `word` is the last word of one of our programs, or any text that another program left, such as the end of its log.
    """
    terminated = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed")}
    if word:
        terminated["message"] = word if isinstance(word, str) else word.to_termination_message().decode()
    phase = "Failed" if exit_code else "Succeeded"
    return {"phase": phase, "containerStatuses": [{"name": container, "state": {"terminated": terminated}}]} | more


def waiting(reason: str, message: str) -> Object:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "worker", "image": "some/image", "state": state}]}
