"""Runs a command that cannot outlive its parent: `python leash.py PARENT_PID COMMAND …`.

Workers run in sessions of their own, so the Ctrl-C of a terminal reaches only `embedder run`. When `embedder run` is
killed with SIGKILL, it cannot stop its workers. On Linux the kernel does so, if a process asks for it: prctl with
PR_SET_PDEATHSIG. This program asks and then becomes the command, because code that runs between fork and exec of a
process with threads is not safe. On other systems the worker completes its chunk and exits.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != int(parent):  # the parent died before the call of prctl
            sys.exit(128 + signal.SIGKILL)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
