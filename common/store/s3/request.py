"""A request to S3, which is sent again while its fault may pass."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from common.errors import SettingsError, StoreUnavailable
from common.logs import log
from common.retry import GivenUp, Pause, RetryPolicy, call
from common.store.s3.client import use_virtual_hosts
from common.store.s3.errors import StoreFault, VirtualHostWanted, answer_errors, s3_errors

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 120.0
"""The time in seconds from a request's first failure until it is given up: twice what a store takes to restart.

The SDK's own retries are not used: all requests of a client share a limited number of them, so an outage ends 30
requests in flight within seconds. AWS_MAX_ATTEMPTS, if set, also limits the attempts.
"""

FIRST_PAUSE_SECONDS = 0.25
"""The pause in seconds after the first failure."""

LONGEST_PAUSE_SECONDS = 10.0
"""The longest pause in seconds, so that a store that is back is used within 10 s."""

SILENT_SECONDS = 5.0
"""The time in seconds that a request may fail before the log says so: in a large run, some request always fails."""

Answer = TypeVar("Answer")


def ask(what: object, send: Callable[[], Answer], *, patience_seconds: float = PATIENCE_SECONDS) -> Answer:
    """Return what `send`, a request about `what`, returns; send it again while its fault may pass.

    A request that is sent again may have taken effect the first time.

    Raises ObjectAbsent, ObjectExists and AssemblyGone; StoreAccessDenied (78); and StoreUnavailable (75) when the
    store refuses the request or has failed for `patience_seconds`.
    """
    policy = RetryPolicy(
        first_pause_seconds=FIRST_PAUSE_SECONDS,
        longest_pause_seconds=LONGEST_PAUSE_SECONDS,
        attempts=_max_attempts(),
        patience_seconds=patience_seconds,
    )

    def attempt() -> Answer:
        try:
            return send_once()
        except VirtualHostWanted:
            if not use_virtual_hosts():
                raise
            log.info("bucket_in_host", message="the store does not take the bucket in the path, so it is in the host")
            return send_once()

    def send_once() -> Answer:
        with s3_errors(what), answer_errors(what):
            return send()

    def warn(pause: Pause) -> None:
        if pause.failing_seconds > SILENT_SECONDS:
            left_seconds = patience_seconds - pause.failing_seconds
            log.warning("store_fault", attempt=pause.attempt, given_up_in_s=left_seconds, error=str(pause.error))

    try:
        return call(attempt, policy, may_pass=lambda error: isinstance(error, StoreFault), before_pause=warn)
    except GivenUp as given_up:
        raise StoreUnavailable(f"{given_up.error} (attempt {given_up.attempts}, the last)") from given_up.error


def _max_attempts() -> int | None:
    """Return the limit that AWS_MAX_ATTEMPTS sets, None if it is not set or 0."""
    text = os.environ.get("AWS_MAX_ATTEMPTS", "")
    if text and not text.isdecimal():
        raise SettingsError(f"AWS_MAX_ATTEMPTS is {text!r}, expected a whole number of attempts; correct or unset it")
    return int(text or 0) or None
