"""The worker Job or a top-up as the gate sees it: listed, then watched. Faults of the API are logged and waited out."""

from __future__ import annotations

import math
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ClusterUnavailable, EmbedderError
from common.logs import log
from common.retry import RetryPolicy
from k8s.api.cluster import ONCE
from k8s.api.connection import connect
from k8s.api.errors import Expired
from k8s.release.job import JobEnd, job_from

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster, Object
    from k8s.gate.settings import GateSettings
    from k8s.release.cause import Cause
    from k8s.release.job import Job

API_RETRY = RetryPolicy(first_pause_seconds=0.5, longest_pause_seconds=30)
"""The gate waits for days, so it never stops asking the API."""


class WorkerPhase(Enum):
    UNKNOWN = auto()
    """The API does not answer."""
    ABSENT = auto()
    """The Job does not exist, but may be about to be created."""
    REMOVED = auto()
    """The Job has not existed for so long that nobody is about to create it."""
    SUSPENDED = auto()
    RUNNING = auto()
    COMPLETE = auto()
    FAILED = auto()


class WorkerState(NamedTuple):
    """What the gate knows about the Job."""

    job: str
    phase: WorkerPhase
    cause: Cause | None = None
    """Why the Job has failed."""
    is_deleted: bool = False
    """Whether the Job has been deleted since it ended."""

    def __str__(self) -> str:
        sentence = _SENTENCES[self.phase].format(job=f"Job {self.job}", cause=self.cause)
        return f"{sentence} and has been deleted" if self.is_deleted else sentence


_SENTENCES = {
    WorkerPhase.UNKNOWN: "the state of {job} is unknown",
    WorkerPhase.ABSENT: "{job} does not exist (yet)",
    WorkerPhase.REMOVED: "{job} does not exist any more",
    WorkerPhase.SUSPENDED: "{job} is suspended",
    WorkerPhase.RUNNING: "{job} is running",
    WorkerPhase.COMPLETE: "{job} is complete",
    WorkerPhase.FAILED: "{job} has failed ({cause})",
}


STORE_ALONE = "only the store is watched, and it cannot tell a failed chunk from one that will still come"
"""What follows for the worker Job where the gate may not read it."""


