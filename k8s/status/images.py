"""The images of a run: how many are done, and how long the rest will take.

A running worker says it in its last log line, and a worker that has ended in the counts of its last word. A chunk whose
workers have said nothing counts as an average chunk.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.logs import LogLine
    from k8s.release.pod import Pod
    from k8s.status.chunks import Chunks


class Progress(NamedTuple):
    """How far a running worker is, by its last log line. A value that the line lacks is 0 or empty."""

    settled: int
    """Number of images that are embedded or failed."""
    of: int
    failed: int
    deferred: int
    rate_per_s: float
    waiting_on: str

    @classmethod
    def from_line(cls, line: LogLine) -> Progress:
        return cls(
            settled=line.count("images") or 0,
            of=line.count("of") or 0,
            failed=line.count("failed") or 0,
            deferred=line.count("deferred") or 0,
            rate_per_s=line.number("rate_per_s") or 0.0,
            waiting_on=line.values.get("waiting_on", ""),
        )


class Rows(NamedTuple):
    """The images of a chunk that is done, by the counts of a worker's last word."""

    settled: int
    of: int
    failed: int
    deferred: int

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> Rows | None:
        """Return the rows, None where a count is missing: the chunk may have been merged before this worker began."""
        if not {"images", "of", "failed"} <= counts.keys():
            return None
        deferred = min(counts.get("deferred", 0), counts["failed"])
        return cls(counts["images"], counts["of"], counts["failed"], deferred)


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of the run. None means unknown."""

    settled: int | None = None
    """Number of images that are embedded or failed."""
    failed: int | None = None
    """Number of failed images that workers have reported; an estimate where only some of the pods were read."""
    deferred: int | None = None
    """Number of the failed images whose turn did not come at a slow site, reported or estimated as `failed` is."""
    total: int | None = None
    is_estimate: bool = False
    """Whether some chunks were counted as average ones."""
    rate_per_s: float | None = None
    eta_seconds: float | None = None
    waiting_on: str = ""
    """The stage for which most workers wait."""


def count_images(
    chunks: Chunks, pods: Sequence[Pod], progress: Mapping[str, Progress], *, is_sample: bool = False
) -> Images:
    """Return the images of the run.

    `progress` has the progress by the pod's name, perhaps of some running pods only. The others count as equally fast.
    If the pods are a sample (`is_sample`), the chunks of the other pods count as average ones in failed images too.
    """
    done: dict[int, Rows] = {}
    running: dict[int, Progress] = {}
    for pod in pods:
        if pod.chunk in chunks.done:
            rows = Rows.from_counts(pod.counts)
            if rows is not None:
                done[pod.chunk] = rows
        elif pod.chunk in chunks.running and pod.is_running and pod.name in progress:
            running[pod.chunk] = progress[pod.name]
    sizes = [rows.of for rows in done.values()] + [each.of for each in running.values() if each.of]
    if not sizes:
        return Images()
    mean = sum(sizes) / len(sizes)
    share = len(chunks.running) / len(running) if running else 0  # running chunks for each chunk with a known progress
    unreported = len(chunks.done) - len(done)
    settled = sum(rows.settled for rows in done.values()) + unreported * mean
    failed = sum(rows.failed for rows in done.values())
    deferred = sum(rows.deferred for rows in done.values())
    if is_sample and done:
        failed += round(unreported * failed / len(done))
        deferred += round(unreported * deferred / len(done))
    settled_running = sum(each.settled for each in running.values()) * share
    rate = sum(each.rate_per_s for each in running.values()) * share
    remaining = (len(chunks.running) + len(chunks.waiting)) * mean - settled_running
    stages = Counter(each.waiting_on for each in running.values())
    return Images(
        settled=round(settled + settled_running),
        failed=failed + sum(each.failed for each in running.values()),
        deferred=deferred + sum(each.deferred for each in running.values()),
        total=round(sum(sizes) + (chunks.count - len(sizes)) * mean),
        is_estimate=len(sizes) < chunks.count,
        rate_per_s=rate or None,
        eta_seconds=max(0.0, remaining / rate) if rate else None,
        waiting_on=max(stages, key=stages.__getitem__, default=""),
    )
