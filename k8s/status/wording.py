"""What `embedder status` shows, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.durations import format_duration
from common.logs import INDEX_PROGRESS, INDEX_STEP, parse_line, printable, redact_urls
from common.run.cost import describe_gpu_hours, describe_pace
from common.run.keys import chunk_failures_key
from k8s.release.cause import Cause
from k8s.release.wording import describe_end
from k8s.status.gated_job import GatedPhase
from k8s.status.troubles import GivenUp, InNoJob, NotComputed, PodFailed, Suspended
from k8s.status.view import EventsUnread, LogsUnread, PodsUnread, WorkerGone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s.status.gated_job import GatedJob
    from k8s.status.images import Images
    from k8s.status.slow_sites import SlowSite
    from k8s.status.spending import Spending
    from k8s.status.top_ups import TopUp
    from k8s.status.troubles import FailedImages, Failure, RejectingNode
    from k8s.status.view import Note


def describe_images(images: Images) -> str:
    if images.settled is None or images.total is None:
        return "no worker has reported yet"
    about = "about " if images.is_estimate else ""
    parts = [f"{about}{images.settled:,} of {about}{images.total:,}"]
    if images.rate_per_s is not None:
        parts.append(f"{images.rate_per_s:,.{0 if images.rate_per_s >= 100 else 1}f}/s")
    if images.eta_seconds is not None:
        parts.append(f"{format_duration(images.eta_seconds)} left")
    if images.failed:
        deferred = f", of which {images.deferred:,} deferred (embedder topup fetches them)" if images.deferred else ""
        parts.append(f"{images.failed:,} failed{deferred}")
    if images.waiting_on:
        parts.append(f"waiting on {images.waiting_on}")
    return " · ".join(parts)


def describe_spending(spending: Spending) -> str:
    """Return GPU hours, cost and the pace of a finished run; empty where none of them is known."""
    parts = []
    if spending.images_per_s is not None:
        parts.append(describe_pace(spending.images_per_s))
    if spending.gpu_hours is not None:
        about = "about " if spending.is_estimate else ""
        hours = describe_gpu_hours(spending.gpu_hours, price=spending.gpu_hour_price, images=spending.images)
        parts.append(f"{about}{hours}")
    return ", ".join(parts)


def describe_site(site: SlowSite) -> str:
    by = f"by {site.workers:,} workers, " if site.workers > 1 else ""
    done = f", done in {format_duration(site.done_in_s)}" if site.done_in_s is not None else ""
    return f"{site.site} serves {site.rate_per_s:,.3g}/s, {by}{site.left:,} images left{done}"


def describe_top_up(top_up: TopUp) -> str:
    """Return how far the top-up is, and what the merge and the index that follow it do."""
    job = top_up.job
    counts = {
        "done": len(job.completed),
        "running": len(top_up.running),
        "waiting": len(job.pending - top_up.running),
        "failed": len(job.left),
    }
    states = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count or state == "done")
    chunks = f"{states} of {len(job.chunks):,} chunk{'' if len(job.chunks) == 1 else 's'}"
    index = f" · index {describe_index(top_up.index)}" if top_up.index is not None else ""
    return f"{job.name}: {chunks} · merge {describe_merge(top_up.merge)}{index}"


def describe_may_pass(counts: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
    return f"{sum(counts.values()):,} failed images may be had by embedder topup: {reasons}"


def describe_pending(why: Cause | Suspended) -> str:
    match why:
        case Suspended(job):
            return f"Job {job} is suspended, by a queue or by hand"
        case Cause():
            return str(why)


def describe_failure(why: Failure) -> str:
    match why:
        case PodFailed(end, last_line):
            return describe_end(end) + (f"; its last line: {last_line}" if last_line else "")
        case GivenUp(cause):
            return f"given up ({cause or 'its pods are gone'})"
        case NotComputed(job, is_rerun, cause):
            kind = "the rerun" if is_rerun else "Job"
            return f"not computed: {kind} {job} ended ({cause or 'its pods are gone'})"
        case InNoJob():
            return "no Job computes it"


def describe_failed_images(images: FailedImages, *, run_uri: str) -> str:
    """Return the reasons of a chunk's failed images, and where they are listed."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in images.reasons.items())
    listed_at = failures_file(images, run_uri=run_uri)
    return f"chunk {images.chunk}: {reasons}" + (f", listed in {listed_at}" if listed_at else "")


