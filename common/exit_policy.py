"""What follows from a pod's exit code: the rules of the chart's podFailurePolicy, which `embedder run` follows too."""

from __future__ import annotations

import signal
from enum import Enum, auto

from common.errors import ExitCode

BUG = 1
"""The exit code of a program that ended by an error that nobody has foreseen. No rule of the Job names it, so
Kubernetes retries within the backoff limit."""

UNCOUNTED_FAILURES = 10
"""Number of pods of one index that may end without a cost: stopped by SIGTERM (143), evicted or preempted. A later pod
that is stopped ends with 75 instead, which costs a retry. An eviction still costs none, whatever the exit code."""

UNCOUNTED_FAILURES_VARIABLE = "EMBEDDER_UNCOUNTED_FAILURES"


class Action(Enum):
    SUCCEED = auto()
    FAIL_INDEX = auto()
    """This index cannot succeed. The others continue."""
    FAIL_JOB = auto()
    """Every index would end alike, so the whole Job ends."""
    RETRY = auto()
    """The fault may pass: the index is tried again, within its limit of retries."""


def action_for(exit_code: int) -> Action:
    """Return what follows from an exit code. A code without a rule (1, 137, …) is retried, as in Kubernetes.

    In a cluster, a retry after 143 costs nothing; see UNCOUNTED_FAILURES.
    """
    return _RULES.get(exit_code, Action.RETRY)


_RULES: dict[int, Action] = {
    ExitCode.OK: Action.SUCCEED,
    ExitCode.DATA_ERROR: Action.FAIL_INDEX,
    ExitCode.CONFIG_ERROR: Action.FAIL_JOB,
}


def container_exit_code(return_code: int) -> int:
    """Return the exit code that a container runtime reports for a return code: 137 for -9, a kill by SIGKILL."""
    return return_code if return_code >= 0 else 128 - return_code


def explain_exit_code(exit_code: int) -> str:
    """Return what an exit code says about a program that left no last word, in a few words for people."""
    if exit_code > 128:
        try:
            name = signal.Signals(exit_code - 128).name
        except ValueError:
            name = f"signal {exit_code - 128}"
        return f"killed by {name}" + (" (out of memory, or by hand)" if name == "SIGKILL" else "")
    return f"ended with exit code {exit_code} and without a last word"
