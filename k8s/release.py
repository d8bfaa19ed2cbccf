"""A release's Jobs and pods, read from the API's objects: which chunk is whose, and how each ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from common.errors import ClusterUnavailable, NotInCluster
from common.exit_policy import explain_exit_code
from common.indexes import format_indexes, parse_indexes
from common.logs import printable, redact_urls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster, Object

INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
FAILURE_COUNTS = (
    "batch.kubernetes.io/job-index-failure-count",
    "batch.kubernetes.io/job-index-ignored-failure-count",
)

OUT_OF_MEMORY = "OOMKilled"

CONTAINERS = {"worker", "gate", "merger"}

CHUNK_INDEXES = "EMBEDDER_CHUNK_INDEXES"
CHUNK_COUNT = "EMBEDDER_CHUNK_COUNT"
RUN_URI = "EMBEDDER_RUN_URI"


class Component(StrEnum):
    WORKER = "worker"
    RERUN = "rerun"
    MERGE = "merge"


@dataclass(frozen=True, kw_only=True)
class Job:
    """The worker Job, a rerun or the merge Job, as it stands."""

    name: str
    component: str
    created: str
    run: tuple[str, str]
    """What its chunks are chunks of: the run's address, and into how many it is divided."""
    chunks: tuple[int, ...]
    """The chunk of each index; empty for the merge."""
    completed: frozenset[int]
    """Chunks."""
    failed: frozenset[int]
    """Chunks that the Job has given up."""
    ended: str
    """Complete or Failed, "" while it has not ended."""
    reason: str
    """Why it failed, "" where it has not."""
    suspended: bool
    active: int
    """Pods that are there and have not ended."""
    parallelism: int

    @property
    def pending(self) -> frozenset[int]:
        """Return the chunks that this Job still computes, or will."""
        return frozenset() if self.ended else frozenset(self.chunks) - self.completed - self.failed

    @property
    def left(self) -> frozenset[int]:
        """Return the chunks that this Job will not compute: given up, or left behind when it ended."""
        return frozenset(self.chunks) - self.completed - self.pending

    def index_of(self, chunk: int) -> int:
        return self.chunks.index(chunk)


@dataclass(frozen=True, kw_only=True)
class Pod:
    """An attempt at a chunk, or at the merge."""

    name: str
    job: str
    component: str
    chunk: int | None
    """None for the merge's pods."""
    created: str
    phase: str
    """Pending, Running, Succeeded, Failed or Unknown."""
    is_running: bool
    """Whether our container runs. The phase of a pod whose gate runs is Pending."""
    waiting: str
    """Why it does not run, or will not for long; "" where nothing is wrong."""
    container: str
    """Whose log tells how far the pod is."""
    exit_code: int | None
    last_word: str
    """What its program left in the termination log, without secrets in URLs."""
    ended_by: str
    """What ended it from outside: OOMKilled, Evicted and the like; "" for none."""
    retries: int
    """Attempts at the same index before this one."""

    @property
    def is_out_of_memory(self) -> bool:
        return self.ended_by == OUT_OF_MEMORY

    def outcome(self) -> str:
        """Return in a few words how the pod ended."""
        if self.is_out_of_memory:
            return "ran out of memory (OOMKilled, exit code 137)"
        code = f"exit code {self.exit_code}" if self.exit_code else ""
        said = _LAST_WORD.sub("", self.last_word)
        if not said and not self.ended_by:
            return explain_exit_code(self.exit_code) if self.exit_code else self.phase
        what = ", ".join(filter(None, (self.ended_by, code)))
        return ": ".join(filter(None, (what, said)))


_LAST_WORD = re.compile(r"^(finished|failed|stopped): ")


