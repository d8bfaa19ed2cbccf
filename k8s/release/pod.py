"""A pod of a release, read from the API's object: one attempt at a chunk, at the merge, or at the index."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from common.errors import ExitCode
from common.process.last_word import LastWord
from k8s.release.cause import Cause
from k8s.release.job import true_condition
from k8s.release.labels import FAILURE_COUNTS, INDEX_LABEL

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from k8s.api.cluster import Object
    from k8s.release.job import Job

OUT_OF_MEMORY = "OOMKilled"

_OTHER_COUNTS = {"images", "of", "failed", "listed"}
"""The counts of a worker's last word that are not numbers of failed images by reason."""

CONTAINERS = {"worker", "gate", "merger", "indexer"}
"""Names of the containers that run this project's programs. A service mesh or the chart's values add others."""


@dataclass(frozen=True)
class PodEnd:
    """How a pod has ended."""

    phase: str
    exit_code: int | None
    """None where none of this project's containers has ended, as after an eviction."""
    ended_by: str
    """What ended the pod from outside, as in `OOMKilled` or `Evicted`; empty where nothing did."""
    message: str
    """The message of the program's last word, or of the cluster. It has no secrets."""
    error: str = ""
    """The name of the program's error; see LastWord."""
    rejected_by: str = ""
    """The node that did not let the pod start, as one whose GPU is broken does. Empty where the pod started."""

    @property
    def kind(self) -> Hashable:
        """A key that is equal for pods with the same cause. The message counts only where the error has no name."""
        message = "" if self.rejected_by else self.error or self.message
        return (self.phase, self.exit_code, self.ended_by, self.rejected_by, message)

    @property
    def is_out_of_memory(self) -> bool:
        return self.ended_by == OUT_OF_MEMORY


@dataclass(frozen=True, kw_only=True)
class Pod:
    name: str
    job: str
    component: str
    chunk: int | None
    """None for the pods of the merge and of the index."""
    created: str
    phase: str
    """Pending, Running, Succeeded, Failed or Unknown."""
    is_running: bool
    """Whether one of this project's containers runs. While the gate runs, the phase is Pending."""
    obstacle: Cause | None
    """Why the pod does not run or will soon stop. None where nothing is wrong."""
    container: str
    """The container whose log shows how far the pod is."""
    end: PodEnd | None
    """None while the pod runs or waits."""
    counts: Mapping[str, int]
    """The counts of the program's last word; see LastWord."""
    retries: int
    """Number of earlier attempts at the same index."""
    gpus: int = 0
    """Number of GPUs, or of slices or shares of one, that the pod holds."""
    started: datetime | None = None
    """When the container began that runs or has ended last. None where none has begun."""
    finished: datetime | None = None
    """When it ended, None where it runs."""

    def seconds(self, now: datetime) -> float:
        """Return for how long the container has run, 0 where the cluster does not say it."""
        if self.started is None or (self.finished is None and not self.is_running):
            return 0.0
        return max(0.0, ((self.finished or now) - self.started).total_seconds())

    @property
    def failed_images(self) -> dict[str, int]:
        """Return the number of failed images by reason, where the chunk ended for their sake. Empty otherwise."""
        if self.end is None or self.end.exit_code != ExitCode.DATA_ERROR:
            return {}
        return {name: count for name, count in self.counts.items() if name not in _OTHER_COUNTS}


def pod_from(found: Object, job: Job) -> Pod:
    """Return a pod of the API, which belongs to `job`."""
    metadata, status = found["metadata"], found.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    index = labels.get(INDEX_LABEL, annotations.get(INDEX_LABEL))
    phase = str(status.get("phase") or "Unknown")
    states = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    containers = [each for each in states if each.get("name") in CONTAINERS]
    others = [each for each in states if each not in containers]
    current = _current(containers, default=found["spec"]["containers"][0]["name"])
    terminated = _terminated(current)
    exit_code = terminated.get("exitCode")
    # An eviction leaves no terminated container, and its message in the pod's status.
    said = terminated.get("message") or status.get("message")
    has_ended = exit_code is not None or phase in {"Succeeded", "Failed"}
    if exit_code is None and has_ended:
        said = said or _failure_of_another(others)
    word = LastWord.from_termination_message(str(said or ""))
    is_running = "running" in (current.get("state") or {})
    # While our program runs, it does not matter to it whether another container starts.
    awaited = containers if is_running else states
    ended_by = _ended_by(status, terminated)
    rejected_by = _rejecting_node(found, states)
    return Pod(
        name=str(metadata["name"]),
        job=job.name,
        component=job.component,
        chunk=job.chunks[int(index)] if job.chunks and index is not None and int(index) < len(job.chunks) else None,
        created=str(metadata.get("creationTimestamp") or ""),
        phase=phase,
        is_running=is_running,
        obstacle=_obstacle(found, awaited) if phase in {"Pending", "Running"} else None,
        container=str(current["name"]),
        end=PodEnd(phase, exit_code, ended_by, word.message, word.error, rejected_by) if has_ended else None,
        counts=word.counts,
        retries=sum(int(annotations.get(key) or 0) for key in FAILURE_COUNTS),
        gpus=_gpus(found),
        started=_time((current.get("state") or {}).get("running", terminated).get("startedAt")),
        finished=None if is_running else _time(terminated.get("finishedAt")),
    )


