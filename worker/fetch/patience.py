"""The settings of a fetcher whose answer somebody waits for: a check, or a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.settings import FetchSettings, HttpSettings

LONGEST_RETRY_AFTER_SECONDS = 1.0
"""Longest pause in seconds that a server may ask for."""


class Patience(NamedTuple):
    """For how long an image is tried, at most. Settings that are shorter stay as they are."""

    attempts: int
    """Number of requests for an image."""
    host_seconds: float
    """Time in seconds in which a host has to answer, and for which a host that fails or a slow site is tried."""
    request_seconds: float
    """Time in seconds of one request."""

    def shorten(self, fetch: FetchSettings, http: HttpSettings) -> tuple[FetchSettings, HttpSettings]:
        """Return the settings with this patience."""
        return (
            fetch.model_copy(
                update={
                    "fetch_attempts": min(fetch.fetch_attempts, self.attempts),
                    "source_patience_seconds": min(fetch.source_patience_seconds, self.host_seconds),
                    "slow_site_seconds": min(fetch.slow_site_seconds, self.host_seconds),
                    "fetch_timeout_seconds": min(fetch.fetch_timeout_seconds, self.request_seconds),
                }
            ),
            http.model_copy(
                update={
                    "connect_timeout_seconds": min(http.connect_timeout_seconds, self.host_seconds),
                    "read_timeout_seconds": min(http.read_timeout_seconds, self.request_seconds),
                    "retry_after_limit_seconds": min(http.retry_after_limit_seconds, LONGEST_RETRY_AFTER_SECONDS),
                }
            ),
        )
