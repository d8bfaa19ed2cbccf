"""The check Job of a release: what it has found, by the log of its pod."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from common.errors import RunUnfinished
from common.findings import Finding, Subject, Verdict, read_finding
from k8s.release.job import job_from
from k8s.release.labels import JOB_NAME_LABEL, Component
from k8s.release.pod import pod_from
from k8s.release.release import find_jobs
from k8s.release.wording import describe_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.cluster import Cluster, Object
    from k8s.release.pod import Pod

POLL_SECONDS = 2.0
"""Time between two looks at the Job, in seconds."""

WAIT_SECONDS = 600.0
"""Longest time that the Job is waited for, in seconds: a node may have to start and to pull the image."""


def find_check_job(cluster: Cluster, release: str) -> Object | None:
    """Return the newest check Job of the release, None if it has none."""
    found, _ = find_jobs(cluster, release)
    jobs = [job for job in found if job_from(job).component == Component.CHECK]
    return max(jobs, key=lambda job: str(job["metadata"].get("creationTimestamp") or ""), default=None)


def read_check_job(
    cluster: Cluster, job: Object, *, say: Callable[[str], object], wait_seconds: float = WAIT_SECONDS
) -> list[Finding]:
    """Wait until the Job's pod has ended, and return what it has found. `say` is told what is waited for.

    Raises RunUnfinished if the pod has not ended in time.
    """
    name = str(job["metadata"]["name"])
    until = time.monotonic() + wait_seconds
    said = ""
    while True:
        pods = [pod_from(each, job_from(job)) for each in cluster.pods(labels=f"{JOB_NAME_LABEL}={name}")]
        pod = max(pods, key=lambda pod: (pod.created, pod.name), default=None)
        if pod is not None and pod.end is not None:
            return _findings_of(cluster, pod)
        state = _describe(name, pod)
        if time.monotonic() >= until:
            raise RunUnfinished(f"{state}; it has not ended within {wait_seconds:.0f} s, so look again later")
        if state != said:
            say(state)
        said = state
        time.sleep(POLL_SECONDS)


def _describe(job: str, pod: Pod | None) -> str:
    if pod is None:
        return f"Job {job} has no pod yet"
    why = f" ({pod.obstacle})" if pod.obstacle else ""
    return f"pod {pod.name} of Job {job} is {pod.phase}{why}"


def _findings_of(cluster: Cluster, pod: Pod) -> list[Finding]:
    lines = cluster.log_lines(pod.name, container=pod.container)
    findings = [finding for line in lines if (finding := read_finding(line)) is not None]
    if pod.end is not None and pod.end.exit_code and not any(each.exit_code for each in findings):
        # The program was killed before it could say why.
        findings.append(
            Finding(
                subject=Subject.PROGRAM,
                verdict=Verdict.FAULT,
                message=f"pod {pod.name} has ended early: {describe_end(pod.end)}; see kubectl logs {pod.name}",
                exit_code=pod.end.exit_code,
            )
        )
    return findings
