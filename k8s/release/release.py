"""A release: its Jobs, and which of its chunks are done, pending and failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import NotInCluster, SettingsError
from k8s.release.job import job_from
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
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster, Object
    from k8s.release.job import Job
    from k8s.release.pod import Pod


class Release:
    """The Jobs of a release, oldest first. Its pods are asked for when they are needed."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        """Read the Jobs. `name` is the chart's name of the run, or a Helm release with one run.

        Raises NotInCluster when the release has no worker Job, and SettingsError when it has several runs.
        """
        self.cluster, self.name = cluster, name
        objects, self._label = find_jobs(cluster, name)
        found = sorted(((job_from(each), each) for each in objects), key=lambda pair: (pair[0].created, pair[0].name))
        self.jobs = [job for job, _ in found]
        self.objects = {job.name: each for job, each in found}
        """The API's object of each Job, by name."""
        workers = [job for job in self.jobs if job.component == Component.WORKER]
        if self.jobs and all(job.component == Component.CHECK for job in self.jobs):
            raise NotInCluster(
                f"release {name} in namespace {cluster.namespace} only checks, and computes nothing: embedder check "
                f"{self.flags()} shows what it finds, helm upgrade with check.enabled=false starts the run"
            )
        if not workers and self.jobs:
            raise NotInCluster(
                f"release {name} in namespace {cluster.namespace} has no worker Job any more, only "
                f"{', '.join(job.name for job in self.jobs)}; helm upgrade with the same values creates it again"
            )
        if not workers:
            raise NotInCluster(
                f"there is no release {name} in namespace {cluster.namespace} of the cluster at {cluster.host}: no Job "
                f"has the label {RELEASE_LABEL}={name} or {INSTANCE_LABEL}={name}; name the release with --release and "
                "its namespace with -n"
            )
        self.worker = workers[-1]
        # A rerun can outlive the worker Job from which it was made. A new worker Job may then belong to another run.
        self.embedding_jobs = [job for job in self.jobs if job.chunks and job.run == self.worker.run]
        self.merge = next((job for job in self.jobs if job.component == Component.MERGE), None)

    @property
    def chunk_count(self) -> int:
        return len(self.worker.chunks)

    def done(self) -> frozenset[int]:
        """Return the chunks that a Job has completed."""
        return frozenset().union(*(job.completed for job in self.embedding_jobs))

    def pending(self) -> frozenset[int]:
        """Return the chunks that a Job computes now or later."""
        return frozenset().union(*(job.pending for job in self.embedding_jobs)) - self.done()

    def failed(self) -> frozenset[int]:
        """Return the chunks that no Job has completed or will compute."""
        return frozenset(self.worker.chunks) - self.done() - self.pending()

    def pods(self, jobs: Iterable[Job], *, chunk: int) -> list[Pod]:
        """Return the Jobs' pods for a chunk, oldest first."""
        pods: list[Pod] = []
        for job in jobs:
            labels = f"{JOB_NAME_LABEL}={job.name},{INDEX_LABEL}={job.index_of(chunk)}"
            pods += [pod_from(each, job) for each in self.cluster.pods(labels=labels)]
        return sorted(pods, key=lambda pod: (pod.created, pod.name))

    def all_pods(self) -> list[Pod]:
        """Return the pods of all Jobs, oldest first, with one request to the API."""
        jobs = {job.name: job for job in self.jobs}
        pods: list[Pod] = []
        for found in self.cluster.pods(labels=f"{self._label}={self.name}"):
            job = jobs.get((found["metadata"].get("labels") or {}).get(JOB_NAME_LABEL, ""))
            if job is not None:
                pods.append(pod_from(found, job))
        return sorted(pods, key=lambda pod: (pod.created, pod.name))

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
