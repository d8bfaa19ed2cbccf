"""Why a chunk fails: its failed images by reason, with examples, and the hosts of most of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from common.logs import FAILING_HOSTS, IMAGES_FAILED, TOO_MANY_FAILURES, log, redact_url
from worker.failure_advice import advice_for
from worker.manifest.excerpts import REDACTED_LENGTH, excerpt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.format.chunk_file import Failure
    from common.format.reasons import Reason

EXAMPLES = 3
"""Number of examples for each reason."""

NAMED_HOSTS = 5
"""Largest number of hosts that are named."""

NAMED_REASONS = 6
"""Largest number of reasons in the sentence. The log has a line for every reason."""

HOST_CHARS = 100
"""Largest number of characters of a host that are shown."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The images that failed for one reason."""

    reason: Reason
    count: int
    examples: Sequence[Failure]
    """The first of them, in the manifest's order."""
    advice: str
    """What helps, with the setting that fits."""


@dataclass(frozen=True, kw_only=True)
class FailureReport:
    failures: Sequence[Failure]
    """All failed images so far, at least one, in the manifest's order."""
    causes: Sequence[Cause]
    """The most frequent reason first."""
    hosts: Sequence[tuple[str, int]]
    """The hosts with the most failures with the numbers of these, by the manifest's URLs."""
    requested: int
    """Number of rows of the chunk."""
    max_failure_ratio: float
    """Largest share of the rows that may fail."""

    def log(self) -> None:
        """Write a line for all failures, one for each reason, and one for the hosts."""
        log.error(TOO_MANY_FAILURES, images=len(self.failures), of=self.requested, limit=self._limit)
        for cause in self.causes:
            examples = {f"example_{number}": describe(each) for number, each in enumerate(cause.examples, 1)}
            log.error(
                IMAGES_FAILED,
                reason=cause.reason,
                images=cause.count,
                of=self.requested,
                share=f"{100 * cause.count / self.requested:.3g}%",
                **examples,
                advice=cause.advice,
            )
        if self.hosts:
            log.error(FAILING_HOSTS, hosts=", ".join(f"{host} ({count})" for host, count in self.hosts))

    def sentence(self) -> str:
        """Return how many images failed and why, with an example and what helps against the most frequent reason."""
        so_far = " so far" if len(self.failures) < self.requested else ""
        first = self.causes[0]
        return (
            f"{len(self.failures)} of {self.requested} images failed{so_far}, the limit is {self._limit}: "
            f"{self.reasons}; for example {describe(first.examples[0], reason=first.reason)}; {first.advice}"
        )

    @property
    def reasons(self) -> str:
        """The number of failed images for each reason, and the host of most of them, in words."""
        parts = [f"{cause.reason} {cause.count}" for cause in self.causes[:NAMED_REASONS]]
        if rest := self.causes[NAMED_REASONS:]:
            parts.append(f"other reasons {sum(cause.count for cause in rest)}")
        if self.hosts and 2 * self.hosts[0][1] > len(self.failures):
            parts.append(f"most of them at {self.hosts[0][0]}")
        return ", ".join(parts)

    @property
    def _limit(self) -> str:
        return f"{100 * self.max_failure_ratio:.3g}%"


class ImagesFailed(Exception):
    """So many images of a chunk have failed that it cannot succeed, or that no source may be there."""

    def __init__(self, report: FailureReport, *, is_unanswered: bool) -> None:
        super().__init__(report.reasons)
        self.report = report
        self.is_unanswered = is_unanswered
        """Whether no source has answered for any image, as when the network is gone."""


def report_on(failures: Sequence[Failure], *, requested: int, max_failure_ratio: float) -> FailureReport:
    """Return the report on the failed images, in the manifest's order, of a chunk of `requested` rows."""
    by_reason: defaultdict[Reason, list[Failure]] = defaultdict(list)
    for failure in failures:
        by_reason[failure.reason].append(failure)
    hosts = Counter(filter(None, (host_of(failure.url) for failure in failures)))
    causes = [
        Cause(
            reason=reason,
            count=len(each),
            examples=each[:EXAMPLES],
            advice=advice_for(reason, [failure.url for failure in each]),
        )
        for reason, each in by_reason.items()
    ]
    return FailureReport(
        failures=failures,
        causes=sorted(causes, key=lambda cause: -cause.count),
        hosts=hosts.most_common(NAMED_HOSTS),
        requested=requested,
        max_failure_ratio=max_failure_ratio,
    )


def host_of(url: str) -> str:
    """Return the host of a URL as the manifest writes it, with its port, and without user and password.

    Empty where the URL names no host or none that can be told from a password. The host of an s3:// URL is its bucket.
    """
    start = url[:REDACTED_LENGTH].strip()
    redacted = redact_url(start)  # a password must not be taken for a host
    try:
        parts = urlsplit(redacted)
    except ValueError:
        return ""
    host = parts.netloc.removeprefix("***@").lower()
    if not host or "***" in host:
        return ""
    return excerpt(f"s3://{host}" if parts.scheme == "s3" else host)[:HOST_CHARS]


def describe(failure: Failure, *, reason: str = "") -> str:
    """Return row, URL and detail of a failed image. The row is counted from 0 within the chunk, as in the ledger."""
    url = f" {excerpt(failure.url)}" if failure.url else ""
    why = f": {reason}" if reason else ""
    detail = f" ({excerpt(failure.detail)})" if failure.detail else ""
    return f"row {failure.row}{url}{why}{detail}"
