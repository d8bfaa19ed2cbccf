"""How every program of the project starts and ends: signals, exit codes, the last word."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from common.errors import EmbedderError, ExitCode, Stopped
from common.logs import log, redact_urls
from common.resources import exhausted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

TERMINATION_LOG = Path("/dev/termination-log")
"""Where a kubelet picks up a container's last word; absent outside a pod."""

TERMINATION_LOG_BYTES = 4096
"""What a kubelet keeps of it."""


def run(program: Callable[[], str]) -> NoReturn:
    """Call `program`, log the sentence it returns as the last word, and end the process with the right exit code.

    Ends by os._exit once everything is flushed: a thread may sit in a native decoder or a socket for longer than the
    grace period of a pod.
    """
    install_stop_handlers()
    code = end(program)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk, or a pipe that nobody reads
            stream.flush()
    os._exit(code)


def end(program: Callable[[], str]) -> int:
    """Call `program` and return its exit code; the last word goes to the log and to the termination log."""
    try:
        message = program()
    except Stopped as stop:
        return _last_word("stopped", str(stop), stop.exit_code)
    except Exception as error:  # noqa: BLE001 - the border of the program
        foreseen = error if isinstance(error, EmbedderError) else exhausted(error)
        if foreseen is not None:
            return _last_word("failed", str(foreseen), foreseen.exit_code)
        # Exit code 1 stands in no policy, so Kubernetes retries within the backoff limit.
        with suppress(OSError):
            traceback.print_exception(error)
        return _last_word("failed", f"a bug in the embedder: {type(error).__name__}: {error}", 1)
    return _last_word("finished", message, ExitCode.OK)


def install_stop_handlers() -> None:
    """Make SIGTERM and SIGINT raise Stopped in the main thread, once; a second signal ends the process at once."""

    def stop(number: int, _: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, _exit_at_once)
        code = ExitCode.STOPPED if number == signal.SIGTERM else ExitCode.INTERRUPTED
        raise Stopped(f"stopped by {signal.Signals(number).name}; nothing is half-written", exit_code=code)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)


def _exit_at_once(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def _last_word(event: str, message: str, code: int) -> int:
    message = redact_urls(message)
    emit = log.info if code == ExitCode.OK else log.error
    emit(event, exit_code=int(code), message=message)
    if TERMINATION_LOG.exists():
        try:
            TERMINATION_LOG.write_bytes(f"{event}: {message}".encode()[:TERMINATION_LOG_BYTES])
        except OSError as error:
            log.warning("no_termination_log", error=str(error))
    return int(code)