class Release:
    """The Jobs of a release, oldest first, and the way to their pods."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        """Read the Jobs. Raises NotInCluster when the release has no worker Job (any more)."""
        self.cluster, self.name = cluster, name
        objects = cluster.jobs(labels=f"app.kubernetes.io/name=embedder,{INSTANCE_LABEL}={name}")
        found = sorted(((job_from(each), each) for each in objects), key=lambda pair: (pair[0].created, pair[0].name))
        self.jobs = [job for job, _ in found]
        self.objects = {job.name: each for job, each in found}
        workers = [job for job in self.jobs if job.component == Component.WORKER]
        if not workers and self.jobs:
            raise NotInCluster(
                f"release {name} in namespace {cluster.namespace} has no worker Job any more, only "
                f"{', '.join(job.name for job in self.jobs)}; helm upgrade with the same values makes it anew"
            )
        if not workers:
            raise NotInCluster(
                f"there is no release {name} in namespace {cluster.namespace} of the cluster at {cluster.host}: no Job "
                f"with the label {INSTANCE_LABEL}={name}; give its --release and -n"
            )
        self.worker = workers[-1]
        # A rerun may have outlived the worker Job that it was made from, and a new one be of another run.
        self.embedding_jobs = [job for job in self.jobs if job.chunks and job.run == self.worker.run]
        self.merge = next((job for job in self.jobs if job.component == Component.MERGE), None)

    @property
    def chunk_count(self) -> int:
        return len(self.worker.chunks)

    def done(self) -> frozenset[int]:
        """Return the chunks that some Job has completed."""
        return frozenset().union(*(job.completed for job in self.embedding_jobs))

    def pending(self) -> frozenset[int]:
        """Return the chunks that some Job still computes, or will."""
        return frozenset().union(*(job.pending for job in self.embedding_jobs)) - self.done()

    def failed(self) -> frozenset[int]:
        """Return the chunks that no Job has completed or will."""
        return frozenset(self.worker.chunks) - self.done() - self.pending()

    def pods(self, jobs: Iterable[Job], *, chunk: int | None = None) -> list[Pod]:
        """Return the Jobs' pods, oldest first; with `chunk` its alone."""
        pods: list[Pod] = []
        for job in jobs:
            labels = f"{JOB_NAME_LABEL}={job.name}"
            if chunk is not None:
                labels += f",{INDEX_LABEL}={job.index_of(chunk)}"
            pods += [pod_from(each, job) for each in self.cluster.pods(labels=labels)]
        return sorted(pods, key=lambda pod: (pod.created, pod.name))

    def flags(self) -> str:
        """Return the options that lead to this release."""
        return f"--release {self.name} -n {self.cluster.namespace}"


def job_from(found: Object) -> Job:
    """Return what a Job of the API says. Raises ClusterUnavailable where it is none of ours that can be read."""
    metadata, spec, status = found["metadata"], found["spec"], found.get("status") or {}
    name = str(metadata["name"])
    component = str((metadata.get("labels") or {}).get(COMPONENT_LABEL, ""))
    environment = environment_of(found)
    chunks: tuple[int, ...] = ()
    try:
        if component != Component.MERGE:
            listed = parse_indexes(environment.get(CHUNK_INDEXES, ""))
            chunks = tuple(listed or range(int(spec.get("completions") or 0)))
        completed, failed = (parse_indexes(status.get(key) or "") for key in ("completedIndexes", "failedIndexes"))
        return Job(
            name=name,
            component=component,
            created=str(metadata.get("creationTimestamp") or ""),
            run=(environment.get(RUN_URI, ""), environment.get(CHUNK_COUNT, "")),
            chunks=chunks,
            completed=frozenset(chunks[index] for index in completed) if chunks else frozenset(),
            failed=frozenset(chunks[index] for index in failed) if chunks else frozenset(),
            ended=next((kind for kind in ("Complete", "Failed") if _condition(status, kind)), ""),
            reason=_reason(_condition(status, "Failed")),
            suspended=bool(spec.get("suspend")),
            active=int(status.get("active") or 0),
            parallelism=int(spec.get("parallelism") or 0),
        )
    except (ValueError, IndexError) as error:
        raise ClusterUnavailable(f"Job {name} cannot be read: {error}; was it changed by hand?") from error


