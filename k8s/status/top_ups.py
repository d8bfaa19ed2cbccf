"""The top-ups of a run: how many of their chunks are done, and what their merges and indexes do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.release.job import Job
    from k8s.release.pod import Pod
    from k8s.release.release import TopUpJobs
    from k8s.status.gated_job import GatedJob
    from k8s.status.troubles import FailedChunks


@dataclass(frozen=True, kw_only=True)
class TopUp:
    job: Job
    running: frozenset[int]
    """The chunks whose pods run."""
    failures: tuple[FailedChunks, ...]
    """Its failed chunks by cause. Their earlier rows stay as they were."""
    merge: GatedJob
    index: GatedJob | None
    """None where the top-up has no index Job."""
    has_ended: bool
    """Whether neither the top-up nor its merge nor its index goes on."""


def last_topup_failures(jobs: TopUpJobs, pods: Sequence[Pod]) -> dict[int, Pod | None]:
    """Return the last failed pod of each chunk that the top-up has given up, None where no such pod exists any more."""
    found: dict[int, Pod | None] = dict.fromkeys(sorted(jobs.job.left if jobs.job.end else jobs.job.failed))
    for pod in pods:  # oldest first
        if pod.job == jobs.job.name and pod.chunk in found and pod.phase == "Failed":
            found[pod.chunk] = pod
    return found
