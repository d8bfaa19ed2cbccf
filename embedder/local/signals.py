"""How SIGTERM and SIGINT stop `embedder run`."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, TypeVar

from common.errors import ExitCode, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")


async def until_signalled(
    work: Coroutine[None, None, Result],
    *,
    on_first: Callable[[signal.Signals], None],
    on_further: Callable[[], None],
) -> Result:
    """Await the work and return its result.

    The first SIGTERM or SIGINT cancels the work, and each further one calls `on_further`. Raises Stopped once
    cancelled work has ended.
    """
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if len(received) > 1:
            on_further()
        else:
            task.cancel()
            on_first(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        code = ExitCode.STOPPED if received[0] is signal.SIGTERM else ExitCode.INTERRUPTED
        raise Stopped(f"stopped by {received[0].name}", exit_code=code) from None
