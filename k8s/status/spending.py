"""What a run has taken so far: GPU hours, what they cost, and the pace of a finished run.

While the run goes on, the GPU hours are those in which its pods ran, as far as the cluster still shows these pods. Once
it is merged, they are the figures of summary.json, which the merge's last word repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k8s.release.job import GPU_HOUR_PRICE, environment_of
from k8s.release.labels import Component

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s.release.pod import Pod
    from k8s.release.release import Release

COMPUTING = {Component.WORKER, Component.RERUN, Component.TOPUP}
"""The components whose pods hold GPUs."""

MERGES = {Component.MERGE, Component.TOPUP_MERGE}


@dataclass(frozen=True, kw_only=True)
class Spending:
    gpu_hours: float | None = None
    """None where no pod has a GPU."""
    is_estimate: bool = False
    """Whether some pods were not read and counted as average ones."""
    gpu_hour_price: float = 0
    """Price of a GPU for an hour, 0 where it is unknown."""
    images: int = 0
    """Number of embedded images."""
    images_per_s: float | None = None
    """Pace of a finished run, while at least one worker computed. None while the run goes on."""

    @property
    def cost(self) -> float | None:
        return self.gpu_hours * self.gpu_hour_price if self.gpu_hours and self.gpu_hour_price else None

    @property
    def cost_per_million(self) -> float | None:
        cost = self.cost
        return cost / self.images * 1e6 if cost is not None and self.images else None


def count_spending(
    release: Release,
    pods: Sequence[Pod],
    *,
    price: float | None,
    images: int,
    unread: int = 0,
    now: datetime | None = None,
) -> Spending:
    """Return what the run has taken. `pods` are all pods that were read, and `unread` have ended and were not.

    `images` is the number of embedded images so far. Without a `price`, it is that of the merge Job.
    """
    price = _price(release) if price is None else price
    counts = _final_counts(release, pods)
    if counts is not None:
        seconds = counts.get("computing_seconds", 0)
        embedded = counts.get("embedded", 0)
        return Spending(
            gpu_hours=counts["gpu_seconds"] / 3600 if counts["gpu_seconds"] else None,
            gpu_hour_price=price,
            images=embedded,
            images_per_s=embedded / seconds if seconds else None,
        )
    now = now or datetime.now(UTC)
    computing = [pod for pod in pods if pod.component in COMPUTING and pod.gpus]
    spent = [pod.gpus * pod.seconds(now) for pod in computing]
    total = sum(spent)
    of_ended = [seconds for pod, seconds in zip(computing, spent, strict=True) if pod.end is not None]
    if unread and of_ended:
        total += unread * sum(of_ended) / len(of_ended)
    return Spending(
        gpu_hours=total / 3600 if computing else None,
        is_estimate=bool(unread and of_ended),
        gpu_hour_price=price,
        images=images,
    )


def _final_counts(release: Release, pods: Sequence[Pod]) -> Mapping[str, int] | None:
    """Return the counts of the last merge, None unless all work is merged and its merge has said them."""
    if any(not job.end and not job.is_gone for job in release.embedding_jobs):
        return None
    merges = [job for job in release.jobs if job.component in MERGES]
    if not merges or any(not job.is_complete for job in merges):
        return None
    ended = [pod for pod in pods if pod.component in MERGES and "gpu_seconds" in pod.counts]
    return ended[-1].counts if ended else None


def _price(release: Release) -> float:
    """Return the price that the merge was given, 0 where it is unknown."""
    if release.merge is None:
        return 0.0
    try:
        price = float(environment_of(release.objects[release.merge.name]).get(GPU_HOUR_PRICE, "0"))
    except ValueError:
        return 0.0
    return price if 0 < price < float("inf") else 0.0
