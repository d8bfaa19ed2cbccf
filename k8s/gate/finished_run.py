"""The wait for a finished run, in the gate of the Job that builds the index.

The store says whether the run is finished. The Kubernetes API says whether the merge has ended: until then it may
replace a result that is there.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from common.errors import ResultMissing, SettingsError, StoreAccessDenied, TemporaryError
from common.logs import log
from common.retry import RetryPolicy
from common.run.state import find_finished
from k8s.gate.watch import WorkerPhase, WorkerWatch

if TYPE_CHECKING:
    from common.run.state import FinishedRun
    from common.store.contract import Store
    from k8s.gate.settings import GateSettings
    from k8s.gate.watch import WorkerState

STORE_ALONE = "only the store is watched, and the index is built of the result that is there"
"""What follows for the merge Job where the gate may not read it."""


class FinishedRunGate:
    """Waits until the merge Job has ended and the run is finished.

    Where the API does not answer, a finished run is enough. After a top-up it is not, because the run was finished
    before: the gate then waits until the API answers.

    Raises SettingsError when the settings name no merge Job.
    """

    def __init__(self, settings: GateSettings, store: Store) -> None:
        job = settings.merge_job
        if not job:
            raise SettingsError("EMBEDDER_MERGE_JOB is not set; it is the merge Job that the index follows")
        self._settings, self._store = settings, store
        self._follows_top_up = bool(settings.top_up_job)
        needs_api = f"the index waits until this pod may get, list and watch Job {job} (rbac.create)"
        self._watch = WorkerWatch(settings, job=job, without_access=needs_api if self._follows_top_up else STORE_ALONE)
        self._store_retry = RetryPolicy(first_pause_seconds=1, longest_pause_seconds=settings.poll_seconds)
        self._store_failures = 0
        self._has_answered = False
        self._ended_at = math.inf
        """When the gate first saw that the merge Job had ended."""
        self._said: WorkerState | None = None
        self._said_at = 0.0

    def wait(self) -> FinishedRun:
        """Return the finished run.

        Raises ResultMissing when the merge Job has ended and the run is not finished, and StoreAccessDenied when the
        store refuses the first request.
        """
        self._watch.refresh()
        while True:
            # The end of the merge is read before the store, so that the store has what the merge has written.
            state, has_ended = self._watch.state, self._watch.has_ended
            self._ended_at = min(self._ended_at, time.monotonic()) if has_ended else math.inf
            is_settled = self._is_settled()
            try:
                finished = find_finished(self._store)
            except (TemporaryError, StoreAccessDenied) as error:
                # A refusal of the first request is a wrong setting. Later, credentials may be about to be renewed.
                if isinstance(error, StoreAccessDenied) and not self._has_answered:
                    raise
                self._store_failures += 1
                log.warning("store_unavailable", message=str(error))
                self._watch.wait(self._store_retry.pause_seconds(self._store_failures))
                continue
            self._has_answered, self._store_failures = True, 0
            is_alone = state.phase is WorkerPhase.UNKNOWN and not self._follows_top_up
            if finished is not None and (is_settled or is_alone):
                return finished
            if is_settled:
                raise ResultMissing(f"{state}, and the run is not finished; {self._advice()}")
            if has_ended:
                # The watch has no more news.
                time.sleep(min(self._settings.poll_seconds, self._settings.settle_seconds))
                continue
            self._say(state)
            self._watch.wait(self._settings.poll_seconds)

    def _is_settled(self) -> bool:
        """Return whether the merge has ended, and the store shows what it wrote before.

        A shared folder may need a minute to show it on other nodes.
        """
        is_folder = not self._settings.run_uri.startswith("s3://")
        return time.monotonic() - self._ended_at >= (self._settings.settle_seconds if is_folder else 0)

    def _advice(self) -> str:
        settings = self._settings
        namespace = f" -n {settings.pod_namespace}" if settings.pod_namespace else ""
        return (
            f"see embedder status --release {settings.release}{namespace}, merge again, and delete this Job, so that "
            "helm upgrade with the same values creates it again"
        )

    def _say(self, state: WorkerState) -> None:
        """Log what the gate waits for, when it has changed or was last logged long ago."""
        now = time.monotonic()
        if state != self._said or now - self._said_at >= self._settings.reminder_seconds:
            self._said, self._said_at = state, now
            log.info("waiting", message=f"{state}; the index follows when the merge has ended")