def environment_of(job: Object) -> dict[str, str]:
    """Return the variables of the Job's first container that are given as values; those from Secrets are not."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    # Kubernetes reads $$ as $.
    return {each["name"]: each["value"].replace("$$", "$") for each in container.get("env") or [] if "value" in each}


def pod_from(found: Object, job: Job) -> Pod:
    """Return what a pod of the API says of itself."""
    metadata, status = found["metadata"], found.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    index = labels.get(INDEX_LABEL, annotations.get(INDEX_LABEL))
    # Others' containers, such as a service mesh's, say nothing of the chunk.
    states = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    containers = [each for each in states if each.get("name") in CONTAINERS]
    current = _current(containers, default=found["spec"]["containers"][0]["name"])
    ended = _terminated(current)
    return Pod(
        name=str(metadata["name"]),
        job=job.name,
        component=job.component,
        chunk=job.chunks[int(index)] if job.chunks and index is not None and int(index) < len(job.chunks) else None,
        created=str(metadata.get("creationTimestamp") or ""),
        phase=str(status.get("phase") or "Unknown"),
        is_running="running" in (current.get("state") or {}),
        waiting=_waiting(found, containers) if status.get("phase") in {"Pending", "Running"} else "",
        container=str(current["name"]),
        exit_code=ended.get("exitCode"),
        # Redacted by our programs; but a kubelet may have taken it from the log.
        last_word=printable(redact_urls(" ".join(str(ended.get("message") or status.get("message") or "").split()))),
        ended_by=_ended_by(status, ended),
        retries=sum(int(annotations.get(key) or 0) for key in FAILURE_COUNTS),
    )


def _current(containers: list[Object], *, default: str) -> Object:
    """Return the container that runs, or else the last that ended, or else the first."""
    begun = [each for each in containers if (each.get("state") or {}).keys() & {"running", "terminated"}]
    running = [each for each in begun if "running" in each["state"]]
    return (running or begun[-1:] or [{"name": default}])[0]


def _terminated(container: Object) -> dict[str, Any]:
    return (container.get("state") or {}).get("terminated") or {}


def _waiting(pod: Object, containers: list[Object]) -> str:
    status, node = pod["status"], pod["spec"].get("nodeName", "")
    conditions = {each.get("type"): each for each in status.get("conditions") or []}
    scheduled, ready = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason')}: {scheduled.get('message') or 'no reason is given'}"
    if ready.get("reason") == "NodeNotReady":
        return f"NodeNotReady: its node {node} does not answer"
    if pod["metadata"].get("deletionTimestamp"):
        return f"Terminating: it is replaced once its node {node} says that it has ended"
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
            return f"{waiting['reason']}: {waiting.get('message') or container.get('image', '')}"
    return ""


def _ended_by(status: Object, ended: dict[str, Any]) -> str:
    disruption = _condition(status, "DisruptionTarget")
    if ended.get("reason") == OUT_OF_MEMORY:
        return OUT_OF_MEMORY
    if disruption is not None:
        return str(disruption.get("reason") or "disrupted")
    if ended.get("reason") not in {None, "", "Error", "Completed"}:
        return str(ended["reason"])
    return str(status.get("reason") or "") if status.get("phase") == "Failed" else ""


def _condition(status: Object, kind: str) -> Object | None:
    conditions: list[Object] = status.get("conditions") or []
    return next((each for each in conditions if each.get("type") == kind and each.get("status") == "True"), None)


def _reason(failed: Object | None) -> str:
    return "" if failed is None else f"{failed.get('reason')}: {failed.get('message') or 'no message'}"


def brief_indexes(indexes: Iterable[int], *, ranges: int = 30) -> str:
    """Return the indexes as `format_indexes` does; of very many ranges the first, and how many indexes there are."""
    wanted = set(indexes)
    parts = format_indexes(wanted).split(",")
    return ",".join(parts) if len(parts) <= ranges else f"{','.join(parts[:ranges])},… ({len(wanted):,} in all)"
