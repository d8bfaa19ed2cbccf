"""`embedder logs`: the log of a chunk, whichever pods computed it."""

from __future__ import annotations

import math
import re
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ClusterUnavailable, NotInCluster, RunUnfinished, SettingsError
from common.exit_policy import backoff_seconds
from common.logs import printable, redact_urls
from k8s.api.options import ContextOption, NamespaceOption, ReleaseOption, open_cluster
from k8s.release import Release

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.release import Pod

EPILOG = "\n\n".join(
    ["[bold]Examples[/bold]", "[cyan]embedder logs 7[/cyan]", "[cyan]embedder logs 7 -f -n photos[/cyan]"]
)

POLL_SECONDS = 2.0
"""Between two looks for a pod that has not begun, or for the attempt after one that failed."""

RECONNECTS = 10
"""In a row, without a line between them."""

SINCE_MARGIN_SECONDS = 10
"""Asked for beyond the last line that was seen; what was printed already is left out."""


def logs(
    *,
    chunk: Annotated[
        int, typer.Argument(metavar="CHUNK", min=0, help="The chunk, counted from 0.", show_default=False)
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", metavar=" ", help="Go on until the chunk is done or given up.")
    ] = False,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", metavar=" ", help="Only the attempt before the last one.")
    ] = False,
    release: ReleaseOption = "embedder",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
) -> None:
    """Show the log of one chunk of a run in the cluster, of all its attempts in order, also those of reruns.

    Lines go to standard output, what separates the attempts to standard error.
    """
    if follow and previous:
        raise SettingsError("--previous is an attempt that has ended; there is nothing to --follow")
    ChunkLog(open_cluster(namespace=namespace, context=context), release, chunk).show(follow=follow, previous=previous)
    sys.stdout.flush()


class ChunkLog:
    def __init__(self, cluster: Cluster, release: str, chunk: int) -> None:
        """Read the release. Raises SettingsError when the chunk is outside the run, and as Release does."""
        self._chunk = chunk
        self._release = Release(cluster, release)
        if chunk >= self._release.chunk_count:
            raise SettingsError(
                f"there is no chunk {chunk}: the last of the run's {self._release.chunk_count} is "
                f"{self._release.chunk_count - 1}"
            )
        self._shown: set[str] = set()
        self._said = ""

    def show(self, *, follow: bool, previous: bool) -> None:
        """Print the logs of the attempts in order; with `follow` until the chunk is done or given up.

        Raises NotInCluster or RunUnfinished when there is nothing to print, with why.
        """
        while True:
            attempts = self._attempts()
            is_pending = self._chunk in self._release.pending()
            if not attempts and not (follow and is_pending):
                raise self._absent()
            if previous and len(attempts) < 2:
                raise NotInCluster(f"chunk {self._chunk} had one attempt only; leave --previous out")
            for pod in attempts[-2:-1] if previous else attempts:
                if pod.name not in self._shown:
                    title = f"attempt {attempts.index(pod) + 1} of {len(attempts)}"
                    self._print(pod, title, follow=follow)
            if not (follow and is_pending):
                return
            if not attempts:
                self._say(str(self._absent()))
            time.sleep(POLL_SECONDS)
            self._release = Release(self._release.cluster, self._release.name)

    def _attempts(self) -> list[Pod]:
        jobs = [job for job in self._release.embedding_jobs if self._chunk in job.chunks]
        return self._release.pods(jobs, chunk=self._chunk)

    def _print(self, pod: Pod, title: str, *, follow: bool) -> None:
        about = f"chunk {self._chunk}, {title}: pod {pod.name}"
        if pod.phase == "Pending":
            self._say(f"{about} has not started{f' ({pod.waiting})' if pod.waiting else ''}")
            return
        self._shown.add(pod.name)
        self._say(f"{about}, {pod.outcome() if pod.exit_code is not None else pod.phase}, created {pod.created}")
        try:
            if follow and pod.phase == "Running":
                self._follow(pod)
                return
            for line in self._release.cluster.log_lines(pod.name, container=pod.container):
                _print_line(line)
        except (NotInCluster, SettingsError, ClusterUnavailable) as error:
            # The log of this pod alone: it is gone, or its node is down.
            self._say(f"the log of pod {pod.name} cannot be read: {error}")

    def _follow(self, pod: Pod) -> None:
        """Print the lines as they are written; where the connection breaks off, go on after the last one."""
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
                time.sleep(backoff_seconds(failures, first=0.5, limit=10))
            else:
                return

    def _say(self, sentence: str) -> None:
        """Tell on standard error what is not log, once."""
        if sentence != self._said:
            sys.stdout.flush()
            typer.secho(f"==> {redact_urls(sentence)} <==", err=True, bold=True)
        self._said = sentence

    def _absent(self) -> NotInCluster | RunUnfinished:
        release, chunk = self._release, self._chunk
        if chunk in release.done():
            return NotInCluster(f"chunk {chunk} is done, but its pods and their logs are gone")
        if chunk in release.pending():
            return RunUnfinished(
                f"chunk {chunk} has no pod yet: {len(release.pending())} chunks are to be computed; see "
                f"embedder status {release.flags()}"
            )
        return NotInCluster(
            f"chunk {chunk} has failed, and its pods and their logs are gone; embedder rerun --chunks {chunk} "
            f"{release.flags()} computes it again"
        )


def _print_line(line: str) -> None:
    sys.stdout.write(f"{printable(redact_urls(line))}\n")


def _sortable(stamp: str) -> str:
    """Return a kubelet's time, whose fraction has no trailing zeros, so that it sorts as text."""
    seconds, dot, rest = stamp.partition(".")
    fraction = re.match(r"\d*", rest)
    return f"{seconds[:19]}.{(fraction[0] if dot and fraction else ''):0<9}"
