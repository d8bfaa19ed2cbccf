"""How every program of the project starts and ends: signals, exit codes, the last word."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from common.errors import EmbedderError, ExitCode, Stopped
from common.process import stop

if TYPE_CHECKING:
    from collections.abc import Callable

TERMINATION_LOG = Path("/dev/termination-log")
"""Where a kubelet picks up a container's last word; absent outside a pod."""

TERMINATION_LOG_BYTES = 4096
"""What a kubelet keeps of it."""


class _Running:
    """The program that runs."""

    how_far: Callable[[], object] | None = None
    """Logs how far it is."""
    has_logs = False


def on_stop(say: Callable[[], object]) -> None:
    """Have `say`, which logs how far the program is, called before the last word when it is stopped."""
    _Running.how_far = say


def run(
    program: Callable[[], str],
    *,
    before_threads: Callable[[], object] = lambda: None,
    at_first: Callable[[], object] | None = None,
) -> NoReturn:
    """Call `program`, log the sentence it returns as the last word, and end the process with the right exit code.

    `before_threads` is called before it, while the process has one thread. `at_first` is what to call on a stop until
    `on_stop` says otherwise.

    Ends by os._exit once everything is flushed: a thread may sit in a native decoder or a socket for longer than the
    grace period of a pod.
    """
    _Running.how_far = at_first
    try:
        code = end(program, before_threads=before_threads)
    except (MemoryError, SystemError):  # what the last word imports was refused memory too
        code = _say_out_of_memory()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk, or a pipe that nobody reads
            stream.flush()
    os._exit(code)


def start_thread(work: Callable[[], object], *, name: str) -> None:
    """Start a daemon thread for `work`, which hands over its own errors; what it raises nevertheless ends the program.

    So it is where memory is refused while an error is handed over, for which others would wait for ever.
    """
    threading.Thread(target=_do_or_end, args=(work,), name=name, daemon=True).start()


def _do_or_end(work: Callable[[], object]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - another border of the program
        code = int(ExitCode.TEMPORARY_FAILURE)
        try:
            code = _last_word(*_failure(error))
            sys.stderr.flush()
        except (MemoryError, SystemError):
            code = _say_out_of_memory()
        finally:
            os._exit(code)


def end(program: Callable[[], str], *, before_threads: Callable[[], object] = lambda: None) -> int:
    """Call `program` and return its exit code; the last word goes to the log and to the termination log.

    Once a signal has told it to stop that is how it ends, whatever it returns or raises.
    """
    try:
        event, message, code = _outcome(program, before_threads)
    except Stopped as stopped:
        return _say_stopped(stopped)
    return _last_word(event, message, code)


def _outcome(program: Callable[[], str], before_threads: Callable[[], object]) -> tuple[str, str, int]:
    stop.install_stop_handlers()
    try:
        before_threads()
        stop.end_by_force_if_late(_say_stopped)
        _prepare_last_word()
        message = program()
    except Exception as error:  # noqa: BLE001 - the border of the program
        # Python wraps what a signal raises within __set_name__ in a RuntimeError, an enum's import for one.
        stop.ignore_stops()
        return _failure(error)
    stop.ignore_stops()
    return "finished", message, ExitCode.OK


def _failure(error: BaseException) -> tuple[str, str, int]:
    _prepare_last_word()
    from common.logs import printable, redact_urls  # noqa: PLC0415
    from common.process.resources import exhausted  # noqa: PLC0415

    foreseen = error if isinstance(error, EmbedderError) else exhausted(error)
    if foreseen is not None:
        return "failed", str(foreseen), foreseen.exit_code
    # Exit code 1 stands in no policy, so Kubernetes retries within the backoff limit.
    with suppress(OSError):
        trace = redact_urls("".join(traceback.format_exception(error)))
        sys.stderr.write("".join(f"{printable(line)}\n" for line in trace.split("\n")))
    return "failed", f"a bug in the embedder: {type(error).__name__}: {error}", 1


def _say_out_of_memory() -> int:
    """Say so as a log line that needs nothing imported."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    words = "out of memory while the program began or ended; raise the memory limit"
    os.write(2, f'{now} error failed exit_code={int(ExitCode.TEMPORARY_FAILURE)} message="{words}"\n'.encode())
    return int(ExitCode.TEMPORARY_FAILURE)


def _prepare_last_word() -> None:
    # Imported only now: a signal is to find its handlers from the first moment on. And before the program, which may
    # end for want of memory or of open files.
    import common.process.resources  # noqa: F401, PLC0415
    from common.logs import configure_logs  # noqa: PLC0415

    if not _Running.has_logs:
        configure_logs()
        _Running.has_logs = True


def _say_stopped(stopped: Stopped) -> int:
    _prepare_last_word()
    if _Running.how_far is not None:
        with suppress(Exception):  # the exit code matters more
            _Running.how_far()
    return _last_word("stopped", str(stopped), stopped.exit_code)


def _last_word(event: str, message: str, code: int) -> int:
    from common.logs import log, printable, redact_urls  # noqa: PLC0415

    message = redact_urls(message)
    emit = log.info if code == ExitCode.OK else log.error
    emit(event, exit_code=int(code), message=message)
    if TERMINATION_LOG.exists():
        try:
            TERMINATION_LOG.write_bytes(f"{event}: {printable(message)}".encode()[:TERMINATION_LOG_BYTES])
        except OSError as error:
            log.warning("no_termination_log", error=str(error))
    return int(code)
