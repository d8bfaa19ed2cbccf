"""Programs under limits: a disk, a cgroup, or those of the process, given by what the program is started with."""

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
"""Far more than any of these programs takes."""


def run(program: Sequence[str], environment: Mapping[str, str], *, prefix: Sequence[str] = ()) -> Ended:
    """Run a Python program to its end, started by `prefix`; 137 for SIGKILL, as for a container."""
    done = subprocess.run(
        [*prefix, sys.executable, "-P", *program],
        env=os.environ | dict(environment),
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Ended(done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stderr)
