"""The gate: waits until a run can be merged.

The store says which chunks are there; the API says, as far as it may be asked, whether more will come. Faults of
either that may pass are waited out.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from common.errors import ChunksMissing, StoreAccessDenied, TemporaryError
from common.exit_policy import backoff_seconds
from common.logs import log
from common.run.state import find_missing
from k8s.release import brief_indexes

if TYPE_CHECKING:
    from common.store.contract import Store
    from k8s.gate.settings import GateSettings
    from k8s.gate.watch import WorkerWatch

LISTED_RANGES = 50
"""Of missing chunks in a suggested command; `embedder rerun` finds the failed ones by itself too."""


class Gate:
    def __init__(self, settings: GateSettings, store: Store, watch: WorkerWatch) -> None:
        self._settings, self._store, self._watch = settings, store, watch
        self._store_failures = 0
        self._has_listed = False
        self._ended_at = math.inf
        """When the Job was first seen to have ended."""
        self._said = ""
        self._said_at = 0.0

    def wait(self) -> str:
        """Return once the run can be merged, with the sentence that says why.

        Raises ChunksMissing when it never will (onFailedChunks fail, or partial without any chunk), and
        StoreAccessDenied when the store refuses the first request.
        """
        self._watch.refresh()
        while True:
            # Before the list: a chunk that came between the two is then seen.
            has_ended = self._watch.has_ended
            self._ended_at = min(self._ended_at, time.monotonic()) if has_ended else math.inf
            missing = self._missing()
            if missing is None:
                self._watch.wait(backoff_seconds(self._store_failures, first=1, limit=self._settings.poll_seconds))
                continue
            if not missing:
                return f"all {self._settings.chunk_count} chunks are there"
            is_settled = has_ended and not self._may_still_appear(missing)
            if is_settled and (outcome := self._outcome(missing)):
                return outcome
            self._say(missing, missing if is_settled else missing & self._watch.failed)
            self._watch.wait(self._settings.poll_seconds)

    def _missing(self) -> set[int] | None:
        """Return the chunks that are missing, None where the store does not say."""
        try:
            missing = find_missing(self._store, self._settings.chunk_count)
        except (TemporaryError, StoreAccessDenied) as error:
            # Refused at first it is a wrong setting; later, rather credentials that are being renewed.
            if isinstance(error, StoreAccessDenied) and not self._has_listed:
                raise
            self._store_failures += 1
            log.warning("store_unavailable", message=str(error))
            return None
        self._has_listed, self._store_failures = True, 0
        return missing

    def _may_still_appear(self, missing: set[int]) -> bool:
        """Return whether the Job completed some of them, and ended a moment ago only."""
        is_recent = time.monotonic() - self._ended_at < self._settings.settle_seconds
        return is_recent and bool(missing & self._watch.completed)

    def _outcome(self, missing: set[int]) -> str:
        """Return what follows from the end of the worker Job, "" where it is to wait."""
        mode, count = self._settings.on_failed_chunks, self._settings.chunk_count
        there = f"{count - len(missing)} of {count} chunks are there"
        if mode == "wait":
            return ""
        if mode == "partial" and len(missing) < count:
            return f"{there}; these are merged without chunks {brief_indexes(missing)}"
        raise ChunksMissing(
            f"{self._watch.describe()} and {there}, missing are {brief_indexes(missing)}; {self._advice(missing)}, "
            "then run the merge again"
        )

    def _say(self, missing: set[int], given_up: set[int]) -> None:
        """Log what is waited for, when it has changed or was said long ago; nobody computes those given up."""
        count = self._settings.chunk_count
        about = f"{self._watch.describe()}; failed: {brief_indexes(given_up)}"
        now = time.monotonic()
        if about == self._said and now - self._said_at < self._settings.reminder_seconds:
            return
        self._said, self._said_at = about, now
        counts = {"in_store": count - len(missing), "of": count, "missing": brief_indexes(missing)}
        if given_up:
            log.warning("waiting", **counts, message=f"{self._watch.describe()}; {self._advice(given_up)}")
        else:
            log.info("waiting", **counts, message=self._watch.describe())

    def _advice(self, chunks: set[int]) -> str:
        settings = self._settings
        named = brief_indexes(chunks, ranges=LISTED_RANGES)
        chosen = "" if "…" in named else f" --chunks {named}"
        if chosen and chunks & self._watch.completed:  # they were there, and somebody deleted them
            chosen += " --force"
        namespace = f" -n {settings.pod_namespace}" if settings.pod_namespace else ""
        return f"to compute them again: embedder rerun --release {settings.release}{namespace}{chosen}"
