"""How a program starts and ends: the signals it obeys, its exit code, and its last word."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from common.errors import EmbedderError, ExitCode, Stopped
from common.exit_policy import BUG
from common.logs import configure_logs, log, printable, redact_urls
from common.process import stop
from common.process.ignored_errors import log_ignored_errors
from common.process.last_word import LastWord
from common.process.limits import keep_memory
from common.process.resources import exhausted

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Mapping

    from common.errors import ResourceExhausted


_LAST_WORD_BYTES = 4 << 20
"""Memory in bytes that is kept for the last word of a program that runs out of memory."""


@dataclass(frozen=True)
class Finished:
    """The result of a program that has done its work."""

    message: str
    """One sentence."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers for other programs; see LastWord."""


class _Running:
    """The program that runs in this process."""

    log_progress: Callable[[], object] | None = None
    kept_memory: mmap.mmap | None = None
    last_word = threading.Lock()
    """Held by the thread that writes the last word and ends the process."""


def on_stop(log_progress: Callable[[], object]) -> None:
    """Let `log_progress` be called before the last word when a signal stops the program."""
    _Running.log_progress = log_progress


def run(program: Callable[[], Finished], *, on_early_stop: Callable[[], object] | None = None) -> NoReturn:
    """Call `program`, write its last word, and end the process with the right exit code.

    A stop calls `on_early_stop` until the program calls `on_stop`.

    The process ends with os._exit after a flush: other threads may stay inside a native decoder or a socket for longer
    than the grace period of a pod.
    """
    _Running.log_progress = on_early_stop
    _exit(_end(program))


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk, or a pipe without a reader
            stream.flush()
    os._exit(code)


def _end(program: Callable[[], Finished]) -> int:
    """Call `program`, write its last word, and return its exit code.

    A program that a signal stops ends as stopped, whatever it returns or raises.
    """
    try:
        word, code = _outcome(program)
    except Stopped as stopped:
        _Running.last_word.acquire(blocking=False)
        return _say_stopped(stopped)
    _Running.last_word.acquire()  # if a thread has it, that thread ends the process
    word.say(exit_code=code)
    return code


def _free_kept_memory() -> None:
    if _Running.kept_memory is not None:
        _Running.kept_memory.close()


def _end_for_lack(lacking: ResourceExhausted) -> None:
    """End the process from a thread that dies for lack of a resource, unless it ends already."""
    if _Running.last_word.acquire(blocking=False):
        _free_kept_memory()
        word, code = _failure(lacking)
        word.say(exit_code=code)
        _exit(code)


def _outcome(program: Callable[[], Finished]) -> tuple[LastWord, int]:
    configure_logs()
    log_ignored_errors(end=_end_for_lack)
    stop.install_stop_handlers()
    try:
        _Running.kept_memory = keep_memory(_LAST_WORD_BYTES)
        stop.end_by_force_if_late(_say_stopped)
        finished = program()
    except Exception as error:  # noqa: BLE001 - the border of the program
        _free_kept_memory()
        # The error may hide a signal: Python turns an exception within __set_name__ (during an import) into another.
        stop.ignore_stops()
        return _failure(error)
    stop.ignore_stops()
    return LastWord(event="finished", message=finished.message, counts=finished.counts), ExitCode.OK


def _failure(error: Exception) -> tuple[LastWord, int]:
    foreseen = error if isinstance(error, EmbedderError) else exhausted(error)
    if foreseen is not None:
        word = LastWord(event="failed", message=str(foreseen), error=type(foreseen).__name__, counts=foreseen.counts)
        return word, foreseen.exit_code
    with suppress(OSError):
        trace = redact_urls("".join(traceback.format_exception(error)))
        sys.stderr.write("".join(f"{printable(line)}\n" for line in trace.split("\n")))
    return LastWord(event="failed", message=f"a bug in the embedder: {type(error).__name__}: {error}"), BUG


def _say_stopped(stopped: Stopped) -> int:
    if _Running.log_progress is not None:
        try:
            _Running.log_progress()
        except Exception as error:  # noqa: BLE001 - the exit code matters more than the progress
            log.warning("no_progress", error=f"{type(error).__name__}: {error}")
    LastWord(event="stopped", message=str(stopped)).say(exit_code=stopped.exit_code)
    return stopped.exit_code
