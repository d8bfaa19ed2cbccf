"""What `embedder status` says of a run, computed from its Jobs, its pods and their last log lines."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.errors import ExitCode
from common.run.keys import RESULT_KEY
from k8s.release import Component, brief_indexes
from k8s.rerun.job import doubled, memory_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from common.logs import LogLine
    from k8s.release import Pod, Release

_ROWS = re.compile(r"([0-9]{1,15}) images of ([0-9]{1,15}), ([0-9]{1,15}) failed")
"""How a worker's last word ends where its chunk is in the store."""


@dataclass(frozen=True, kw_only=True)
class Chunks:
    done: frozenset[int]
    running: frozenset[int]
    waiting: frozenset[int]
    failed: frozenset[int]

    @property
    def count(self) -> int:
        return len(self.done) + len(self.running) + len(self.waiting) + len(self.failed)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images of the run so far; None is unknown."""

    settled: int | None = None
    """Embedded or failed."""
    failed: int | None = None
    """Of them; only those that a worker has told of."""
    total: int | None = None
    is_estimate: bool = False
    """Whether chunks that nothing is known of were taken to be as large as the others."""
    rate_per_s: float | None = None
    eta_seconds: float | None = None
    waiting_on: str = ""
    """The stage that most workers wait for."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Chunks or pods that fare alike."""

    reason: str
    count: int
    chunks: str = ""
    pods: tuple[str, ...] = ()
    """Some of them."""


@dataclass(frozen=True, kw_only=True)
class Status:
    release: str
    namespace: str
    run_uri: str
    chunks: Chunks
    images: Images
    retries: int
    pending: list[Group] = field(default_factory=list)
    failures: list[Group] = field(default_factory=list)
    merge: str = ""
    is_finished: bool = False
    """Whether the merge is complete."""
    has_ended: bool = False
    """Whether nothing more will happen by itself."""
    next: list[str] = field(default_factory=list)
    """Commands."""
    notes: list[str] = field(default_factory=list)
    """What could not be found out, and why."""


def sort_chunks(release: Release, pods: Iterable[Pod], *, stored: frozenset[int] = frozenset()) -> Chunks:
    """Return which chunks are done (by a Job's word, or in the store), running, waiting and failed."""
    done = release.done() | (stored & frozenset(release.worker.chunks))
    pending = release.pending() - done
    running = pending & {pod.chunk for pod in pods if pod.is_running}
    return Chunks(done=done, running=running, waiting=pending - running, failed=release.failed() - done)


def count_images(chunks: Chunks, pods: Sequence[Pod], lines: Mapping[str, LogLine]) -> Images:
    """Return the images so far, from the last words of pods that have ended and the last lines of those that run.

    `lines` are by pod, of some of the running pods; the others are taken to be as fast.
    """
    rows: dict[int, tuple[int, int]] = {}  # (rows, failed) of chunks that are done
    for pod in pods:
        match = _ROWS.search(pod.last_word)
        if match and pod.chunk in chunks.done:
            rows[pod.chunk] = (int(match[2]), int(match[3]))
    running = {
        pod.chunk: lines[pod.name]
        for pod in pods
        if pod.name in lines and pod.chunk in chunks.running and pod.is_running
    }
    progress = {chunk: (_count(line, "images"), _count(line, "of"), line) for chunk, line in running.items()}
    sizes = [size for size, _ in rows.values()] + [of for _, of, _ in progress.values() if of]
    if not sizes:
        return Images()
    mean = sum(sizes) / len(sizes)
    # Chunks that nothing is known of are taken to be as large as the others, and running ones to be as far.
    settled = sum(size for size, _ in rows.values()) + (len(chunks.done) - len(rows)) * mean
    share = len(chunks.running) / len(progress) if progress else 0
    settled_running = sum(images for images, _, _ in progress.values()) * share
    total = sum(sizes) + (chunks.count - len(sizes)) * mean
    rate = sum(_rate(line) for _, _, line in progress.values()) * share
    remaining = (len(chunks.running) + len(chunks.waiting)) * mean - settled_running
    stages = Counter(line.values.get("waiting_on", "") for _, _, line in progress.values())
    return Images(
        settled=round(settled + settled_running),
        failed=sum(failed for _, failed in rows.values())
        + sum(_count(line, "failed") for _, _, line in progress.values()),
        total=round(total),
        is_estimate=len(sizes) < chunks.count,
        rate_per_s=rate or None,
        eta_seconds=max(0.0, remaining / rate) if rate else None,
        waiting_on=max(stages, key=stages.__getitem__, default=""),
    )


