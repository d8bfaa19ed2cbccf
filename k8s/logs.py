"""`embedder logs`: the log of a chunk, from all pods that computed it, or that of the merge or the index."""

from __future__ import annotations

import math
import re
import sys
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.errors import ClusterUnavailable, NotInCluster, RunUnfinished, SettingsError
from common.logs import printable, redact_urls
from common.retry import RetryPolicy
from k8s.api.options import ContextOption, NamespaceOption, ReleaseOption, open_cluster
from k8s.release.labels import Component
from k8s.release.release import Release
from k8s.release.wording import describe_end

if TYPE_CHECKING:
    from k8s.release.job import Job
    from k8s.release.pod import Pod

EPILOG = "\n\n".join(
    [
        "[bold]Examples[/bold]",
        "[cyan]embedder logs 7[/cyan]",
        "[cyan]embedder logs 7 -f -n photos[/cyan]",
        "[cyan]embedder logs --index -f[/cyan]",
    ]
)

POLL_SECONDS = 2.0
"""Time between two requests for a pod that has not started, or for the next attempt, in seconds."""

RECONNECT = RetryPolicy(first_pause_seconds=0.5, longest_pause_seconds=10)
"""A followed log breaks off when its node or the API restarts, which takes up to a minute."""

RECONNECTS = 10
"""Number of reconnections in a row, without a line between them, after which a followed log is given up."""

SINCE_MARGIN_SECONDS = 10
"""Time in seconds by which a new request overlaps with the printed lines. Lines that were printed are left out."""


def logs(
    *,
    chunk: Annotated[
        int | None,
        typer.Argument(metavar="CHUNK", min=0, help="Number of the chunk, counted from 0.", show_default=False),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", metavar=" ", help="Show the log of the merge instead, or of its gate.")
    ] = False,
    index: Annotated[
        bool, typer.Option("--index", metavar=" ", help="Show the log of the index instead, or of its gate.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", metavar=" ", help="Wait for new lines until it is done or given up."),
    ] = False,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", metavar=" ", help="Show only the attempt before the last one.")
    ] = False,
    release: ReleaseOption = "embedder",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
) -> None:
    """Show the log of one chunk of a run in the cluster, of its merge, or of its index.

    The log has all attempts in order, those of reruns and top-ups included.
    Lines go to standard output, a heading for each attempt to standard error.
    """
    if follow and previous:
        raise SettingsError("the attempt that --previous shows has ended; there is nothing to --follow")
    if [chunk is not None, merge, index].count(True) != 1:
        raise SettingsError("name what to show: the number of a chunk, --merge or --index")
    found = Release(open_cluster(namespace=namespace, context=context), release)
    log = ChunkLog(found, chunk) if chunk is not None else GatedJobLog(found, "merge" if merge else "index")
    log.show(follow=follow, previous=previous)
    sys.stdout.flush()


class AttemptsLog(ABC):
    """The log of all attempts at one thing."""

    def __init__(self, release: Release, name: str) -> None:
        self._release, self._name = release, name
        self._shown: set[tuple[str, str]] = set()
        """The pods, each with the container, whose logs were printed."""
        self._said = ""

    @abstractmethod
    def _attempts(self) -> list[Pod]:
        """Return the pods of the attempts, oldest first."""

    @abstractmethod
    def _is_pending(self) -> bool:
        """Return whether there may be more attempts, or more lines."""

    @abstractmethod
    def _absent(self) -> NotInCluster | RunUnfinished:
        """Return why there is no pod."""

    def show(self, *, follow: bool, previous: bool) -> None:
        """Print the logs of the attempts in order; with `follow` until it is done or given up.

        Raises NotInCluster or RunUnfinished, which say why, when there is nothing to print.
        """
        while True:
            attempts = self._attempts()
            is_pending = self._is_pending()
            if not attempts and not (follow and is_pending):
                if self._shown:  # its Job was deleted after its end, while the log was followed
                    return
                raise self._absent()
            if previous and len(attempts) < 2:
                raise NotInCluster(f"{self._name} had only one attempt; leave out --previous")
            for pod in attempts[-2:-1] if previous else attempts:
                if (pod.name, pod.container) not in self._shown:
                    title = f"attempt {attempts.index(pod) + 1} of {len(attempts)}"
                    self._print(pod, title, follow=follow)
            if not (follow and is_pending):
                return
            if not attempts:
                self._say(str(self._absent()))
            time.sleep(POLL_SECONDS)
            if not self._refresh():
                return

    def _refresh(self) -> bool:
        """Read the release again. Return whether it still has Jobs, after the log of one of its pods was printed."""
        try:
            self._release = Release(self._release.cluster, self._release.name)
        except NotInCluster:
            if self._shown:
                return False
            raise
        return True

    def _print(self, pod: Pod, title: str, *, follow: bool) -> None:
        about = f"{self._name}, {title}: pod {pod.name}"
        if pod.phase == "Pending" and not pod.is_running:
            self._say(f"{about} has not started{f' ({pod.obstacle})' if pod.obstacle else ''}")
            return
        self._shown.add((pod.name, pod.container))
        state = "its gate waits" if pod.is_running and pod.container == "gate" else pod.phase
        self._say(f"{about}, {describe_end(pod.end) if pod.end else state}, created {pod.created}")
        try:
            if follow and (pod.is_running or pod.phase == "Running"):
                self._follow(pod)
                return
            for line in self._release.cluster.log_lines(pod.name, container=pod.container):
                _print_line(line)
        except (NotInCluster, SettingsError, ClusterUnavailable) as error:
            # Only the log of this pod is missing: the pod was deleted, or its node is down.
            self._say(f"the log of pod {pod.name} cannot be read: {error}")

    def _follow(self, pod: Pod) -> None:
        """Print the lines as they are written. When the connection breaks off, continue after the last line."""
        last, last_at, failures = "", time.monotonic(), 0
        while True:
            since = math.ceil(time.monotonic() - last_at) + SINCE_MARGIN_SECONDS if last else None
            try:
                for stamped in self._release.cluster.log_lines(
                    pod.name, container=pod.container, follow=True, timestamps=True, since_seconds=since
                ):
                    stamp, _, line = stamped.partition(" ")
                    if _sortable(stamp) > last:
                        last, last_at, failures = _sortable(stamp), time.monotonic(), 0
                        _print_line(line)
                        sys.stdout.flush()
            except ClusterUnavailable:
                failures += 1
                if failures > RECONNECTS:
                    raise
                time.sleep(RECONNECT.pause_seconds(failures))
            else:
                return

    def _say(self, sentence: str) -> None:
        """Print a heading on standard error, once."""
        if sentence != self._said:
            sys.stdout.flush()
            typer.secho(f"==> {redact_urls(sentence)} <==", err=True, bold=True)
        self._said = sentence


