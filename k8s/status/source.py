"""Where `embedder status` reads: one list of the release's Jobs, one list of its pods, and a bounded number of logs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from common.errors import ClusterAccessDenied, ClusterUnavailable, EmbedderError
from common.format.reasons import MAY_PASS
from common.logs import CHUNK_PROGRESS, parse_line, printable, redact_urls
from common.run.state import find_finished, find_missing
from common.store import open_store
from k8s.release.cause import Cause
from k8s.release.labels import Component
from k8s.status.chunks import count_retries, sort_chunks
from k8s.status.gated_job import GatedJob, GatedPhase
from k8s.status.images import Progress, count_images
from k8s.status.slow_sites import find_slow_sites
from k8s.status.spending import count_spending
from k8s.status.suggestions import suggest
from k8s.status.top_ups import TopUp, last_topup_failures
from k8s.status.troubles import (
    PendingPods,
    Suspended,
    find_rejecting_nodes,
    group_failures,
    group_pending,
    last_failures,
)
from k8s.status.view import EventsUnread, LogsUnread, PodsUnread, Status, WorkerGone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.store.contract import Store
    from k8s.api.cluster import Cluster
    from k8s.release.job import Job
    from k8s.release.pod import Pod
    from k8s.release.release import Release, TopUpJobs
    from k8s.status.view import Note

RUNNING_TAILS = 50
"""Largest number of running pods whose logs are read. The rates of the others are estimated from these."""

FAILED_TAILS = 10
"""Largest number of failed pods whose logs are read because they left no last word."""

TAIL_LINES = 20
"""Number of lines at the end of a log: enough to find a line of progress among warnings."""

PARALLEL_TAILS = 10
"""Number of logs that are read at the same time."""

GATED = {Component.MERGE, Component.TOPUP_MERGE, Component.INDEX, Component.TOPUP_INDEX}
"""The Jobs whose pods begin with the gate."""


def read_status(release: Release, *, look_into_store: bool = False, gpu_hour_price: float | None = None) -> Status:
    """Return the state of the run. Without a price of a GPU hour, it is that of the merge Job.

    Raises the errors of the cluster and (with `look_into_store`) of the store.
    """
    notes: list[Note] = []
    pods, unread = release.all_pods()
    if unread:
        notes.append(PodsUnread(len(pods), unread))
    embedding = [pod for pod in pods if pod.component in {Component.WORKER, Component.RERUN, Component.TOPUP}]
    run_uri = release.run_uri
    store = open_store(run_uri) if look_into_store and run_uri else None
    chunks = sort_chunks(release, embedding, stored=_stored(release, store) if store is not None else frozenset())
    if release.worker.is_gone:
        notes.append(WorkerGone(release.worker.name, store is not None))
    # A pod with an obstacle may be on a node that does not answer.
    running = [
        pod
        for pod in embedding
        if pod.is_running and pod.obstacle is None and (pod.chunk in chunks.running or pod.component == Component.TOPUP)
    ]
    failures = last_failures(chunks, embedding)
    failed = [
        *failures.values(),
        *(pod for each in _shown_top_ups(release) for pod in last_topup_failures(each, pods).values()),
    ]
    silent = [pod for pod in failed if pod and pod.end and not pod.end.message and not pod.end.is_out_of_memory]
    tails = _tails(release.cluster, [*running[-RUNNING_TAILS:], *silent[:FAILED_TAILS]], notes)
    progress = {name: each for name, tail in tails.items() if (each := _last_progress(tail)) is not None}
    last_lines = {name: printable(redact_urls(tail[-1])) for name, tail in tails.items() if tail}
    pending = [*group_pending(pods), *_uncreated(release, notes)]
    nodes = find_rejecting_nodes(pods)
    # The Jobs count pods that are not read, the pods count evictions.
    retries = max(count_retries(embedding), sum(job.retries for job in release.embedding_jobs))
    images = count_images(chunks, embedding, progress, is_sample=bool(unread))
    may_pass = _may_pass(store) if store is not None else None
    gated = {
        job.name: _gated(release, job, [pod for pod in pods if pod.job == job.name], notes)
        for job in release.jobs
        if job.component in GATED
    }
    return Status(
        release=release.name,
        namespace=release.cluster.namespace,
        run_uri=redact_urls(run_uri),
        chunks=chunks,
        images=images,
        spending=count_spending(
            release,
            pods,
            price=gpu_hour_price,
            images=max(0, (images.settled or 0) - (images.failed or 0)),
            unread=unread,
        ),
        retries=retries,
        pending=pending,
        failures=group_failures(release.computing_jobs, failures, last_lines),
        nodes=nodes,
        slow_sites=find_slow_sites(tails.values()),
        top_ups=[_top_up(each, pods, last_lines, gated) for each in _shown_top_ups(release)],
        may_pass=may_pass or {},
        merge=gated[release.merge.name] if release.merge is not None else GatedJob(GatedPhase.WITHOUT_JOB),
        index=gated[release.index.name] if release.index is not None else None,
        is_finished=release.merge is not None and release.merge.is_complete,
        has_ended=all(job.end is not None for job in (release.merge, release.index) if job is not None)
        and all(each.has_ended for each in release.top_ups),
        next=suggest(
            release,
            chunks,
            failures,
            pending=pending,
            nodes=nodes,
            run_uri=redact_urls(run_uri),
            may_pass=sum(may_pass.values()) if may_pass is not None else images.deferred or 0,
        ),
        notes=notes,
    )


def _stored(release: Release, store: Store) -> frozenset[int]:
    return release.worker.every_chunk - find_missing(store, release.chunk_count)


def _may_pass(store: Store) -> dict[str, int] | None:
    """Return the number of failed images by those reasons that may pass, None while the run is not finished."""
    finished = find_finished(store)
    if finished is None:
        return None
    return {reason: count for reason, count in finished.summary.failures_by_reason.items() if reason in MAY_PASS}


def _shown_top_ups(release: Release) -> list[TopUpJobs]:
    return [each for each in release.top_ups if not each.has_ended or each is release.top_ups[-1]]


def _top_up(jobs: TopUpJobs, pods: list[Pod], last_lines: dict[str, str], gated: dict[str, GatedJob]) -> TopUp:
    job = jobs.job
    running = {pod.chunk for pod in pods if pod.job == job.name and pod.is_running and pod.chunk is not None}
    return TopUp(
        job=job,
        running=frozenset(running) & job.pending,
        failures=tuple(group_failures([job], last_topup_failures(jobs, pods), last_lines)),
        merge=gated[jobs.merge.name] if jobs.merge is not None else GatedJob(GatedPhase.WITHOUT_JOB),
        index=gated[jobs.index.name] if jobs.index is not None else None,
        has_ended=jobs.has_ended,
    )


def _tails(cluster: Cluster, pods: Iterable[Pod], notes: list[Note]) -> dict[str, list[str]]:
    """Return the last lines of the pods' logs, by the pod's name. Pods whose logs cannot be read are left out."""

    def tail(pod: Pod) -> tuple[str, list[str]] | EmbedderError:
        try:
            return pod.name, list(cluster.log_lines(pod.name, container=pod.container, tail=TAIL_LINES))
        except EmbedderError as error:
            return error

    with ThreadPoolExecutor(PARALLEL_TAILS) as pool:
        answers = list(pool.map(tail, pods))
    # It is no fault that a pod was deleted a moment ago, or that its container has not started.
    faults = [each for each in answers if isinstance(each, ClusterAccessDenied | ClusterUnavailable)]
    if faults:
        notes.append(LogsUnread(len(faults), faults[0]))
    return dict(each for each in answers if not isinstance(each, EmbedderError))


def _last_progress(tail: list[str]) -> Progress | None:
    for text in reversed(tail):
        line = parse_line(text)
        if line is not None and line.event == CHUNK_PROGRESS:
            return Progress.from_line(line)
    return None


def _uncreated(release: Release, notes: list[Note]) -> list[PendingPods]:
    """Return the pods that a Job should have and does not have: the Job is suspended, or the API refuses its pods."""
    groups = []
    for job in release.jobs:
        wanted = min(job.parallelism, len(job.pending)) if job.chunks else 1
        missing = 0 if job.end else wanted - job.active
        if job.suspended and not job.end:
            groups.append(PendingPods(why=Suspended(job.name), count=wanted))
        elif missing > 0 and (refusal := _refusal(release, job, notes)) is not None:
            groups.append(PendingPods(why=refusal, count=missing))
    return groups


def _refusal(release: Release, job: Job, notes: list[Note]) -> Cause | None:
    """Return why the API last refused a pod of the Job (a quota, an admission rule), None where it did not."""
    reason = "FailedCreate"
    try:
        events = release.cluster.warnings_of(job.name, reason=reason)
    except ClusterAccessDenied as error:
        notes.append(EventsUnread(error))
        return None
    newest = max(events, key=_event_time, default=None)
    message = "" if newest is None else printable(redact_urls(" ".join(str(newest.get("message") or "").split())))
    return Cause(reason, message) if message else None


def _event_time(event: dict[str, object]) -> str:
    series = event.get("series")
    last = series.get("lastObservedTime") if isinstance(series, dict) else None
    return str(last or event.get("lastTimestamp") or event.get("eventTime") or "")


def _gated(release: Release, job: Job, pods: list[Pod], notes: list[Note]) -> GatedJob:
    last = pods[-1] if pods else None
    end = last.end if last is not None else None
    if job.end:
        return GatedJob(GatedPhase.COMPLETE if job.is_complete else GatedPhase.FAILED, end=end, cause=job.cause)
    if last is None:
        return GatedJob(GatedPhase.WITHOUT_POD)
    if last.obstacle is not None:
        return GatedJob(GatedPhase.STUCK, cause=last.obstacle)
    if last.is_running:
        tail = _tails(release.cluster, [last], notes).get(last.name)
        phase = GatedPhase.WAITING if last.container == "gate" else GatedPhase.WORKING
        return GatedJob(phase, last_line=tail[-1] if tail else "")
    return GatedJob(GatedPhase.STARTING, end=end)
