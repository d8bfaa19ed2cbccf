"""The sites that serve slowly, by the log lines of running workers: their pace, what is left, and when it is done."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from common.logs import SLOW_SITE, parse_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.logs import LogLine


class SlowSite(NamedTuple):
    """A site as the workers whose logs were read see it together."""

    site: str
    rate_per_s: float
    """Requests in a second that the site bears from these workers."""
    left: int
    """Number of images of these workers' chunks that the site still has to serve."""
    done_in_s: float | None
    """Time in seconds until the last of these workers has its images, None where no worker knows it."""
    workers: int


def find_slow_sites(tails: Iterable[list[str]]) -> list[SlowSite]:
    """Return the slow sites that the ends of the workers' logs name, the one that takes longest first."""
    lines: dict[str, list[LogLine]] = defaultdict(list)
    for tail in tails:
        last = {line.values.get("site", ""): line for text in tail if (line := _slow_site(text)) is not None}
        for site, line in last.items():
            if site and line.count("left"):
                lines[site].append(line)
    found = [_together(site, each) for site, each in lines.items()]
    return sorted(found, key=lambda each: (-(each.done_in_s or 0), -each.left, each.site))


def _slow_site(text: str) -> LogLine | None:
    line = parse_line(text) if SLOW_SITE in text else None
    return line if line is not None and line.event == SLOW_SITE else None


def _together(site: str, lines: list[LogLine]) -> SlowSite:
    times = [seconds for line in lines if (seconds := line.number("done_in_s")) is not None]
    return SlowSite(
        site,
        rate_per_s=sum(line.number("rate_per_s") or 0 for line in lines),
        left=sum(line.count("left") or 0 for line in lines),
        done_in_s=max(times, default=None),
        workers=len(lines),
    )
