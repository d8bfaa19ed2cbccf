"""A Job of a release, read from the API's object: its chunks, and how far each of them is."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ClusterUnavailable
from common.indexes import parse_indexes
from k8s.release.cause import Cause
from k8s.release.labels import COMPONENT_LABEL, Component

if TYPE_CHECKING:
    from k8s.api.cluster import Object

CHUNK_INDEXES = "EMBEDDER_CHUNK_INDEXES"
CHUNK_COUNT = "EMBEDDER_CHUNK_COUNT"
RUN_URI = "EMBEDDER_RUN_URI"
ON_MISSING_CHUNKS = "EMBEDDER_ON_MISSING_CHUNKS"
GPU_HOUR_PRICE = "EMBEDDER_GPU_HOUR_PRICE"
TOP_UP = "EMBEDDER_TOP_UP"
TOP_UP_REASONS = "EMBEDDER_TOP_UP_REASONS"
TOP_UP_JOB = "EMBEDDER_TOP_UP_JOB"
"""The variable of a gate with the name of the top-up that it waits for."""

MERGE_JOB = "EMBEDDER_MERGE_JOB"
"""The variable of an index's gate with the name of the merge that it waits for."""

WITHOUT_CHUNKS = {
    *(Component.MERGE, Component.TOPUP_MERGE),
    *(Component.INDEX, Component.TOPUP_INDEX),
    Component.CHECK,
}
"""The Jobs whose pods compute no chunk."""


class JobEnd(StrEnum):
    """The condition of a Job that has ended."""

    COMPLETE = "Complete"
    FAILED = "Failed"


class Run(NamedTuple):
    """The run to which a Job's chunks belong."""

    uri: str
    chunk_count: str
    """The value of EMBEDDER_CHUNK_COUNT."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The worker Job, a rerun, a top-up, a merge Job or an index Job."""

    name: str
    component: str
    created: str
    run: Run
    chunks: tuple[int, ...]
    """The chunk of each index, in ascending order; empty for a merge and an index."""
    completed: frozenset[int]
    """The chunks that the Job has completed."""
    failed: frozenset[int]
    """The chunks that the Job has given up."""
    end: JobEnd | None
    """None while the Job has not ended."""
    cause: Cause | None
    """Why the Job has failed, None where it has not."""
    suspended: bool
    active: int
    """Number of pods that exist and have not ended."""
    parallelism: int
    ended_pods: int = 0
    """Number of pods that have ended, as the Job counts them. Some of them may have been deleted."""
    retries: int = 0
    """Number of pods after the first one of their index, as the Job counts them: without those of evictions."""
    is_gone: bool = False
    """Whether the Job no longer exists. What it completed and gave up is unknown then, unless the merge is complete."""

    @property
    def has_failed(self) -> bool:
        return self.end is JobEnd.FAILED

    @property
    def is_complete(self) -> bool:
        return self.end is JobEnd.COMPLETE

    # These sets are asked for once for each chunk, and a Job has up to 100,000 chunks.

    @cached_property
    def every_chunk(self) -> frozenset[int]:
        return frozenset(self.chunks)

    @cached_property
    def pending(self) -> frozenset[int]:
        """The chunks that this Job computes now or later."""
        return frozenset() if self.end or self.is_gone else self.every_chunk - self.completed - self.failed

    @cached_property
    def left(self) -> frozenset[int]:
        """The chunks that this Job will not compute: it has given them up, or has ended before them."""
        return self.every_chunk - self.completed - self.pending

    def index_of(self, chunk: int) -> int:
        """Return the index that computes the chunk, which must be one of the Job's."""
        return bisect_left(self.chunks, chunk)


def job_from(found: Object) -> Job:
    """Return a Job of the API. Raises ClusterUnavailable where its indexes do not fit its chunks."""
    metadata, spec, status = found["metadata"], found["spec"], found.get("status") or {}
    name = str(metadata["name"])
    component = str((metadata.get("labels") or {}).get(COMPONENT_LABEL, ""))
    environment = environment_of(found)
    chunks: tuple[int, ...] = ()
    try:
        if component not in WITHOUT_CHUNKS:
            listed = parse_indexes(environment.get(CHUNK_INDEXES, ""))
            chunks = tuple(listed or range(int(spec.get("completions") or 0)))
        completed, failed = (parse_indexes(status.get(key) or "") for key in ("completedIndexes", "failedIndexes"))
        succeeded_pods, failed_pods = (int(status.get(key) or 0) for key in ("succeeded", "failed"))
        return Job(
            name=name,
            component=component,
            created=str(metadata.get("creationTimestamp") or ""),
            run=Run(environment.get(RUN_URI, ""), environment.get(CHUNK_COUNT, "")),
            chunks=chunks,
            completed=frozenset(chunks[index] for index in completed) if chunks else frozenset(),
            failed=frozenset(chunks[index] for index in failed) if chunks else frozenset(),
            end=next((end for end in JobEnd if true_condition(status, end)), None),
            cause=_cause(true_condition(status, JobEnd.FAILED)),
            suspended=bool(spec.get("suspend")),
            active=int(status.get("active") or 0),
            parallelism=int(spec.get("parallelism") or 0),
            ended_pods=max(succeeded_pods, len(completed)) + max(failed_pods, len(failed)),
            retries=max(0, failed_pods - len(failed)) if chunks else 0,
        )
    except (ValueError, IndexError) as error:
        raise ClusterUnavailable(f"Job {name} cannot be read: {error}; was it changed by hand?") from error


def vanished_worker(merge: Object) -> Job | None:
    """Return the worker Job that a merge Job belongs to, where the worker Job no longer exists.

    All chunks are completed where the merge is complete and leaves none out. None where the merge Job does not tell how
    many chunks the run has.
    """
    environment = environment_of(merge)
    run = Run(environment.get(RUN_URI, ""), environment.get(CHUNK_COUNT, ""))
    if not run.chunk_count.isdecimal():
        return None
    chunks = tuple(range(int(run.chunk_count)))
    is_complete = true_condition(merge.get("status") or {}, JobEnd.COMPLETE) is not None
    is_merged = is_complete and environment.get(ON_MISSING_CHUNKS) != "partial"
    return Job(
        name=f"{str(merge['metadata']['name']).removesuffix('-merge')}-worker",
        component=Component.WORKER,
        created="",
        run=run,
        chunks=chunks,
        completed=frozenset(chunks) if is_merged else frozenset(),
        failed=frozenset(),
        end=None,
        cause=None,
        suspended=False,
        active=0,
        parallelism=0,
        is_gone=True,
    )


def environment_of(job: Object) -> dict[str, str]:
    """Return the variables of the Job's first container whose values are in the Job itself, not in a Secret."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    # Kubernetes reads $$ as $.
    return {each["name"]: each["value"].replace("$$", "$") for each in container.get("env") or [] if "value" in each}


def true_condition(status: Object, kind: str) -> Object | None:
    """Return the condition of that type in an object's status, None where it is absent or not true."""
    conditions: list[Object] = status.get("conditions") or []
    return next((each for each in conditions if each.get("type") == kind and each.get("status") == "True"), None)


def _cause(failed: Object | None) -> Cause | None:
    return None if failed is None else Cause(str(failed.get("reason")), str(failed.get("message") or "no message"))
