"""python -m worker: embeds one chunk. docs/settings.md lists its settings, docs/exit-codes.md its exit codes."""

from __future__ import annotations

from common.logs import CHUNK_PROGRESS, log
from common.process import program


def main() -> program.Finished:
    # Imported here, after `program.run` has installed the signal handlers: process 1 of a container ignores a signal
    # that has no handler, so a stop during these imports would be lost.
    from worker.chunk_job.command import run_worker  # noqa: PLC0415

    return run_worker()


def _say_nothing_embedded() -> None:
    log.info(CHUNK_PROGRESS, images=0, of="unknown")


if __name__ == "__main__":
    program.run(main, on_early_stop=_say_nothing_embedded)
