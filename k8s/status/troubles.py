"""What goes wrong in a run: pods that do not run, and chunks that failed, grouped by cause."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from k8s.release.labels import Component

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from k8s.release.cause import Cause
    from k8s.release.job import Job
    from k8s.release.pod import Pod, PodEnd
    from k8s.status.chunks import Chunks

SHOWN_PODS = 3
"""Largest number of pods that are named in a group."""


@dataclass(frozen=True)
class Suspended:
    """A Job is suspended, by a queue or by hand, and has no pods."""

    job: str


@dataclass(frozen=True, kw_only=True)
class PendingPods:
    """Pods that do not run, or do not exist, for the same cause."""

    why: Cause | Suspended
    count: int
    pods: tuple[str, ...] = ()
    """Names of some of the pods."""


@dataclass(frozen=True)
class PodFailed:
    """The last pod of a chunk has failed."""

    end: PodEnd
    last_line: str
    """The last line of the pod's log, where the pod left no last word and its log was read."""


@dataclass(frozen=True)
class GivenUp:
    """A Job has given up the chunk, and its pods do not exist any more or were not read."""

    cause: Cause | None


@dataclass(frozen=True)
class NotComputed:
    """A Job has ended before it computed the chunk."""

    job: str
    is_rerun: bool
    cause: Cause | None


@dataclass(frozen=True)
class InNoJob:
    """No Job has the chunk."""


Failure = PodFailed | GivenUp | NotComputed | InNoJob


@dataclass(frozen=True, kw_only=True)
class RejectingNode:
    """A node whose kubelet did not let pods start. Each of these pods was an attempt at its chunk."""

    node: str
    count: int
    """Number of pods that it has rejected, as far as they still exist."""
    end: PodEnd
    """How the last of them has ended."""


@dataclass(frozen=True, kw_only=True)
class FailedImages:
    """The images for whose sake a chunk failed."""

    chunk: int
    reasons: Mapping[str, int]
    """Number of failed images by reason, the most frequent one first."""
    is_listed: bool
    """Whether the chunk has left a list of them in the store."""


@dataclass(frozen=True, kw_only=True)
class FailedChunks:
    """Chunks that failed for the same cause."""

    why: Failure
    chunks: tuple[int, ...]
    pods: tuple[str, ...]
    """Names of some of the pods."""
    images: tuple[FailedImages, ...] = ()
    """The failed images of those of the chunks that failed for their sake."""


def group_pending(pods: Iterable[Pod]) -> list[PendingPods]:
    """Return the pods that do not run, the most frequent cause first."""
    by_cause: dict[Cause, list[str]] = defaultdict(list)
    for pod in pods:
        if pod.obstacle is not None:
            by_cause[pod.obstacle].append(pod.name)
    groups = [
        PendingPods(why=cause, count=len(names), pods=tuple(names[:SHOWN_PODS])) for cause, names in by_cause.items()
    ]
    return sorted(groups, key=lambda group: -group.count)


def find_rejecting_nodes(pods: Iterable[Pod]) -> list[RejectingNode]:
    """Return the nodes that have rejected pods, the one with the most pods first."""
    by_node: dict[str, list[PodEnd]] = defaultdict(list)
    for pod in pods:  # oldest first
        if pod.end is not None and pod.end.rejected_by:
            by_node[pod.end.rejected_by].append(pod.end)
    found = [RejectingNode(node=node, count=len(ends), end=ends[-1]) for node, ends in by_node.items()]
    return sorted(found, key=lambda each: -each.count)


def last_failures(chunks: Chunks, pods: Iterable[Pod]) -> dict[int, Pod | None]:
    """Return the last failed pod of each failed chunk, None where no such pod exists any more."""
    found: dict[int, Pod | None] = dict.fromkeys(sorted(chunks.failed))
    for pod in pods:  # oldest first
        if pod.chunk in found and pod.phase == "Failed":
            found[pod.chunk] = pod
    return found


@dataclass
class _Group:
    why: Failure
    chunks: list[int] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)
    images: list[FailedImages] = field(default_factory=list)


def group_failures(
    jobs: Sequence[Job], failures: Mapping[int, Pod | None], last_lines: Mapping[str, str]
) -> list[FailedChunks]:
    """Return the failed chunks of the Jobs by cause. The first chunk of a group gives the group's wording.

    Chunks whose images failed have the same cause when their most frequent reasons are equal.

    `last_lines` are the last log lines of pods without a last word, by the pod's name.
    """
    groups: dict[Hashable, _Group] = {}
    for chunk, pod in failures.items():
        if pod is None or pod.end is None:
            failure = _without_pod(jobs, chunk)
            group = groups.setdefault(failure, _Group(failure))
        else:
            last_line = last_lines.get(pod.name, "")
            images = failed_images(chunk, pod)
            main_reason = next(iter(images.reasons)) if images else ""
            group = groups.setdefault((pod.end.kind, main_reason, last_line), _Group(PodFailed(pod.end, last_line)))
            group.pods.append(pod.name)
            if images:
                group.images.append(images)
        group.chunks.append(chunk)
    return [
        FailedChunks(
            why=group.why,
            chunks=tuple(group.chunks),
            pods=tuple(group.pods[:SHOWN_PODS]),
            images=tuple(group.images),
        )
        for group in groups.values()
    ]


def failed_images(chunk: int, pod: Pod) -> FailedImages | None:
    """Return the failed images for whose sake the chunk's last pod ended, None where it ended otherwise."""
    reasons = dict(sorted(pod.failed_images.items(), key=lambda each: -each[1]))
    return FailedImages(chunk=chunk, reasons=reasons, is_listed="listed" in pod.counts) if reasons else None


def _without_pod(jobs: Sequence[Job], chunk: int) -> Failure:
    job = next((job for job in reversed(jobs) if chunk in job.left), None)
    if job is None:
        return InNoJob()
    if chunk in job.failed:
        return GivenUp(job.cause)
    return NotComputed(job.name, is_rerun=job.component == Component.RERUN, cause=job.cause)
