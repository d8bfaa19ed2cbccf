"""Run a command that cannot outlive its parent: `python leash.py PARENT_PID COMMAND …`.

Workers run in sessions of their own, so that a terminal's Ctrl-C reaches `embedder run` alone; when that is killed
with SIGKILL, nothing would end them. Linux can promise it: the kernel kills a process whose parent has died. The
promise is made here, in the child itself right before it becomes the command, because code between fork and exec of
a process with threads is not safe. Elsewhere the command runs without it, ends its chunk and exits.
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
        if os.getppid() != int(parent):  # it died before the promise was made
            sys.exit(128 + signal.SIGKILL)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
