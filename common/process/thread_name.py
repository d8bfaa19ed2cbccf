"""Names threads for the kernel, so that `top -H` and /proc show which thread does what."""

from __future__ import annotations

import ctypes

_PR_SET_NAME = 15
"""Number of the prctl option that names the calling thread, from Linux's prctl.h."""


def name_thread(name: str) -> None:
    """Give the calling thread a name, of which the kernel keeps 15 bytes. Python does so itself from 3.14 on."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_NAME, name.encode())
