"""Starts programs under limits: a small disk, a cgroup, or limits of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.worker.worker_process import Ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WORKER, MERGER = ["-m", "worker"], ["-m", "merger"]
EMBEDDER = ["-c", "from embedder.cli import main; main()"]

SECONDS = 240
"""Longest time that a test waits for a program, in seconds: far more than any of these programs takes."""


def run(program: Sequence[str], environment: Mapping[str, str], *, prefix: Sequence[str] = ()) -> Ended:
    """Run a Python program to its end, started by the command `prefix`.

    A program that a signal ends has the exit code of a container, for example 137 for SIGKILL.
    """
    done = subprocess.run(
        [*prefix, sys.executable, "-P", *program],
        env=os.environ | dict(environment),
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Ended(done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stderr)
