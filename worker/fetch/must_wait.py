"""What sends a row back to wait for its site. No image is to blame."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.fetch.failures import Forbidden
    from worker.fetch.sites import Site


class Refusal(NamedTuple):
    """A site has asked for fewer requests."""

    status: int
    sent_at: float
    """The time of the request, on the monotonic clock."""
    retry_after_seconds: float
    """The pause that the site asks for, 0 if it asks for none."""


class MustWait(Exception):
    """The row has to wait: the site has no turn for it, has refused it, or has answered 403 and may have meant that."""

    def __init__(self, site: Site, *, refusal: Refusal | None = None, forbidden: Forbidden | None = None) -> None:
        super().__init__(f"{site.name} has to be asked later")
        self.site = site
        self.refusal = refusal
        """The answer that asked for fewer requests, None if there was none."""
        self.forbidden = forbidden
        """The answer 403 that may be final, None if there was none."""
