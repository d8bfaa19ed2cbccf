"""python -m merger: merges the run's chunks into Images_Embedded.h5."""

from __future__ import annotations

from common.logs import log
from common.process import program


def main() -> program.Finished:
    # Imported here, after `program.run` has installed the signal handlers: process 1 of a container ignores a signal
    # that has no handler, so a stop during these imports would be lost.
    from merger.command import run_merger  # noqa: PLC0415

    return run_merger()


def _say_nothing_merged() -> None:
    log.info("merging", step="starting", parts_done=0, of="unknown")


if __name__ == "__main__":
    program.run(main, on_early_stop=_say_nothing_merged)