def failures_file(images: FailedImages, *, run_uri: str) -> str:
    """Return the full name of the list of a chunk's failed images, empty where there is none."""
    return f"{run_uri.rstrip('/')}/{chunk_failures_key(images.chunk)}" if images.is_listed else ""


def describe_node(node: RejectingNode) -> str:
    cause = Cause(node.end.ended_by, node.end.message or "no message")
    return f"{node.node} has rejected {node.count:,} pod{'' if node.count == 1 else 's'} ({cause})"


STATES = {
    GatedPhase.WITHOUT_POD: "has no pod",
    GatedPhase.STARTING: "starts",
    GatedPhase.WAITING: "waits",
    GatedPhase.COMPLETE: "finished",
}


def describe_merge(merge: GatedJob) -> str:
    if merge.phase is GatedPhase.WITHOUT_JOB:
        return "there is no merge Job"
    return _describe_gated(merge, working="merges", detail=_line(merge.last_line))


def describe_index(index: GatedJob) -> str:
    """Return what the index Job does. A Job that builds says how many rows are in the index."""
    if index.phase is GatedPhase.WITHOUT_JOB:
        return "there is no index Job"
    is_building = index.phase is GatedPhase.WORKING
    detail = _index_progress(index.last_line) if is_building else ""
    return _describe_gated(index, working="builds", detail=detail or _line(index.last_line))


def _describe_gated(job: GatedJob, *, working: str, detail: str) -> str:
    end = job.end
    if job.phase is GatedPhase.STUCK:
        return str(job.cause)
    if job.phase is GatedPhase.FAILED:
        return f"failed ({describe_end(end) if end else job.cause})"
    if job.phase is GatedPhase.STARTING and end:
        return describe_end(end)
    state = working if job.phase is GatedPhase.WORKING else STATES[job.phase]
    said = end.message if job.phase is GatedPhase.COMPLETE and end else detail
    return f"{state}: {said}" if said else state


def _index_progress(text: str) -> str:
    """Return the last log line of a build in words, empty where it says nothing about the build."""
    line = parse_line(text)
    if line is None:
        return ""
    if line.event == INDEX_STEP:
        return line.values.get("step", "")
    if line.event != INDEX_PROGRESS:
        return ""
    rows, of, rate, eta = line.count("rows"), line.count("of"), line.number("rate_per_s"), line.number("eta_s")
    parts = [f"{rows:,} of {of:,} rows"] if rows is not None and of is not None else []
    parts += [f"{rate:,.0f}/s"] if rate else []
    parts += [f"{format_duration(eta)} left"] if eta is not None else []
    return " · ".join(parts)


def describe_note(note: Note) -> str:
    match note:
        case LogsUnread(count, error):
            return f"{count} logs cannot be read: {error}"
        case EventsUnread(error):
            return str(error)
        case PodsUnread(read, unread):
            return (
                f"{read:,} pods were read, and up to {unread:,} that have ended were not: images are estimated, and "
                "some chunks lack the reason of their failure"
            )
        case WorkerGone(job, has_looked_into_store):
            left = "its chunks are those in the store" if has_looked_into_store else "--store shows its chunks"
            return f"Job {job} no longer exists, by ttlSecondsAfterFinished or by hand; {left}"


def _line(text: str) -> str:
    """Return a log line without its time and level."""
    line = parse_line(text)
    if line is None:
        return printable(redact_urls(text))
    return line.values.get("message") or " ".join([line.event, *(f"{key}={line.values[key]}" for key in line.values)])
