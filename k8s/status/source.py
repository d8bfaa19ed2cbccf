"""How `embedder status` finds out: one list of the release's Jobs, one of its pods, a bounded number of log tails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from common.errors import ClusterAccessDenied, ClusterUnavailable, EmbedderError
from common.logs import parse_line, printable, redact_urls
from common.run.state import find_missing
from common.store import open_store
from k8s.release import INSTANCE_LABEL, JOB_NAME_LABEL, RUN_URI, Component, Release, environment_of, pod_from
from k8s.status.view import (
    Group,
    Status,
    count_images,
    count_retries,
    group_failures,
    group_pending,
    last_failures,
    sort_chunks,
    suggest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.logs import LogLine
    from k8s.api.cluster import Cluster
    from k8s.release import Job, Pod

RUNNING_TAILS = 50
"""Running pods whose logs are read. Of more the rates are projected."""

FAILED_TAILS = 10
"""Failed pods without a last word whose logs are read."""

TAIL_LINES = 20
"""Enough to find a line of progress among warnings."""

PARALLEL_TAILS = 10


def read_status(release: Release, *, look_into_store: bool = False) -> Status:
    """Return how the run stands. Raises what the cluster and (with `look_into_store`) the store raise."""
    notes: list[str] = []
    pods = _pods(release)
    embedding = [pod for pod in pods if pod.component in {Component.WORKER, Component.RERUN}]
    run_uri = environment_of(release.objects[release.worker.name]).get(RUN_URI, "")
    chunks = sort_chunks(
        release, embedding, stored=_stored(release, run_uri) if look_into_store and run_uri else frozenset()
    )
    # A node that does not answer would be waited for.
    running = [pod for pod in embedding if pod.is_running and pod.chunk in chunks.running and not pod.waiting]
    failures = last_failures(chunks, embedding)
    silent = [pod for pod in failures.values() if pod is not None and not pod.last_word and not pod.is_out_of_memory]
    tails = _tails(release.cluster, [*running[-RUNNING_TAILS:], *silent[:FAILED_TAILS]], notes)
    lines = {name: line for name, tail in tails.items() if (line := _last_progress(tail)) is not None}
    last_lines = {name: printable(redact_urls(tail[-1])) for name, tail in tails.items() if tail}
    pending = [*group_pending(pods), *_unborn(release, notes)]
    is_finished = release.merge is not None and release.merge.ended == "Complete"
    return Status(
        release=release.name,
        namespace=release.cluster.namespace,
        run_uri=redact_urls(run_uri),
        chunks=chunks,
        images=count_images(chunks, embedding, lines),
        retries=count_retries(embedding),
        pending=pending,
        failures=group_failures(release, failures, last_lines),
        merge=_merge(release, [pod for pod in pods if pod.component == Component.MERGE], notes),
        is_finished=is_finished,
        has_ended=release.merge is None or bool(release.merge.ended),
        next=suggest(release, chunks, failures, pending=pending, is_finished=is_finished, run_uri=redact_urls(run_uri)),
        notes=notes,
    )


def _pods(release: Release) -> list[Pod]:
    """Return the pods of the release's Jobs, oldest first."""
    jobs = {job.name: job for job in release.jobs}
    pods = []
    for found in release.cluster.pods(labels=f"{INSTANCE_LABEL}={release.name}"):
        job = jobs.get((found["metadata"].get("labels") or {}).get(JOB_NAME_LABEL, ""))
        if job is not None:
            pods.append(pod_from(found, job))
    return sorted(pods, key=lambda pod: (pod.created, pod.name))


def _stored(release: Release, run_uri: str) -> frozenset[int]:
    everything = set(release.worker.chunks)
    return frozenset(everything - find_missing(open_store(run_uri), release.chunk_count))


def _tails(cluster: Cluster, pods: Iterable[Pod], notes: list[str]) -> dict[str, list[str]]:
    """Return the last lines of the pods' logs, none for one that cannot be read."""

    def tail(pod: Pod) -> tuple[str, list[str]] | EmbedderError:
        try:
            return pod.name, list(cluster.log_lines(pod.name, container=pod.container, tail=TAIL_LINES))
        except EmbedderError as error:
            return error

    with ThreadPoolExecutor(PARALLEL_TAILS) as pool:
        answers = list(pool.map(tail, pods))
    # A pod that has just gone, or whose container has not started, is no fault.
    faults = [each for each in answers if isinstance(each, ClusterAccessDenied | ClusterUnavailable)]
    if faults:
        notes.append(f"{len(faults)} logs cannot be read: {faults[0]}")
    return dict(each for each in answers if not isinstance(each, EmbedderError))


def _last_progress(tail: list[str]) -> LogLine | None:
    for text in reversed(tail):
        line = parse_line(text)
        if line is not None and line.event == "embedded":
            return line
    return None


def _unborn(release: Release, notes: list[str]) -> list[Group]:
    """Return why Jobs have fewer pods than they may: suspended, or the API refuses them (quota, admission)."""
    groups = []
    for job in release.jobs:
        wanted = min(job.parallelism, len(job.pending)) if job.chunks else 1
        missing = 0 if job.ended else wanted - job.active
        if job.suspended and not job.ended:
            groups.append(Group(reason=f"Job {job.name} is suspended, by a queue or by hand", count=wanted))
        elif missing > 0 and (reason := _refusal(release, job, notes)):
            groups.append(Group(reason=f"FailedCreate: {reason}", count=missing))
    return groups


def _refusal(release: Release, job: Job, notes: list[str]) -> str:
    """Return what the API said last when it refused a pod of the Job, "" where it did not."""
    try:
        events = release.cluster.warnings_of(job.name, reason="FailedCreate")
    except ClusterAccessDenied as error:
        notes.append(str(error))
        return ""
    newest = max(events, key=_event_time, default=None)
    return "" if newest is None else printable(redact_urls(" ".join(str(newest.get("message") or "").split())))


def _event_time(event: dict[str, object]) -> str:
    series = event.get("series")
    last = series.get("lastObservedTime") if isinstance(series, dict) else None
    return str(last or event.get("lastTimestamp") or event.get("eventTime") or "")


def _merge(release: Release, pods: list[Pod], notes: list[str]) -> str:
    """Return in a sentence what the merge does, or waits for."""
    job = release.merge
    if job is None:
        return "there is no merge Job"
    last = pods[-1] if pods else None
    said = last.last_word if last is not None else ""
    if job.ended == "Complete":
        return said or "finished"
    if job.ended:
        return f"failed ({last.outcome() if last is not None else job.reason})"
    if last is None:
        return "has no pod"
    if last.is_running and not last.waiting:
        tail = _tails(release.cluster, [last], notes).get(last.name) or []
        waits = "waits" if last.container == "gate" else "merges"
        return f"{waits}: {_sentence(tail[-1])}" if tail else waits
    return last.waiting or (last.outcome() if last.exit_code is not None else "starts")


def _sentence(text: str) -> str:
    """Return what a log line says, without its time and level."""
    line = parse_line(text)
    if line is None:
        return printable(redact_urls(text))
    return line.values.get("message") or " ".join([line.event, *(f"{key}={line.values[key]}" for key in line.values)])