def count_retries(pods: Iterable[Pod]) -> int:
    """Return the attempts beyond each chunk's first, as far as the pods that are still there tell."""
    attempts: Counter[tuple[str, int]] = Counter()
    counted: dict[tuple[str, int], int] = defaultdict(int)
    for pod in pods:
        if pod.chunk is not None:
            key = (pod.job, pod.chunk)
            attempts[key] += 1
            counted[key] = max(counted[key], pod.retries)
    return sum(max(count - 1, counted[key]) for key, count in attempts.items())


def group_pending(pods: Iterable[Pod]) -> list[Group]:
    """Return why pods do not run, the most frequent reason first."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for pod in pods:
        if pod.waiting:
            by_reason[pod.waiting].append(pod.name)
    groups = [Group(reason=reason, count=len(names), pods=tuple(names[:3])) for reason, names in by_reason.items()]
    return sorted(groups, key=lambda group: -group.count)


def last_failures(chunks: Chunks, pods: Iterable[Pod]) -> dict[int, Pod | None]:
    """Return the last pod of each failed chunk, None where none is there (any more)."""
    found: dict[int, Pod | None] = dict.fromkeys(sorted(chunks.failed))
    for pod in pods:  # oldest first
        if pod.chunk in found and pod.phase == "Failed":
            found[pod.chunk] = pod
    return found


def group_failures(release: Release, failures: Mapping[int, Pod | None], last_lines: Mapping[str, str]) -> list[Group]:
    """Return why chunks failed, those that failed alike together; `last_lines` are of pods without a last word."""
    by_reason: dict[str, list[int]] = defaultdict(list)
    pods: dict[str, list[str]] = defaultdict(list)
    for chunk, pod in failures.items():
        if pod is None:
            reason = _why_given_up(release, chunk)
        else:
            said = last_lines.get(pod.name, "")
            reason = pod.outcome() + (f"; its last line: {said}" if said else "")
            # What tells one chunk's sentence from another's would keep like from like.
            reason = re.sub(rf"^(exit code \d+: )chunk {chunk}: ", r"\1", reason)
            pods[reason].append(pod.name)
        by_reason[reason].append(chunk)
    return [
        Group(reason=reason, count=len(found), chunks=brief_indexes(found), pods=tuple(pods[reason][:3]))
        for reason, found in by_reason.items()
    ]


def suggest(
    release: Release,
    chunks: Chunks,
    failures: Mapping[int, Pod | None],
    *,
    pending: Sequence[Group],
    is_finished: bool,
    run_uri: str,
) -> list[str]:
    """Return the commands to run next."""
    flags, namespace = release.flags(), release.cluster.namespace
    merge = release.merge
    commands = []
    if failures:
        first = next((chunk for chunk, pod in failures.items() if pod is not None), None)
        if first is not None:
            commands.append(f"embedder logs {first} {flags}")
        starved = next((pod for pod in failures.values() if pod is not None and pod.is_out_of_memory), None)
        memory = doubled(memory_of(release.objects[starved.job])) if starved is not None else ""
        more = f" --memory {memory}" if memory else ""
        is_wrong_setting = any(pod is not None and pod.exit_code == ExitCode.CONFIG_ERROR for pod in failures.values())
        more += " --set-env NAME=VALUE" if is_wrong_setting else ""
        commands.append(f"embedder rerun {flags}{more}")
    elif chunks.running:
        commands.append(f"embedder logs {min(chunks.running)} -f {flags}")
    if pending and pending[0].pods:
        commands.append(f"kubectl describe pod {pending[0].pods[0]} -n {namespace}")
    if merge is not None and merge.ended == "Failed":
        commands.append(f"kubectl logs job/{merge.name} -n {namespace} --all-containers --tail=-1")
    if is_finished and run_uri.startswith("s3://"):
        commands.append(f"aws s3 cp {run_uri.rstrip('/')}/{RESULT_KEY} .")
    return commands


def _why_given_up(release: Release, chunk: int) -> str:
    job = next((job for job in reversed(release.embedding_jobs) if chunk in job.left), None)
    if job is None:
        return "no Job computes it"
    why = job.reason or "its pods are gone"
    kind = "the rerun" if job.component == Component.RERUN else "Job"
    return f"given up ({why})" if chunk in job.failed else f"not computed: {kind} {job.name} ended ({why})"


def _count(line: LogLine, key: str) -> int:
    text = line.values.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _rate(line: LogLine) -> float:
    try:
        rate = float(line.values.get("rate_per_s", ""))
    except ValueError:
        return 0
    return rate if 0 <= rate < 1e9 else 0
