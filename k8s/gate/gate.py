"""The gate: waits until a run can be merged.

The store says which chunks exist. The Kubernetes API, where the gate may ask it, says whether more will come. The gate
waits out temporary faults of both.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import ChunksMissing, StoreAccessDenied, TemporaryError
from common.indexes import brief_indexes, format_indexes
from common.logs import log
from common.retry import RetryPolicy
from common.run.state import find_missing

if TYPE_CHECKING:
    from common.store.contract import Store
    from k8s.gate.settings import GateSettings
    from k8s.gate.watch import WorkerState, WorkerWatch

LISTED_RANGES = 50
"""Largest number of ranges of chunks in a suggested command. Above it the command has no `--chunks`, and so reruns all
failed chunks."""


@dataclass(frozen=True)
class AllChunksPresent:
    """All chunks of the run can be merged."""

    count: int


@dataclass(frozen=True)
class MergeWithout:
    """The worker Job has ended, and the chunks that exist are to be merged without those that do not."""

    missing: frozenset[int]
    count: int
    """Number of chunks of the run, the missing ones included."""


@dataclass(frozen=True)
class Waiting:
    """What the gate waits for, as it saw the run last."""

    in_store: int
    """Number of chunks in the store."""
    given_up: int
    """Number of missing chunks that nothing computes any more. They come only after a person has acted."""


Opening = AllChunksPresent | MergeWithout
"""Why the gate has opened."""


class Gate:
    def __init__(self, settings: GateSettings, store: Store, watch: WorkerWatch) -> None:
        self._settings, self._store, self._watch = settings, store, watch
        # A store that fails is not asked less often than one that answers.
        self._store_retry = RetryPolicy(first_pause_seconds=1, longest_pause_seconds=settings.poll_seconds)
        self._store_failures = 0
        self._has_listed = False
        self._ended_at = math.inf
        """When the gate first saw that the Job had ended."""
        self._said: tuple[WorkerState, frozenset[int]] | None = None
        """What the last log line was about: the worker Job, and the chunks that nothing computes any more."""
        self._said_at = 0.0
        self.waiting: Waiting | None = None
        """What the gate waits for; None until the store has answered."""

    def wait(self) -> Opening:
        """Return once the run can be merged.

        Raises ChunksMissing when it can never be merged (onFailedChunks is fail, or partial and no chunk exists), and
        StoreAccessDenied when the store refuses the first request.
        """
        self._watch.refresh()
        while True:
            # The end of the Job is read before the list, so that the list has every chunk from before the end.
            has_ended = self._watch.has_ended
            self._ended_at = min(self._ended_at, time.monotonic()) if has_ended else math.inf
            missing = self._missing()
            if missing is None:
                self._watch.wait(self._store_retry.pause_seconds(self._store_failures))
                continue
            if not missing:
                return AllChunksPresent(self._settings.chunk_count)
            is_settled = has_ended and not self._may_still_appear(missing)
            if is_settled and self._settings.on_failed_chunks != "wait":
                return self._merge_without(missing)
            given_up = missing if is_settled else missing & self._watch.failed
            self.waiting = Waiting(self._settings.chunk_count - len(missing), len(given_up))
            self._say(missing, given_up)
            self._watch.wait(self._settings.poll_seconds)

    def _missing(self) -> frozenset[int] | None:
        """Return the chunks that are missing, None where the store does not answer."""
        try:
            missing = find_missing(self._store, self._settings.chunk_count)
        except (TemporaryError, StoreAccessDenied) as error:
            # A refusal of the first request is a wrong setting. Later, credentials may be about to be renewed.
            if isinstance(error, StoreAccessDenied) and not self._has_listed:
                raise
            self._store_failures += 1
            log.warning("store_unavailable", message=str(error))
            return None
        self._has_listed, self._store_failures = True, 0
        return frozenset(missing)

    def _may_still_appear(self, missing: frozenset[int]) -> bool:
        """Return whether the Job ended a moment ago and completed some of the chunks."""
        is_recent = time.monotonic() - self._ended_at < self._settings.settle_seconds
        return is_recent and bool(missing & self._watch.completed)

    def _merge_without(self, missing: frozenset[int]) -> MergeWithout:
        """Return the opening where onFailedChunks is partial and a chunk exists. Raises ChunksMissing otherwise."""
        count = self._settings.chunk_count
        if self._settings.on_failed_chunks == "partial" and len(missing) < count:
            return MergeWithout(missing, count)
        there = f"{count - len(missing)} of {count} chunks are there, missing are {brief_indexes(missing)}"
        raise ChunksMissing(
            f"{self._watch.state} and {'the chunk of the run is missing' if count == 1 else there}; "
            f"{self._advice(missing)}, then run the merge again"
        )

    def _say(self, missing: frozenset[int], given_up: frozenset[int]) -> None:
        """Log what the gate waits for, when it has changed or was last logged long ago.

        The chunks that are `given_up` come only after a person has acted.
        """
        count, state = self._settings.chunk_count, self._watch.state
        now = time.monotonic()
        if (state, given_up) == self._said and now - self._said_at < self._settings.reminder_seconds:
            return
        self._said, self._said_at = (state, given_up), now
        counts = {"in_store": count - len(missing), "of": count, "missing": brief_indexes(missing)}
        if given_up:
            log.warning("waiting", **counts, message=f"{state}; {self._advice(given_up)}")
        else:
            log.info("waiting", **counts, message=str(state))

    def _advice(self, chunks: frozenset[int]) -> str:
        settings = self._settings
        ranges = format_indexes(chunks).split(",")
        is_short = len(ranges) <= LISTED_RANGES
        namespace = f" -n {settings.pod_namespace}" if settings.pod_namespace else ""
        them = "it" if len(chunks) == 1 else "them"
        if self._watch.is_absent:  # a rerun by `embedder` is made from the worker Job
            escaped = "\\,".join(ranges)  # Helm reads a comma as the end of a value
            chosen = f' --set rerun.chunks="{escaped}"' if is_short else ""
            return f"to compute {them} again: helm upgrade {settings.release} <chart> --reuse-values{namespace}{chosen}"
        chosen = f" --chunks {','.join(ranges)}" if is_short else ""
        if chosen and chunks & self._watch.completed:  # these chunks existed and were deleted
            chosen += " --force"
        return f"to compute {them} again: embedder rerun --release {settings.release}{namespace}{chosen}"
