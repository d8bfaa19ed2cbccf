"""What `embedder status` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.errors import EmbedderError
    from k8s.status.chunks import Chunks
    from k8s.status.gated_job import GatedJob
    from k8s.status.images import Images
    from k8s.status.slow_sites import SlowSite
    from k8s.status.spending import Spending
    from k8s.status.top_ups import TopUp
    from k8s.status.troubles import FailedChunks, PendingPods, RejectingNode


@dataclass(frozen=True)
class LogsUnread:
    """The logs of some pods could not be read."""

    count: int
    error: EmbedderError
    """The first error."""


@dataclass(frozen=True)
class EventsUnread:
    """The events of a Job could not be read."""

    error: EmbedderError


@dataclass(frozen=True)
class PodsUnread:
    """Some pods that have ended were not read, because the release has very many."""

    read: int
    unread: int


@dataclass(frozen=True)
class WorkerGone:
    """The worker Job no longer exists."""

    job: str
    has_looked_into_store: bool
    """Whether the store was asked for its chunks."""


Note = LogsUnread | EventsUnread | PodsUnread | WorkerGone
"""What the status lacks, because it could not be read."""


@dataclass(frozen=True, kw_only=True)
class Status:
    release: str
    namespace: str
    run_uri: str
    """The address of the run, without secrets."""
    chunks: Chunks
    images: Images
    spending: Spending
    retries: int
    pending: list[PendingPods]
    failures: list[FailedChunks]
    nodes: list[RejectingNode]
    slow_sites: list[SlowSite]
    """The sites that serve slowly, by the logs of the workers that run."""
    top_ups: list[TopUp]
    """The top-ups that go on, and the last one, oldest first."""
    may_pass: dict[str, int]
    """Number of failed images by reason, for reasons that may pass, as summary.json has them. Empty where the store was
    not looked into, or the run is not finished."""
    merge: GatedJob
    index: GatedJob | None
    """None where the release has no index Job."""
    is_finished: bool
    """Whether the merge is complete."""
    has_ended: bool
    """Whether nothing more happens without a person."""
    next: list[str]
    """Commands to run next."""
    notes: list[Note]
