"""How a request that failed is made again: the one policy of this program, on tenacity.

The pause before an attempt doubles with every failure. A random part of it, up to a half, is taken off, so that callers
that failed together do not come back together. A pause that the server asks for (Retry-After) is added.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import tenacity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and for how long one kind of request is made again. Without a limit it is made again for ever."""

    first_pause_seconds: float
    """The pause after the first failure, before the random part is taken off."""
    longest_pause_seconds: float
    """The longest pause, however many failures came before it."""
    attempts: int | None = None
    """The largest number of attempts, the first one included."""
    patience_seconds: float | None = None
    """The longest time from the first failure to the last attempt. The last pause is cut to end at that time."""

    def pause_seconds(self, failures: int) -> float:
        """Return the pause after `failures` failures in a row, without the random part."""
        doubled = self.first_pause_seconds * 2.0 ** min(failures - 1, 30)
        return min(self.longest_pause_seconds, doubled) * random.uniform(0.5, 1)


class Pause(NamedTuple):
    """What is known when an attempt has failed and another one will follow."""

    error: Exception
    attempt: int
    """The number of the attempt that failed, from 1."""
    failing_seconds: float
    """The time since the first failure."""
    seconds: float
    """The length of the pause."""


class GivenUp(Exception):
    """The last attempt has failed."""

    def __init__(self, error: Exception, attempts: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.attempts = attempts


def call(
    send: Callable[[], Answer],
    policy: RetryPolicy,
    *,
    may_pass: Callable[[Exception], bool],
    asked_seconds: Callable[[Exception], float] = lambda _: 0.0,
    before_pause: Callable[[Pause], object] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Return what `send` returns; call it again while it raises an error that `may_pass`.

    `asked_seconds` returns the pause that the server asked for with an error. Raises GivenUp when the policy allows no
    further attempt, and at once any other error.
    """
    try:
        return send()
    except Exception as error:
        if not may_pass(error):
            raise
        first = _Once(error)

    def again() -> Answer:
        first.raise_once()
        return send()

    retrying = tenacity.Retrying(**_options(policy, may_pass, asked_seconds, before_pause), sleep=sleep)
    try:
        return retrying(again)
    finally:
        retrying.iter_state.reset()  # see _Once.raise_once


async def call_async(
    send: Callable[[], Awaitable[Answer]],
    policy: RetryPolicy,
    *,
    may_pass: Callable[[Exception], bool],
    asked_seconds: Callable[[Exception], float] = lambda _: 0.0,
    counts: Callable[[Exception], bool] = lambda _: True,
    before_pause: Callable[[Pause], object] = lambda _: None,
) -> Answer:
    """Do the same as `call`, in an event loop. Only a failure that `counts` uses up one of the policy's attempts."""
    try:
        return await send()
    except Exception as error:
        if not may_pass(error):
            raise
        first = _Once(error)

    async def again() -> Answer:
        first.raise_once()
        return await send()

    retrying = tenacity.AsyncRetrying(**_options(policy, may_pass, asked_seconds, before_pause, counts))
    try:
        return await retrying(again)
    finally:
        retrying.iter_state.reset()  # see _Once.raise_once


def retry_after_seconds(header: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float:
    """Return the pause that a Retry-After header asks for (RFC 9110, 10.2.3), 0 if it asks for none."""
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now()).total_seconds())


class _Once:
    """The error of the first attempt, which is made without tenacity. tenacity's first attempt raises it once more.

    Nearly all calls succeed at once, and tenacity's bookkeeping takes 70 microseconds a call: 6 % of the time that a
    worker's event loop spends on an image.
    """

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    def raise_once(self) -> None:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            # The error's traceback holds this frame, so the two form a circle. It would keep everything that the failed
            # attempt holds (sockets, parts of answers) until the garbage collector runs. tenacity forms another circle,
            # which `iter_state.reset` breaks.
            del error


def _options(
    policy: RetryPolicy,
    may_pass: Callable[[Exception], bool],
    asked_seconds: Callable[[Exception], float],
    before_pause: Callable[[Pause], object],
    counts: Callable[[Exception], bool] = lambda _: True,
) -> dict[str, Any]:
    """Return the arguments of tenacity's Retrying for one call, whose first attempt has just failed."""
    failed_at = time.monotonic()
    noted = failures = 0

    def note(state: tenacity.RetryCallState) -> None:
        """Count the attempt, once, whichever of `wait` and `stop` tenacity asks first."""
        nonlocal noted, failures
        if state.attempt_number > noted:
            noted = state.attempt_number
            failures += counts(_error(state))

    def left_seconds() -> float:
        if policy.patience_seconds is None:
            return float("inf")
        return policy.patience_seconds - (time.monotonic() - failed_at)

    def stop(state: tenacity.RetryCallState) -> bool:
        note(state)
        return (policy.attempts is not None and failures >= policy.attempts) or left_seconds() <= 0

    def wait(state: tenacity.RetryCallState) -> float:
        note(state)
        pause = asked_seconds(_error(state)) + policy.pause_seconds(max(failures, 1))
        return max(0.0, min(pause, left_seconds()))

    def tell(state: tenacity.RetryCallState) -> None:
        failing_seconds = time.monotonic() - failed_at
        before_pause(Pause(_error(state), state.attempt_number, failing_seconds, state.upcoming_sleep))

    def give_up(state: tenacity.RetryCallState) -> None:
        error = _error(state)
        raise GivenUp(error, max(failures, 1)) from error

    return {
        "retry": tenacity.retry_if_exception(lambda error: isinstance(error, Exception) and may_pass(error)),
        "stop": stop,
        "wait": wait,
        "before_sleep": tell,
        "retry_error_callback": give_up,
    }


def _error(state: tenacity.RetryCallState) -> Exception:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, Exception):
        raise TypeError(f"an attempt ended with {error!r}, expected an Exception")
    return error
