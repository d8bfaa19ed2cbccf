"""python -m results.index: builds the index beside the result of a finished run."""

from __future__ import annotations

from common.process import program


def main() -> program.Finished:
    # Imported here, after `program.run` has installed the signal handlers: process 1 of a container ignores a signal
    # that has no handler, so a stop during these imports would be lost.
    from results.index.command import run_index  # noqa: PLC0415

    return run_index()


if __name__ == "__main__":
    program.run(main)
