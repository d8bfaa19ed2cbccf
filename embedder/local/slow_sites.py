"""The sites that serve slowly, as the workers log them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.logs import LogLine

MOST_SHOWN = 5
"""Largest number of slow sites that are shown; of the others only the number is."""


class SlowSite(NamedTuple):
    """A site that serves slowly."""

    site: str
    rate_per_second: float
    """Number of images that the site serves a second."""
    left: int
    """Number of images that are not fetched yet."""
    done_in_seconds: float | None
    """Time until the site has served them, None where it is not known."""


def read_slow_site(line: LogLine) -> SlowSite | None:
    """Return the site of a worker's line, None where the line names no site and number."""
    site, left = line.values.get("site", ""), line.count("left")
    if not site or left is None:
        return None
    return SlowSite(site, line.number("rate_per_s") or 0, left, line.number("done_in_s"))


def all_workers(sites: Iterable[SlowSite]) -> list[SlowSite]:
    """Return one entry for each site, over all workers. The site with the most images left comes first."""
    together: dict[str, SlowSite] = {}
    for site in sites:
        before = together.get(site.site)
        if before is None:
            together[site.site] = site
            continue
        known = [each for each in (before.done_in_seconds, site.done_in_seconds) if each is not None]
        together[site.site] = SlowSite(
            site.site,
            before.rate_per_second + site.rate_per_second,
            before.left + site.left,
            max(known, default=None),
        )
    return sorted(together.values(), key=lambda each: (-each.left, each.site))
