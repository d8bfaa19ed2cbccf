"""A release: its Jobs, and which of its chunks are done, pending, failed and unknown."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from common.errors import NotInCluster, SettingsError
from k8s.release.job import RUN_URI, environment_of, job_from, vanished_worker
from k8s.release.labels import (
    INDEX_LABEL,
    INSTANCE_LABEL,
    JOB_NAME_LABEL,
    NAME_LABEL,
    RELEASE_LABEL,
    Component,
)
from k8s.release.pod import pod_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k8s.api.cluster import Cluster, Object
    from k8s.release.job import Job
    from k8s.release.pod import Pod

READ_PODS = 5_000
"""Number of pods up to which all pods of a release are read. A pod is 10 KB of JSON, so they take half a second."""

READ_FAILED_PODS = 3_000
"""Number of failed pods by which a larger release is judged: they tell why its chunks have failed."""

READ_SUCCEEDED_PODS = 500
"""Number of pods that succeeded by which a larger release is judged: they tell how many images a chunk has."""


class Pods(NamedTuple):
    pods: list[Pod]
    """Oldest first."""
    unread: int
    """Number of pods that may exist and were not read: some of those that have ended. 0: all were read."""


@dataclass(frozen=True)
class TopUpJobs:
    """A top-up, the merge that follows it, and the index that follows the merge."""

    job: Job
    merge: Job | None
    """None where there is no such Job."""
    index: Job | None = None
    """None where there is no such Job."""

    @property
    def has_ended(self) -> bool:
        return bool(self.job.end) and all(bool(job.end) for job in (self.merge, self.index) if job is not None)


class Release:
    """The Jobs of a release, oldest first. Its pods are asked for when they are needed."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        """Read the Jobs. `name` is the chart's name of the run, or a Helm release with one run.

        Raises NotInCluster when the release has neither a worker Job nor a merge Job, and SettingsError when it has
        several runs.
        """
        self.cluster, self.name = cluster, name
        objects, self._label = find_jobs(cluster, name)
        found = sorted(((job_from(each), each) for each in objects), key=lambda pair: (pair[0].created, pair[0].name))
        self.jobs = [job for job, _ in found]
        self.objects = {job.name: each for job, each in found}
        """The API's object of each Job, by name."""
        self.merge = next((job for job in self.jobs if job.component == Component.MERGE), None)
        self.index = next((job for job in self.jobs if job.component == Component.INDEX), None)
        """The Job that builds the index of the result, None where the release has none."""
        self.worker = self._worker()
        """The worker Job. Where it no longer exists, it is made from the merge Job, and `is_gone`."""
        # A rerun can outlive the worker Job from which it was made. A new worker Job may then belong to another run.
        embedding = [job for job in self.jobs if job.chunks and job.run == self.worker.run]
        self.embedding_jobs = [self.worker, *embedding] if self.worker.is_gone else embedding
        """The Jobs whose pods work on chunks: the worker Job, reruns and top-ups."""
        self.computing_jobs = [job for job in self.embedding_jobs if job.component != Component.TOPUP]
        """Those that compute chunks for the first time or again: the worker Job and reruns."""
        self.top_ups = [
            TopUpJobs(job, self._named(f"{job.name}-merge"), self._named(f"{job.name}-index"))
            for job in self.embedding_jobs
            if job.component == Component.TOPUP
        ]

    def _named(self, name: str) -> Job | None:
        return next((job for job in self.jobs if job.name == name), None)

    def _worker(self) -> Job:
        workers = [job for job in self.jobs if job.component == Component.WORKER]
        if workers:
            return workers[-1]
        vanished = vanished_worker(self.objects[self.merge.name]) if self.merge is not None else None
        if vanished is not None:
            return vanished
        if self.jobs and all(job.component == Component.CHECK for job in self.jobs):
            raise NotInCluster(
                f"release {self.name} in namespace {self.cluster.namespace} only checks, and computes nothing: "
                f"embedder check {self.flags()} shows what it finds, and helm upgrade with check.enabled=false starts "
                "the run"
            )
        if self.jobs:
            raise NotInCluster(
                f"release {self.name} in namespace {self.cluster.namespace} has no worker Job any more, only "
                f"{', '.join(job.name for job in self.jobs)}; helm upgrade with the same values creates it again, and "
                "chunks that are in the store are not computed again"
            )
        raise NotInCluster(
            f"there is no release {self.name} in namespace {self.cluster.namespace} of the cluster at "
            f"{self.cluster.host}: no Job has the label {RELEASE_LABEL}={self.name} or {INSTANCE_LABEL}={self.name}; "
            "name the release with --release and its namespace with -n, or look into the store, where Kubernetes has "
            "deleted the Jobs of a run that ended (ttlSecondsAfterFinished)"
        )

    @property
    def chunk_count(self) -> int:
        return len(self.worker.chunks)

    @property
    def run_uri(self) -> str:
        """The address of the run. Empty where a Secret has it."""
        job = self.objects.get(self.worker.name) or (self.objects[self.merge.name] if self.merge is not None else None)
        return environment_of(job).get(RUN_URI, "") if job is not None else ""

    def done(self) -> frozenset[int]:
        """Return the chunks that a Job has completed."""
        return self._done

    def pending(self) -> frozenset[int]:
        """Return the chunks that a Job computes now or later."""
        return self._pending

    def failed(self) -> frozenset[int]:
        """Return the chunks that no Job has completed or will compute."""
        return self._failed

    def unknown(self) -> frozenset[int]:
        """Return the chunks of which no Job tells anything, because the worker Job no longer exists."""
        return self._unknown

    # A release has up to 100,000 chunks, and these sets are asked for again and again.

    @cached_property
    def _done(self) -> frozenset[int]:
        return frozenset().union(*(job.completed for job in self.embedding_jobs))

    @cached_property
    def _pending(self) -> frozenset[int]:
        return frozenset().union(*(job.pending for job in self.embedding_jobs)) - self._done

    def is_busy(self, chunk: int) -> bool:
        """Return whether a Job computes the chunk now or later, or fetches its failed images again."""
        return any(chunk in job.pending for job in self.embedding_jobs)

    @cached_property
    def _failed(self) -> frozenset[int]:
        return self.worker.every_chunk - self._done - self._pending - self._unknown

    @cached_property
    def _unknown(self) -> frozenset[int]:
        if not self.worker.is_gone:
            return frozenset()
        known = (job.every_chunk for job in self.computing_jobs if not job.is_gone)
        return self.worker.every_chunk.difference(self._done, self._pending, *known)

    def pods(self, jobs: Iterable[Job], *, chunk: int) -> list[Pod]:
        """Return the Jobs' pods for a chunk, oldest first."""
        pods: list[Pod] = []
        for job in jobs:
            labels = f"{JOB_NAME_LABEL}={job.name},{INDEX_LABEL}={job.index_of(chunk)}"
            pods += [pod_from(each, job) for each in self.cluster.pods(labels=labels)]
        return _oldest_first(pods)

    def pods_of(self, jobs: Iterable[Job]) -> list[Pod]:
        """Return all pods of the Jobs, oldest first."""
        return _oldest_first(
            pod_from(each, job) for job in jobs for each in self.cluster.pods(labels=f"{JOB_NAME_LABEL}={job.name}")
        )

    def all_pods(self) -> Pods:
        """Return the pods of all Jobs. Of a large release, only some of the pods that have ended are read."""
        jobs = {job.name: job for job in self.jobs}
        labels = f"{self._label}={self.name}"

        def read(fields: str = "", limit: int | None = None) -> Iterator[Pod]:
            for found in islice(self.cluster.pods(labels=labels, fields=fields), limit):
                if (job := jobs.get(_job_name(found))) is not None:
                    yield pod_from(found, job)

        expected = sum(job.active + job.ended_pods for job in self.jobs)
        if expected <= READ_PODS:
            return Pods(_oldest_first(read()), unread=0)
        unended = list(read("status.phase!=Succeeded,status.phase!=Failed"))
        failed = list(read("status.phase=Failed", READ_FAILED_PODS))
        succeeded = list(read("status.phase=Succeeded", READ_SUCCEEDED_PODS))
        # A pod may end between two of these lists, and is then in both: the later one is right.
        latest = {pod.name: pod for pod in (*unended, *failed, *succeeded)}.values()
        # Kubernetes deletes pods that have ended, so the others may be gone, where all that exist were read.
        is_cut = len(failed) == READ_FAILED_PODS or len(succeeded) == READ_SUCCEEDED_PODS
        return Pods(_oldest_first(latest), unread=max(0, expected - len(latest)) if is_cut else 0)

    def flags(self) -> str:
        """Return the options by which `embedder` commands find this release."""
        return f"--release {self.name} -n {self.cluster.namespace}"


def find_jobs(cluster: Cluster, name: str) -> tuple[list[Object], str]:
    """Return the Jobs of the run, and the label whose value is `name`.

    Raises SettingsError when `name` is a Helm release with several runs.
    """
    for label in (RELEASE_LABEL, INSTANCE_LABEL):
        if objects := cluster.jobs(labels=f"{NAME_LABEL}=embedder,{label}={name}"):
            runs = {str((each["metadata"].get("labels") or {}).get(RELEASE_LABEL, name)) for each in objects}
            if len(runs) > 1:
                raise SettingsError(
                    f"release {name} in namespace {cluster.namespace} has several runs; name one of them with "
                    f"--release: {', '.join(sorted(runs))}"
                )
            return objects, label
    return [], RELEASE_LABEL


def _oldest_first(pods: Iterable[Pod]) -> list[Pod]:
    return sorted(pods, key=lambda pod: (pod.created, pod.name))


def _job_name(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(JOB_NAME_LABEL, ""))