class WorkerWatch:
    """What is known about the worker Job, or about a top-up. No fault of the API is raised: the gate waits them out."""

    def __init__(self, settings: GateSettings, *, job: str = "", without_access: str = STORE_ALONE) -> None:
        """Watch the Job of that name, by default the worker Job. `without_access` says what follows where the gate may
        not read it.
        """
        self._settings = settings
        self._name = job or settings.worker_job
        self._without_access = without_access
        self._cluster: Cluster | None = None
        self._job: Job | None = None
        """The Job, also after it has ended and been deleted."""
        self._is_deleted = False
        self._absent_since = math.inf
        """When the API first said that the Job does not exist, as time.monotonic() gives it. Infinite where it exists,
        and while the API does not answer."""
        self._look: object = None
        """The part of the Job's object from which `_job` was made."""
        self._version = ""
        """The version of the Jobs from which to watch. Empty: list the Jobs first."""
        self._failures = 0
        self._is_silent = False
        """Whether the API does not answer."""
        self._denials: set[type[EmbedderError]] = set()
        """The kinds of denial that have been logged. Each is logged once."""

    @property
    def has_ended(self) -> bool:
        """Whether the Job is known to have ended, or has not existed for `absence_seconds`."""
        return (self._job is not None and self._job.end is not None) or self._is_removed

    @property
    def is_absent(self) -> bool:
        """Whether the Job is known not to exist."""
        return self._is_deleted and not self._is_silent

    @property
    def _is_removed(self) -> bool:
        return time.monotonic() - self._absent_since >= self._settings.absence_seconds

    @property
    def failed(self) -> frozenset[int]:
        """The chunks that the Job is known to have given up."""
        return self._job.failed if self._job is not None else frozenset()

    @property
    def completed(self) -> frozenset[int]:
        """The chunks that the Job is known to have completed."""
        return self._job.completed if self._job is not None else frozenset()

    @property
    def state(self) -> WorkerState:
        name, job = self._name, self._job
        if job is not None and job.end is not None:
            phase = WorkerPhase.FAILED if job.has_failed else WorkerPhase.COMPLETE
            return WorkerState(name, phase, job.cause, self._is_deleted)
        if self._is_silent:
            return WorkerState(name, WorkerPhase.UNKNOWN)
        if job is None:
            return WorkerState(name, WorkerPhase.REMOVED if self._is_removed else WorkerPhase.ABSENT)
        return WorkerState(name, WorkerPhase.SUSPENDED if job.suspended else WorkerPhase.RUNNING)

    def refresh(self) -> None:
        """Ask the API once for the state of the Job."""
        self._version = ""
        self._attempt(time.monotonic(), watch=False)

    def wait(self, seconds: float) -> None:
        """Return after that time, or as soon as the Job is created, fails a chunk, ends or is deleted."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._attempt(deadline, watch=True):
                return

    def _attempt(self, deadline: float, *, watch: bool) -> bool:
        """List or watch the Job, and return whether there is news. After a fault, wait until the deadline at most."""
        try:
            if self._cluster is None:
                # This class waits out faults, and logs them.
                self._cluster = connect(namespace=self._settings.pod_namespace, retry=ONCE)
            if not self._version:
                found, version = self._cluster.job(self._name)
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
            if type(error) not in self._denials:
                self._denials.add(type(error))
                log.warning("api_denied", message=f"{error}; {self._without_access}")
            self._pause(deadline)
        return False

    def _follow(self, cluster: Cluster, deadline: float) -> bool:
        seconds = max(1.0, deadline - time.monotonic())
        events = cluster.watch_job(self._name, resource_version=self._version, seconds=seconds)
        try:
            for kind, found in events:
                self._version = str((found.get("metadata") or {}).get("resourceVersion") or "")
                self._failures = 0
                if kind != "BOOKMARK" and self._take(found, is_deleted=kind == "DELETED"):
                    return True
        except ClusterUnavailable:
            # Watches break off now and then. The next one continues from here, unless it fails too.
            if self._failures:
                raise
            self._failures = 1
        # A watch that ended early is no fault, but the next one need not follow at once.
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
        return False

    def _take(self, found: Object | None, *, is_deleted: bool = False) -> bool:
        """Take the Job's object, None where it does not exist, and return whether that is news.

        A Job that has ended is kept when it is deleted: its time to live may be over before anybody looks.
        """
        before = _milestones(self._job)
        # A Job of 100,000 chunks changes every second, and what it has completed matters only at its end.
        look = None if found is None else _look(found)
        if found is not None and look != self._look:
            self._job = job_from(found)
        self._look = look
        self._is_deleted = found is None or is_deleted
        if self._is_deleted:
            self._look = None
            if self._job is not None and self._job.end is None:
                self._job = None
            if self._job is None:
                self._absent_since = min(self._absent_since, time.monotonic())
        if self._job is not None:
            self._absent_since = math.inf
        return before != _milestones(self._job)

    def _recovered(self) -> None:
        if self._is_silent:
            log.info("api_available", message=f"Job {self._name} is watched")
        self._failures, self._is_silent = 0, False

    def _pause(self, deadline: float) -> None:
        self._failures += 1
        # A Job may be created while the API does not answer.
        self._version, self._is_silent, self._absent_since = "", True, math.inf
        pause = API_RETRY.pause_seconds(self._failures)
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))


def _look(found: Object) -> object:
    """Return the part of a Job's object that changes rarely, and that matters before the Job ends."""
    status = found.get("status") or {}
    conditions = [(each.get("type"), each.get("status")) for each in status.get("conditions") or []]
    spec = found["spec"]
    return found["metadata"].get("uid"), conditions, status.get("failedIndexes"), spec.get("suspend"), spec["template"]


def _milestones(job: Job | None) -> tuple[JobEnd | None, frozenset[int]] | None:
    return None if job is None else (job.end, job.failed)
