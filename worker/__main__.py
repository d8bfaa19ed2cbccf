"""python -m worker: embeds one chunk. docs/settings.md lists its settings, docs/exit-codes.md its exit codes."""

from __future__ import annotations

import os

from common.exit_policy import UNCOUNTED_FAILURES, UNCOUNTED_FAILURES_VARIABLE
from common.logs import CHUNK_PROGRESS, log
from common.process import program, stop


def main() -> program.Finished:
    # Imported here, after `program.run` has installed the signal handlers: process 1 of a container ignores a signal
    # that has no handler, so a stop during these imports would be lost.
    from worker.chunk_job.command import run_worker  # noqa: PLC0415

    return run_worker()


def _say_nothing_embedded() -> None:
    log.info(CHUNK_PROGRESS, images=0, of="unknown")


def _limit_uncounted_stops() -> None:
    """Let this pod's stop count as a failure where too many pods of its index have failed without being counted.

    This is decided before the settings are read, so that it holds for a stop at any time.
    """
    earlier = os.environ.get(UNCOUNTED_FAILURES_VARIABLE, "")
    if earlier.isdecimal() and int(earlier) >= UNCOUNTED_FAILURES:
        stop.count_stops(f"{earlier} stops of this chunk's pods were not counted, and this one counts as a failure")


if __name__ == "__main__":
    _limit_uncounted_stops()
    program.run(main, on_early_stop=_say_nothing_embedded)
