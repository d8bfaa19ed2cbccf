"""URLs that have answered. A request for such a URL tells a dead host or network from an image that is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.request import Request

MAX_HOSTS = 256
"""The number of hosts that are remembered, with one URL each."""


class KnownGoodUrls:
    """For each host the last URL that answered, for the MAX_HOSTS hosts that answered last."""

    def __init__(self) -> None:
        self._by_host: dict[str, Request] = {}

    def note_answer(self, request: Request) -> None:
        self._by_host.pop(request.host, None)
        self._by_host[request.host] = request
        if len(self._by_host) > MAX_HOSTS:
            oldest = next(iter(self._by_host))
            del self._by_host[oldest]

    def of(self, host: str) -> Request | None:
        """Return the host's known-good URL, None if it has none."""
        return self._by_host.get(host)

    def newest_first(self, *, is_failing: Callable[[str], bool]) -> list[Request]:
        """Return all known-good URLs, those of failing hosts after all others."""
        newest_first = reversed(self._by_host.values())
        return sorted(newest_first, key=lambda request: is_failing(request.host))
