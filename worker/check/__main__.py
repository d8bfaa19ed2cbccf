"""python -m worker.check: tries what a worker needs, and ends with the exit code that the worker would end with.

It takes the settings of the worker. Each finding is one line of JSON on standard output (see common.findings), and one
line of the log. Nothing is left in the store.
"""

from __future__ import annotations

from common.process import program


def main() -> program.Finished:
    # Imported here, after `program.run` has installed the signal handlers; see worker.__main__.
    from worker.check.command import run_check  # noqa: PLC0415

    return run_check()


if __name__ == "__main__":
    program.run(main)
