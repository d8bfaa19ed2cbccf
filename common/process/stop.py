"""How a program is told to stop: by SIGTERM, which Kubernetes sends to a pod, or by SIGINT.

The signal handler raises an exception in the main thread. That does not always end the program: native code may hold
the thread (a resolver, a file system that hangs), a library may swallow the exception in a callback, or the cleanup
may wait for a store that does not answer. So a second thread listens for the signal too. It ends the process when the
main thread has not ended it in time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from common.errors import ExitCode, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

CLEAR_UP_SECONDS = 7
"""The time in seconds that a program has to clean up after a signal.

Together with the last word it is less than the grace period of container engines, 10 s; that of Kubernetes is 30 s.
"""

LAST_WORD_SECONDS = 1
"""The time in seconds for writing the last word of a process that is ended by force."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Received:
    """The stop that this process has received, if any."""

    stopped: Stopped | None = None
    why_counted: str = ""
    """Why a stop by SIGTERM counts as a failure. Empty where it does not."""


def count_stops(why: str) -> None:
    """Let a stop by SIGTERM end the process with exit code 75, which Kubernetes counts as a failure, and say why."""
    _Received.why_counted = why


def install_stop_handlers() -> None:
    """Let SIGTERM and SIGINT raise Stopped in the main thread. A second signal ends the process at once."""
    for each in _SIGNALS:
        signal.signal(each, _stop)


def ignore_stops() -> None:
    """Ignore further signals. Raises Stopped when a signal came before, in case a library swallowed its exception."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if _Received.stopped is not None:
        raise _Received.stopped


def end_by_force_if_late(last_word: Callable[[Stopped], object]) -> None:
    """Watch for a signal. CLEAR_UP_SECONDS after it, call `last_word` and end the process if it still runs."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A signal to a forked child must not end its parent.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1) and None)
    threading.Thread(target=_watch, args=(reader, last_word), name="stop", daemon=True).start()


def _stop(number: int, _: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, _exit_at_once)
    _Received.stopped = _stopped(number, "nothing is half-written")
    raise _Received.stopped


def _exit_at_once(number: int, _: FrameType | None) -> None:
    os._exit(_exit_code(number))


def _exit_code(number: int) -> ExitCode:
    if number != signal.SIGTERM:
        return ExitCode.INTERRUPTED
    return ExitCode.TEMPORARY_FAILURE if _Received.why_counted else ExitCode.STOPPED


def _stopped(number: int, message: str) -> Stopped:
    code = _exit_code(number)
    why = f"; {_Received.why_counted}" if code is ExitCode.TEMPORARY_FAILURE else ""
    return Stopped(f"stopped by {signal.Signals(number).name}; {message}{why}", exit_code=code)


def _watch(reader: int, last_word: Callable[[Stopped], object]) -> None:
    # The interpreter writes the signal's number into the pipe at once, even while native code holds the main thread.
    while (number := os.read(reader, 1)[0]) not in _SIGNALS:
        pass
    time.sleep(CLEAR_UP_SECONDS)
    stopped = _stopped(
        number, f"the cleanup did not end within {CLEAR_UP_SECONDS} s and was left; nothing is half-written"
    )
    speaking = threading.Thread(target=last_word, args=(stopped,), daemon=True)
    speaking.start()
    speaking.join(LAST_WORD_SECONDS)
    os._exit(stopped.exit_code)
