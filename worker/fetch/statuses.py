"""Turns what a transport answers into the failure of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ResourceExhausted, SourceUnavailable
from common.format.reasons import Reason
from common.retry import retry_after_seconds
from worker.fetch.failures import Forbidden, NotAsked, Unanswered
from worker.fetch.transport import Verdict
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from worker.fetch.transport import Answered, Broken

REDIRECTS = {301, 302, 303, 307, 308}
MAY_PASS = {407, 408, 425, 429, 500, 502, 503, 504, 511}
"""The statuses after which the same request may succeed later."""
SLOWING = {429, 503}
"""The statuses after which a site is asked more slowly."""

_REASONS = {
    404: Reason.NOT_FOUND,
    410: Reason.NOT_FOUND,
    401: Reason.ACCESS_DENIED,
    403: Reason.ACCESS_DENIED,
    451: Reason.ACCESS_DENIED,
    429: Reason.RATE_LIMITED,
}

_DETAILS = {206: "206, a part of the image that was not asked for"}


def check_status(answer: Answered) -> None:
    """Raise ImageFailed, or Unanswered if the status may pass, unless the answer's status is 200."""
    status = answer.status
    if status == 200:
        return
    reason = _REASONS.get(status) or (Reason.SERVER_ERROR if status >= 500 else Reason.HTTP_ERROR)
    if status == 403:
        raise Forbidden(reason, str(status))
    if status not in MAY_PASS:
        raise ImageFailed(reason, _DETAILS.get(status, str(status)))
    wait = retry_after_seconds(answer.retry_after)
    raise Unanswered(
        reason,
        str(status),
        may_pass=True,
        retry_after_seconds=wait,
        slows=status in SLOWING,
        is_refusal=status == 429 or (status == 503 and bool(answer.retry_after.strip())),
    )


def failure_of(broken: Broken) -> ImageFailed | ResourceExhausted | SourceUnavailable:
    """Return what a broken request means: for the image, or for the chunk if no image is to blame."""
    match broken.verdict:
        case Verdict.FINAL:
            return ImageFailed(broken.reason, broken.detail)
        case Verdict.NOT_ASKED:
            return NotAsked(broken.reason, broken.detail)
        case Verdict.MAY_PASS | Verdict.WILL_NOT_PASS:
            may_pass = broken.verdict is Verdict.MAY_PASS
            return Unanswered(broken.reason, broken.detail, may_pass=may_pass, is_hosts_fault=broken.is_hosts_fault)
        case Verdict.CHANGED:
            return SourceUnavailable(broken.detail)
        case Verdict.MACHINE:
            return ResourceExhausted(broken.detail)
