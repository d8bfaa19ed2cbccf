"""Native code that holds the interpreter for long, in a forked child: so the program can be stopped meanwhile."""

from __future__ import annotations

import ctypes
import os
import signal
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from common.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
"""Number of the prctl option by which a process ends with its parent, from Linux's prctl.h."""

_DONE, _FAILED = b"d", b"f"


class ForkedCallFailed(Exception):
    """The call raised an exception in the child. The message is the exception's."""


def call_in_child(work: Callable[[], bytes], *, name: str) -> bytes:
    """Return what `work` returns in a child that shares this process's memory as it is now.

    `work` calls native code and nothing that other threads may hold a lock for. The child ends with this process, and
    when an exception, such as Stopped, ends the wait for it. Raises ForkedCallFailed where `work` raises an exception,
    and ResourceExhausted where the system kills the child. `name` says what was being done.
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        _run(work, writer, parent)
    os.close(writer)
    try:
        blocks = []
        while block := os.read(reader, 1 << 20):
            blocks.append(block)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    finally:
        os.close(reader)
    answer = b"".join(blocks)
    if answer[:1] == _DONE:
        return answer[1:]
    if answer[:1] == _FAILED:
        raise ForkedCallFailed(answer[1:].decode("utf-8", "replace"))
    raise ResourceExhausted(
        f"the process was killed while it was {name} (status {code}), as the system does when memory runs out; raise "
        "the memory limit"
    )


def _run(work: Callable[[], bytes], writer: int, parent: int) -> None:
    code = 1
    try:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(code)
        _write(writer, _DONE + work())
        code = 0
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        with suppress(OSError):
            _write(writer, _FAILED + "".join(traceback.format_exception_only(error)).strip().encode())
    finally:
        os._exit(code)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
