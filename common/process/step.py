"""Work in a thread of its own, for whose result a caller waits no longer than a limit."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

from common.errors import EmbedderError, TemporaryError
from common.process.resources import exhausted

if TYPE_CHECKING:
    from collections.abc import Callable

Product = TypeVar("Product")


class NotInTime(TemporaryError):
    """A step takes longer than a person waits."""


class Step(Generic[Product]):
    """Work that has begun in the background. Its thread ends with the process, whatever it waits for."""

    def __init__(self, name: str, work: Callable[[], Product]) -> None:
        self._future: Future[Product] = Future()
        self._began = time.monotonic()

        def run() -> None:
            try:
                self._future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                self._future.set_exception(error)

        threading.Thread(target=run, name=name, daemon=True).start()

    def result(self, *, seconds: float, late: str) -> Product:
        """Return what the work returns, or raise its error as one of ours.

        Raises NotInTime with the message `late` when it has not ended `seconds` after its beginning.
        """
        return result_of(self._future, seconds=self._began + seconds - time.monotonic(), late=late)


def result_of(future: Future[Product], *, seconds: float, late: str) -> Product:
    """Return the future's result. Raises its error as one of ours, and NotInTime with `late` after `seconds`.

    An error that is neither ours nor a lack of resources is a bug, and goes on as it is.
    """
    try:
        return future.result(timeout=max(seconds, 0))
    except TimeoutError as error:
        if future.done():
            raise
        raise NotInTime(late) from error
    except EmbedderError:
        raise
    except Exception as error:
        ours = exhausted(error)
        if ours is None:
            raise
        raise ours from error
