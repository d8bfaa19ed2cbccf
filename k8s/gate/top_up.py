"""The wait for the end of a top-up, in the gate of the merge that follows it.

The store cannot tell when a top-up has ended: the chunks are there before it, and a pod that finds no image to fetch
writes nothing. So the gate needs the Kubernetes API, and waits until it answers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from common.logs import log
from k8s.gate.watch import WorkerWatch

if TYPE_CHECKING:
    from k8s.gate.settings import GateSettings
    from k8s.gate.watch import WorkerState


def wait_for_top_up(settings: GateSettings) -> WorkerState:
    """Return how the top-up has ended: completed, failed, or absent for `absence_seconds`.

    What it has fetched before it failed is merged too.
    """
    job = settings.top_up_job
    watch = WorkerWatch(
        settings,
        job=job,
        without_access=f"the merge waits until this pod may get, list and watch Job {job} (rbac.create)",
    )
    watch.refresh()
    said: WorkerState | None = None
    said_at = 0.0
    while not watch.has_ended:
        now = time.monotonic()
        if watch.state != said or now - said_at >= settings.reminder_seconds:
            said, said_at = watch.state, now
            log.info("waiting", message=f"{said}; the merge follows when it has ended")
        watch.wait(settings.poll_seconds)
    log.info("top_up_ended", message=str(watch.state))
    if not settings.run_uri.startswith("s3://"):
        # A shared folder may need a minute to list a new file on other nodes, and nobody knows which chunks are new.
        time.sleep(settings.settle_seconds)
    return watch.state
