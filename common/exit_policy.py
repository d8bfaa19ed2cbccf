"""What a Job does about a pod's exit code: the chart's podFailurePolicy, as `embedder run` plays it."""

from __future__ import annotations

import random
import signal
from enum import Enum, auto

from common.errors import ExitCode


class Action(Enum):
    SUCCEED = auto()
    FAIL_INDEX = auto()
    """This index cannot succeed; the others go on."""
    FAIL_JOB = auto()
    """Every index would end so; the whole Job ends."""
    RETRY = auto()
    """It may pass: again, within the limit per index."""


def action_for(exit_code: int) -> Action:
    """Return what follows from an exit code. What stands in no rule (1, 137, 143, …) is retried, as Kubernetes does."""
    return _RULES.get(exit_code, Action.RETRY)


_RULES: dict[int, Action] = {
    ExitCode.OK: Action.SUCCEED,
    ExitCode.DATA_ERROR: Action.FAIL_INDEX,
    ExitCode.CONFIG_ERROR: Action.FAIL_JOB,
}


def container_exit_code(return_code: int) -> int:
    """Return a process's return code as a container runtime reports it: -9, killed by SIGKILL, is 137."""
    return return_code if return_code >= 0 else 128 - return_code


def explain_exit_code(exit_code: int) -> str:
    """Return in a few words what an exit code says of a program that left no last word."""
    if exit_code > 128:
        try:
            name = signal.Signals(exit_code - 128).name
        except ValueError:
            name = f"signal {exit_code - 128}"
        return f"killed by {name}" + (" (out of memory, or by hand)" if name == "SIGKILL" else "")
    return f"ended with exit code {exit_code} and without a last word"


def backoff_seconds(failures: int, *, first: float, limit: float = 60) -> float:
    """Return the wait after the given number of failures: `first`, doubled each time up to `limit`, less up to half.

    The jitter keeps workers that one fault felled together from coming back together.
    """
    doubled = first * 2.0 ** min(failures - 1, 30)
    return min(limit, doubled) * random.uniform(0.5, 1)
