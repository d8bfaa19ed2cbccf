"""How the fetch of an image fails. A failure that no part of the fetcher handles becomes the image's row in the ledger.

ImageFailed      The failure is final: a server's answer (404, a body that is too large), a missing file, an invalid
│                URL. The request is not repeated. The image's next source is tried.
├── NotAsked     The same, but no server was asked, because the host is not allowed.
├── Forbidden    The answer 403. `doubts` tells when it is final.
└── Unanswered   No useful answer came. The request is repeated if `may_pass` (5xx, a timeout, a reset), and not
                 repeated if not (no such host, a certificate that is not valid). When all sources have failed, the
                 reason may be the image, its host or the network. `Hosts.is_network_up` decides: either the image
                 fails, or it is fetched again. What the host itself has sent (no HTTP, half an answer, a certificate
                 that is not valid) is its own fault, and shows that the network is well.

A refusal, 429 or 503 with Retry-After, is no failure of the image: the row waits for its site (`must_wait`).

Two errors end the chunk instead, because no image is to blame: SourceUnavailable when all hosts fail for too long, and
ResourceExhausted when this machine cannot open another connection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from worker.rows import ImageFailed

if TYPE_CHECKING:
    from common.format.reasons import Reason


class NotAsked(ImageFailed):
    """No server was asked, because the host is not allowed. This says nothing about whether any host answers."""


class Forbidden(ImageFailed):
    """A server answered with 403. Some sites do so to whoever asks too often."""


class Unanswered(ImageFailed):
    """A server was asked, and no useful answer came."""

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        may_pass: bool,
        retry_after_seconds: float = 0.0,
        is_hosts_fault: bool = False,
        slows: bool = False,
        is_refusal: bool = False,
    ) -> None:
        super().__init__(reason, detail)
        self.may_pass = may_pass
        """Whether the same request may succeed later."""
        self.is_hosts_fault = is_hosts_fault
        """Whether the host itself has sent what cannot be used. Then the network is well."""
        self.retry_after_seconds = retry_after_seconds
        """The pause that the host asked for."""
        self.slows = slows
        """Whether the site is asked more slowly from now on."""
        self.is_refusal = is_refusal
        """Whether the site only asks for fewer requests, so that the image and its host are not to blame."""
        self.host = ""
        """The host that was asked. `Hosts` sets this attribute and the next two."""
        self.asked_at = -math.inf
        """The time of the request, on the monotonic clock."""
        self.was_probe = False
        """Whether the request was the probe of a host that fails. Then its failure says nothing about its image."""

    def with_detail(self, detail: str) -> Unanswered:
        """Return the same failure with another detail."""
        other = Unanswered(
            self.reason,
            detail,
            may_pass=self.may_pass,
            retry_after_seconds=self.retry_after_seconds,
            is_hosts_fault=self.is_hosts_fault,
            slows=self.slows,
            is_refusal=self.is_refusal,
        )
        other.host, other.asked_at, other.was_probe = self.host, self.asked_at, self.was_probe
        return other
