"""How a program hears that it is to stop: SIGTERM, which ends a pod, and SIGINT.

The main thread hears it as an exception, wherever it is. That may come to nothing: native code holds the thread up (a
resolver, a file system that hangs), a library swallows what is raised in a callback, or what is cleared up waits for a
store that does not answer. So a second thread listens too, and ends the process where the first has not in time.
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
"""For whatever a program has to clear up once it is told to stop. With the last word it stays below the 10 s that
container engines leave at the least; Kubernetes leaves 30."""

LAST_WORD_SECONDS = 1
"""For the log to take the last word of a process that is ended by force."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Told:
    """What this process has been told."""

    by: Stopped | None = None


def install_stop_handlers() -> None:
    """Make SIGTERM and SIGINT raise Stopped in the main thread, once; a second signal ends the process at once."""
    for each in _SIGNALS:
        signal.signal(each, _stop)


def ignore_stops() -> None:
    """Let no further signal change anything. Raises Stopped where one has come before, though it may have got lost."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if _Told.by is not None:
        raise _Told.by


def end_by_force_if_late(last_word: Callable[[Stopped], object]) -> None:
    """Watch for a signal, and CLEAR_UP_SECONDS after it call `last_word` and end the process, if it is still there."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A child process that is forked has its own handlers and must not speak for its parent.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1) and None)
    threading.Thread(target=_watch, args=(reader, last_word), name="stop", daemon=True).start()


def _stop(number: int, _: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, _exit_at_once)
    _Told.by = _stopped(number, "nothing is half-written")
    raise _Told.by


def _exit_at_once(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def _stopped(number: int, message: str) -> Stopped:
    code = ExitCode.STOPPED if number == signal.SIGTERM else ExitCode.INTERRUPTED
    return Stopped(f"stopped by {signal.Signals(number).name}; {message}", exit_code=code)


def _watch(reader: int, last_word: Callable[[Stopped], object]) -> None:
    # The interpreter writes the signal's number here at once, whatever the main thread does.
    while (number := os.read(reader, 1)[0]) not in _SIGNALS:
        pass
    time.sleep(CLEAR_UP_SECONDS)
    stopped = _stopped(
        number, f"what was under way did not end within {CLEAR_UP_SECONDS} s and was left; nothing is half-written"
    )
    speaking = threading.Thread(target=last_word, args=(stopped,), daemon=True)
    speaking.start()
    speaking.join(LAST_WORD_SECONDS)
    os._exit(stopped.exit_code)
