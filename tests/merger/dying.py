"""Merges that are killed before a certain write to their store: in a forked process, which ends at once."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.errors import EmbedderError
from common.store import open_store
from common.store.s3.client import clear_clients
from merger.merge import merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from merger.settings import MergerSettings

KILLED = 9
FAILED = 75

WRITES = {
    "abort_assemblies",
    "assemble",
    "clear_up",
    "copy",
    "delete",
    "discard_unfinished",
    "publish",
    "put_bytes",
    "put_file",
    "upload",
}
"""The calls that change what is in a store. A merge that dies between two of them leaves what the first one left."""


class _Dying:
    """Passes each call on to a store or an assembly, and ends the process before write number `left`."""

    def __init__(self, target: Any, left: list[int], pause: Callable[[], None]) -> None:  # noqa: ANN401 - either
        self._target, self._left, self._pause = target, left, pause

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the target has
        found = getattr(self._target, name)
        if not callable(found) or name == "location":
            return found

        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as the target's
            if name in WRITES:
                with _LOCK:
                    self._left[0] -= 1
                    if not self._left[0]:
                        os._exit(KILLED)
            self._pause()
            if name == "assemble":
                return self._assemble(found(*arguments, **options))
            return found(*arguments, **options)

        return call

    @contextmanager
    def _assemble(self, assembly: AbstractContextManager[Any]) -> Iterator[_Dying]:
        with assembly as begun:
            yield _Dying(begun, self._left, self._pause)


_LOCK = threading.Lock()


def start_merge(
    uri: str, settings: MergerSettings, *, writes: int = 0, pause: Callable[[], None] = lambda: None
) -> int:
    """Start a merge in a process that is killed before write number `writes` to the store, 0 for never. Return its
    id.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with open(os.devnull, "w") as silence:  # noqa: PTH123
            os.dup2(silence.fileno(), sys.stdout.fileno())
        clear_clients()
        store: Any = _Dying(open_store(uri), [writes], pause)
        merge(store, settings)
        code = 0
    except EmbedderError as error:
        sys.stderr.write(f"{error!r}\n")
        code = FAILED
    except BaseException as error:  # noqa: BLE001 - the process ends here
        sys.stderr.write(f"{error!r}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def random_pauses(seconds: float, seed: int) -> Callable[[], None]:
    drawn = random.Random(seed)
    return lambda: time.sleep(drawn.uniform(0, seconds))
