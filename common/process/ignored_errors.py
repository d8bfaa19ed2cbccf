"""Errors that nobody can catch: of destructors, of callbacks of native code, and of threads that nobody waits for.

The interpreter writes a traceback for each of them. Here each is one line of the log. A thread that dies for lack of
memory ends the program, because other threads may wait for it for ever.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from common.logs import log
from common.process.resources import exhausted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from common.errors import ResourceExhausted


def log_ignored_errors(*, end: Callable[[ResourceExhausted], object] | None = None) -> None:
    """Log each such error of this process as one line, and call `end` where a thread dies for lack of a resource.

    An exception that ends the interpreter still has its traceback, and so has a bug that ends a thread.
    """

    printed: dict[str, tuple[type[BaseException], str]] = {}

    def log_printed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Native code prints an error in the middle of the program, as the destructors of h5py do.
        if sys._getframe().f_back is None:
            sys.__excepthook__(kind, error, trace)
            return
        printed["error"] = (kind, str(error))
        _log(kind, error, where=_place(trace))

    def log_unraisable(ignored: sys.UnraisableHookArgs) -> None:
        if (ignored.exc_type, str(ignored.exc_value)) == printed.pop("error", None):
            return  # the destructor of a compiled class had it printed just before
        # While the interpreter starts a thread, an error has no other place to go.
        is_of_thread = getattr(ignored.object, "__name__", "").startswith("_bootstrap")
        if is_of_thread and end is not None and (lacking := _lacking(ignored.exc_value)) is not None:
            end(lacking)
        _log(ignored.exc_type, ignored.exc_value, where=ignored.object)

    def log_thread(died: threading.ExceptHookArgs) -> None:
        if (lacking := _lacking(died.exc_value)) is None:
            threading.__excepthook__(died)
            return
        if end is not None:
            end(lacking)
        _log(died.exc_type, died.exc_value, where=None if died.thread is None else died.thread.name)

    sys.unraisablehook = log_unraisable
    sys.excepthook = log_printed
    threading.excepthook = log_thread


def _place(trace: TracebackType | None) -> str:
    place = "native code"
    while trace is not None:
        code, trace = trace.tb_frame.f_code, trace.tb_next
        place = f"{code.co_filename}:{code.co_name}"
    return place


def _lacking(error: BaseException | None) -> ResourceExhausted | None:
    return None if error is None else exhausted(error)


def _log(kind: type[BaseException], error: BaseException | None, *, where: object) -> None:
    log.warning("ignored_error", where=str(where), error=f"{kind.__name__}: {error}")
