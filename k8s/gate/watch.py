"""The worker Job as the gate sees it: listed, then watched, through whatever the API does meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from common.errors import ClusterUnavailable, EmbedderError
from common.exit_policy import backoff_seconds
from common.logs import log
from k8s.api.cluster import connect
from k8s.api.errors import Expired
from k8s.release import job_from

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster, Object
    from k8s.gate.settings import GateSettings
    from k8s.release import Job

RETRY_LIMIT_SECONDS = 30
"""Before the API is asked again after it has failed."""


class WorkerWatch:
    """What is known of the worker Job. No method raises for what the API does: the store is what decides."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._cluster: Cluster | None = None
        self._job: Job | None = None
        self._version = ""
        """Of the Jobs, to watch from; "" where they are to be listed first."""
        self._failures = 0
        self._is_silent = False
        """Whether the API says nothing."""
        self._denials: set[str] = set()
        """Each is said once."""

    @property
    def has_ended(self) -> bool:
        """Return whether the Job is known to have ended. One that is not there may be yet to come."""
        return self._job is not None and bool(self._job.ended)

    @property
    def failed(self) -> frozenset[int]:
        """Return the chunks that the Job is known to have given up."""
        return self._job.failed if self._job is not None else frozenset()

    @property
    def completed(self) -> frozenset[int]:
        """Return the chunks that the Job is known to have completed."""
        return self._job.completed if self._job is not None else frozenset()

    def describe(self) -> str:
        name = f"Job {self._settings.worker_job}"
        if self._job is not None and self._job.ended:
            return f"{name} has failed ({self._job.reason})" if self._job.ended == "Failed" else f"{name} is complete"
        if self._is_silent:
            return f"what {name} does is unknown, the store alone is watched"
        if self._job is None:
            return f"{name} is not there (yet)"
        return f"{name} is suspended" if self._job.suspended else f"{name} is running"

    def refresh(self) -> None:
        """Ask once how the Job stands."""
        self._version = ""
        self._attempt(time.monotonic(), watch=False)

    def wait(self, seconds: float) -> None:
        """Return after the seconds, or as soon as the Job ends, fails a chunk, is deleted or comes into being."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._attempt(deadline, watch=True):
                return

    def _attempt(self, deadline: float, *, watch: bool) -> bool:
        """List or watch the Job; return whether there is news. After a fault waits, until the deadline at most."""
        try:
            if self._cluster is None:
                # One attempt a request: faults are waited out here, and said.
                self._cluster = connect(namespace=self._settings.pod_namespace, attempts=1)
            if not self._version:
                found, version = self._cluster.job(self._settings.worker_job)
                is_news = self._take(found)
                self._version = version
                self._recovered()
                if is_news or not watch:
                    return is_news
            return watch and self._follow(self._cluster, deadline)
        except Expired:
            self._version = ""  # so that the Job is listed again
            time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
        except ClusterUnavailable as error:
            if not self._is_silent:
                log.warning("api_unavailable", message=str(error))
            self._pause(deadline)
        except EmbedderError as error:
            if str(error) not in self._denials:
                self._denials.add(str(error))
                log.warning(
                    "api_denied",
                    message=f"{error}; the store alone is watched, and it cannot tell a failed "
                    "chunk from one still to come",
                )
            self._pause(deadline)
        return False

    def _follow(self, cluster: Cluster, deadline: float) -> bool:
        seconds = max(1.0, deadline - time.monotonic())
        events = cluster.watch_job(self._settings.worker_job, resource_version=self._version, seconds=seconds)
        try:
            for kind, found in events:
                self._version = str((found.get("metadata") or {}).get("resourceVersion") or "")
                self._failures = 0
                if kind != "BOOKMARK" and self._take(None if kind == "DELETED" else found):
                    return True
        except ClusterUnavailable:
            # Watches break off now and then: gone on with where it was, unless that fails again.
            if self._failures:
                raise
            self._failures = 1
        # When it ended early, which is no fault, there is no hurry to go on.
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
        return False

    def _take(self, found: Object | None) -> bool:
        before, self._job = self._job, None if found is None else job_from(found)
        return _milestones(before) != _milestones(self._job)

    def _recovered(self) -> None:
        if self._is_silent:
            log.info("api_available", message=f"Job {self._settings.worker_job} is watched")
        self._failures, self._is_silent = 0, False

    def _pause(self, deadline: float) -> None:
        self._failures += 1
        self._version, self._is_silent = "", True
        pause = backoff_seconds(self._failures, first=0.5, limit=RETRY_LIMIT_SECONDS)
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))


def _milestones(job: Job | None) -> tuple[str, frozenset[int]] | None:
    return None if job is None else (job.ended, job.failed)
