"""Threads that compute on a CPU, each by itself."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_Task = tuple["Callable[[], Any]", "Future[Any]"]


class ComputeThreads:
    """`count` threads, in each of which torch has no more than that one. They end when this object does.

    No executor: where one is refused memory while it hands over an error, whoever waits for that waits for ever.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        for number in range(count):
            threading.Thread(target=partial(_compute, self._tasks), name=f"compute {number}", daemon=True).start()
        weakref.finalize(self, _dismiss, self._tasks, count)

    def submit(self, compute: Callable[[], T]) -> Future[T]:
        """Have a thread call `compute`, first come, first served; return the promise of what it returns or raises."""
        promise: Future[T] = Future()
        self._tasks.put((compute, promise))
        return promise


def _compute(tasks: SimpleQueue[_Task | None]) -> None:
    torch.set_num_threads(1)
    while _settle(tasks.get()):
        pass


def _settle(task: _Task | None) -> bool:
    """Keep the promise, and return whether there was one. By itself, so that a thread that waits keeps no object."""
    if task is None:
        return False
    compute, promise = task
    try:
        result = compute()
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits
        promise.set_exception(error)
    else:
        promise.set_result(result)
    return True


def _dismiss(tasks: SimpleQueue[_Task | None], count: int) -> None:
    for _ in range(count):
        tasks.put(None)
