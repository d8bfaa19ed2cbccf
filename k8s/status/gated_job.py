"""What a Job does that begins with the gate: the merge of a run, or its index."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from k8s.release.cause import Cause
    from k8s.release.pod import PodEnd


class GatedPhase(Enum):
    WITHOUT_JOB = auto()
    WITHOUT_POD = auto()
    STUCK = auto()
    """The pod cannot start, or will soon stop."""
    STARTING = auto()
    WAITING = auto()
    """The gate waits: for chunks, or in an index for the merge."""
    WORKING = auto()
    """The merger merges, or the indexer builds."""
    COMPLETE = auto()
    FAILED = auto()


class GatedJob(NamedTuple):
    phase: GatedPhase
    end: PodEnd | None = None
    """How the last pod has ended, or its gate."""
    cause: Cause | None = None
    """Why the Job has failed, or why the pod is stuck."""
    last_line: str = ""
    """The last line of the log of the gate, the merger or the indexer that runs."""
