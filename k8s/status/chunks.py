"""The chunks of a run by their state, and how often they were retried."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.release.pod import Pod
    from k8s.release.release import Release


@dataclass(frozen=True, kw_only=True)
class Chunks:
    done: frozenset[int]
    running: frozenset[int]
    waiting: frozenset[int]
    failed: frozenset[int]
    unknown: frozenset[int] = frozenset()
    """The chunks of a worker Job that no longer exists."""

    @property
    def count(self) -> int:
        return sum(map(len, (self.done, self.running, self.waiting, self.failed, self.unknown)))


def sort_chunks(release: Release, pods: Iterable[Pod], *, stored: frozenset[int] = frozenset()) -> Chunks:
    """Return the chunks by state. A chunk is done when a Job has completed it, or when it is among the `stored`."""
    done = release.done() | (stored & release.worker.every_chunk)
    pending = release.pending() - done
    running = pending & {pod.chunk for pod in pods if pod.is_running}
    return Chunks(
        done=done,
        running=running,
        waiting=pending - running,
        failed=release.failed() - done,
        unknown=release.unknown() - done,
    )


def count_retries(pods: Iterable[Pod]) -> int:
    """Return the number of attempts after each chunk's first one, as far as the pods that still exist show it."""
    attempts: Counter[tuple[str, int]] = Counter()
    counted: dict[tuple[str, int], int] = defaultdict(int)
    for pod in pods:
        if pod.chunk is not None:
            key = (pod.job, pod.chunk)
            attempts[key] += 1
            counted[key] = max(counted[key], pod.retries)
    return sum(max(count - 1, counted[key]) for key, count in attempts.items())
