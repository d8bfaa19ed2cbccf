"""A site that bears a limited number of requests a second, and answers with a refusal beyond that."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.image_server import Behaviour


class Allowance:
    """A token bucket: `rate` requests a second, and `burst` at once. It counts what it allowed and refused."""

    def __init__(
        self,
        rate: float,
        *,
        burst: float = 1,
        status: int = 429,
        retry_after: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.rate, self.burst = rate, burst
        self.status, self._retry_after = status, retry_after
        self.allowed: list[float] = []
        """The times of the requests that were allowed, on the monotonic clock."""
        self.refused: list[float] = []
        self._tokens = burst
        self._at = time.monotonic()

    def limit(self, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour of one image of the site."""

        async def behave(request: web.BaseRequest) -> web.StreamResponse:
            now = time.monotonic()
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
            if self._tokens < 1:
                self.refused.append(now)
                after = self._retry_after()
                return web.Response(status=self.status, headers={} if after is None else {"Retry-After": after})
            self._tokens -= 1
            self.allowed.append(now)
            return await behaviour(request)

        return behave


def in_seconds(seconds: int) -> Callable[[], str]:
    """Return what writes a Retry-After as a number of seconds."""
    return lambda: str(seconds)


def at_date(seconds: int) -> Callable[[], str]:
    """Return what writes a Retry-After as a date."""
    return lambda: formatdate(time.time() + seconds, usegmt=True)
