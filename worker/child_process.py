"""What holds for every process that a worker starts: it ends with the worker, and its environment has no secret."""

from __future__ import annotations

import ctypes
import os
import signal

from common.certificates import CERTIFICATE_VARIABLES

_KEPT_NAMES = {"PATH", "HOME", "LANG", "TMPDIR", *CERTIFICATE_VARIABLES}
_KEPT_PREFIXES = ("LC_", "LD_", "PYTHON", "OPENBLAS_", "OMP_", "MKL_")
"""Names, and first letters of names, of the environment variables that such a process gets."""

_PR_SET_PDEATHSIG = 1
"""Number of the prctl option by which a process ends with its parent, from Linux's prctl.h."""


def clean_environment() -> dict[str, str]:
    """Return the part of this process's environment that contains no secret."""
    return {name: value for name, value in os.environ.items() if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)}


def die_with_parent(parent: int) -> None:
    """End this process when the thread that started it ends, or now if process `parent` has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(os.EX_OK)
