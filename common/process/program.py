"""How a program begins and ends: the signals it listens to, its exit code, and its last word."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from common.errors import EmbedderError, ExitCode, Stopped
from common.logs import configure_logs, log, printable, redact_urls
from common.process import stop
from common.process.last_word import LastWord
from common.process.resources import exhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Finished:
    """What a program says when it has done its work."""

    message: str
    """One sentence."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers for other programs; see LastWord."""


class _Running:
    """The program of this process."""

    log_progress: Callable[[], object] | None = None


def on_stop(log_progress: Callable[[], object]) -> None:
    """Have `log_progress` called before the last word when a signal stops the program."""
    _Running.log_progress = log_progress


def run(program: Callable[[], Finished], *, on_early_stop: Callable[[], object] | None = None) -> NoReturn:
    """Call `program`, say its last word, and end the process with the right exit code.

    `on_early_stop` is called on a stop until the program calls `on_stop`.

    The process ends by os._exit once everything is flushed: a thread may be inside a native decoder or a socket for
    longer than the grace period of a pod.
    """
    _Running.log_progress = on_early_stop
    code = end(program)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk, or a pipe without a reader
            stream.flush()
    os._exit(code)


def end(program: Callable[[], Finished]) -> int:
    """Call `program`, say its last word, and return its exit code.

    A program that a signal has stopped ends as stopped, whatever it returns or raises.
    """
    try:
        word, code = _outcome(program)
    except Stopped as stopped:
        return _say_stopped(stopped)
    word.say(exit_code=code)
    return code


def _outcome(program: Callable[[], Finished]) -> tuple[LastWord, int]:
    configure_logs()
    stop.install_stop_handlers()
    try:
        stop.end_by_force_if_late(_say_stopped)
        finished = program()
    except Exception as error:  # noqa: BLE001 - the border of the program
        # Python turns what a signal raises within __set_name__, as while an enum is imported, into a RuntimeError.
        stop.ignore_stops()
        return _failure(error)
    stop.ignore_stops()
    return LastWord(event="finished", message=finished.message, counts=finished.counts), ExitCode.OK


def _failure(error: Exception) -> tuple[LastWord, int]:
    foreseen = error if isinstance(error, EmbedderError) else exhausted(error)
    if foreseen is not None:
        return LastWord(event="failed", message=str(foreseen)), foreseen.exit_code
    with suppress(OSError):
        trace = redact_urls("".join(traceback.format_exception(error)))
        sys.stderr.write("".join(f"{printable(line)}\n" for line in trace.split("\n")))
    # Exit code 1 stands in no rule of the Job, so Kubernetes retries within the backoff limit.
    return LastWord(event="failed", message=f"a bug in the embedder: {type(error).__name__}: {error}"), 1


def _say_stopped(stopped: Stopped) -> int:
    if _Running.log_progress is not None:
        try:
            _Running.log_progress()
        except Exception as error:  # noqa: BLE001 - the exit code matters more than the progress
            log.warning("no_progress", error=f"{type(error).__name__}: {error}")
    LastWord(event="stopped", message=str(stopped)).say(exit_code=int(stopped.exit_code))
    return int(stopped.exit_code)