class ChunkLog(AttemptsLog):
    """The log of a chunk, those of reruns and top-ups included."""

    def __init__(self, release: Release, chunk: int) -> None:
        """Raises SettingsError when the chunk is outside the run."""
        super().__init__(release, f"chunk {chunk}")
        self._chunk = chunk
        if chunk >= release.chunk_count:
            raise SettingsError(
                f"there is no chunk {chunk}: the last of the run's {release.chunk_count} chunks is "
                f"{release.chunk_count - 1}"
            )

    def _attempts(self) -> list[Pod]:
        jobs = [job for job in self._release.embedding_jobs if self._chunk in job.chunks]
        return self._release.pods(jobs, chunk=self._chunk)

    def _is_pending(self) -> bool:
        return self._release.is_busy(self._chunk)

    def _absent(self) -> NotInCluster | RunUnfinished:
        release, chunk = self._release, self._chunk
        if chunk in release.done():
            return NotInCluster(f"chunk {chunk} is done, but its pods and their logs no longer exist")
        if chunk in release.unknown():
            return NotInCluster(
                f"Job {release.worker.name} no longer exists, and the log of chunk {chunk} is gone with it; set "
                "worker.ttlSecondsAfterFinished=null to keep the logs of a run"
            )
        if chunk in release.pending():
            return RunUnfinished(
                f"chunk {chunk} has no pod yet: {len(release.pending())} chunks are still to be computed; see "
                f"embedder status {release.flags()}"
            )
        return NotInCluster(
            f"chunk {chunk} has failed, and its pods and their logs no longer exist; to compute it again: "
            f"embedder rerun --chunks {chunk} {release.flags()}"
        )


class GatedJobLog(AttemptsLog):
    """The log of the merge or the index, those of top-ups included. While the gate waits, it is the gate's."""

    def __init__(self, release: Release, kind: Literal["merge", "index"]) -> None:
        """Raises NotInCluster when the release has no such Job."""
        super().__init__(release, f"the {kind}")
        self._kind = kind
        if not self._jobs():
            remedy = "; index.enabled=true in an upgrade creates it" if kind == "index" else ""
            raise NotInCluster(f"release {release.name} has no {kind} Job{remedy}")

    def _jobs(self) -> list[Job]:
        components = {
            "merge": {Component.MERGE, Component.TOPUP_MERGE},
            "index": {Component.INDEX, Component.TOPUP_INDEX},
        }[self._kind]
        return [job for job in self._release.jobs if job.component in components]

    def _attempts(self) -> list[Pod]:
        return self._release.pods_of(self._jobs())

    def _is_pending(self) -> bool:
        return any(job.end is None for job in self._jobs())

    def _absent(self) -> NotInCluster | RunUnfinished:
        if self._is_pending():
            return RunUnfinished(f"{self._name} has no pod yet; see embedder status {self._release.flags()}")
        return NotInCluster(f"{self._name} has ended, but its pods and their logs no longer exist")


def _print_line(line: str) -> None:
    sys.stdout.write(f"{printable(redact_urls(line))}\n")


def _sortable(stamp: str) -> str:
    """Return a kubelet's time in a form that sorts as text. A kubelet leaves out zeros at the end of a fraction."""
    seconds, dot, rest = stamp.partition(".")
    fraction = re.match(r"\d*", rest)
    return f"{seconds[:19]}.{(fraction[0] if dot and fraction else ''):0<9}"
