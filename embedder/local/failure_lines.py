"""Why a chunk has failed, as its worker logs it: its failed images by reason, their hosts, and the list of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.logs import FAILING_HOSTS, FAILURES_LISTED, IMAGES_FAILED, TOO_MANY_FAILURES

if TYPE_CHECKING:
    from common.logs import LogLine

_EXAMPLE = "example_"


@dataclass(frozen=True, slots=True)
class ReasonShown:
    reason: str
    images: str
    """Number of images that failed for this reason."""
    share: str
    """Their share of the chunk's images, in percent."""
    examples: tuple[str, ...]
    """Row, URL and detail of some of them."""
    advice: str


@dataclass(slots=True)
class FailureLines:
    """What the lines of one attempt say. Each part is empty until its line was read."""

    images: str = ""
    """Number of images that failed so far."""
    of: str = ""
    """Number of images of the chunk."""
    limit: str = ""
    """The largest share of the chunk's images that may fail, in percent."""
    reasons: list[ReasonShown] = field(default_factory=list)
    hosts: str = ""
    """The hosts with the most failures, with numbers."""
    listed_at: str = ""
    """The full name of the file that lists all failed images."""

    def take(self, line: LogLine) -> bool:
        """Return whether the line is a part of the report, and keep what it says."""
        values = line.values
        if line.event == IMAGES_FAILED:
            examples = tuple(text for key, text in values.items() if key.startswith(_EXAMPLE))
            reason, images, share, advice = (values.get(key, "") for key in ("reason", "images", "share", "advice"))
            self.reasons.append(ReasonShown(reason, images, share, examples, advice))
        elif line.event == TOO_MANY_FAILURES:
            self.images, self.of, self.limit = (values.get(key, "") for key in ("images", "of", "limit"))
        elif line.event == FAILING_HOSTS:
            self.hosts = values.get("hosts", "")
        elif line.event == FAILURES_LISTED:
            self.listed_at = values.get("file", "")
        else:
            return False
        return True