def _gpus(pod: Object) -> int:
    """Return the number of GPUs in the limits of the pod's containers. A resource is one by its name."""
    limits = [(each.get("resources") or {}).get("limits") or {} for each in pod["spec"]["containers"]]
    amounts = [amount for each in limits for name, amount in each.items() if _GPU.search(name)]
    return sum(int(amount) for amount in amounts if str(amount).isdecimal())


_GPU = re.compile(r"/(?:gpu|mig-)")
"""Found in the names of GPUs: nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-1g.10gb, amd.com/gpu."""


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None


def _current(containers: list[Object], *, default: str) -> Object:
    """Return the container that runs, or else the last one that ended, or else the first one."""
    begun = [each for each in containers if (each.get("state") or {}).keys() & {"running", "terminated"}]
    running = [each for each in begun if "running" in each["state"]]
    return (running or begun[-1:] or [{"name": default}])[0]


def _failure_of_another(containers: list[Object]) -> str:
    """Return which container failed before one of ours could start, empty where none did."""
    for each in containers:
        terminated = _terminated(each)
        if terminated.get("exitCode"):
            message = " ".join(str(terminated.get("message") or "").split())
            what = f"container {each['name']} ended with exit code {terminated['exitCode']}"
            return f"{what}: {message}" if message else what
    return ""


def _terminated(container: Object) -> dict[str, Any]:
    return (container.get("state") or {}).get("terminated") or {}


def _obstacle(pod: Object, containers: list[Object]) -> Cause | None:
    status, node = pod["status"], pod["spec"].get("nodeName", "")
    conditions = {each.get("type"): each for each in status.get("conditions") or []}
    scheduled, ready = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    if scheduled.get("status") == "False":
        return Cause(str(scheduled.get("reason")), str(scheduled.get("message") or "no reason is given"))
    if ready.get("reason") == "NodeNotReady":
        return Cause("NodeNotReady", f"its node {node} does not answer")
    if pod["metadata"].get("deletionTimestamp"):
        return Cause("Terminating", f"it is replaced when its node {node} reports that it has ended")
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
            return Cause(str(waiting["reason"]), str(waiting.get("message") or container.get("image", "")))
    return None


def _rejecting_node(pod: Object, states: list[Object]) -> str:
    """Return the node whose kubelet has refused the pod, empty where none has.

    A kubelet that refuses a pod (UnexpectedAdmissionError, OutOfcpu, NodeAffinity, …) sets phase and reason, and starts
    no container. It does not call that a disruption, as it does when it evicts a pod.
    """
    status = pod["status"]
    has_begun = any((each.get("state") or {}).keys() & {"running", "terminated"} for each in states)
    is_refused = status.get("phase") == "Failed" and status.get("reason") not in {None, "", "Evicted"}
    if has_begun or not is_refused or true_condition(status, "DisruptionTarget") is not None:
        return ""
    return str(pod["spec"].get("nodeName") or "")


def _ended_by(status: Object, terminated: dict[str, Any]) -> str:
    disruption = true_condition(status, "DisruptionTarget")
    if terminated.get("reason") == OUT_OF_MEMORY:
        return OUT_OF_MEMORY
    if disruption is not None:
        return str(disruption.get("reason") or "disrupted")
    if terminated.get("reason") not in {None, "", "Error", "Completed"}:
        return str(terminated["reason"])
    return str(status.get("reason") or "") if status.get("phase") == "Failed" else ""
