"""Ids of Open Images, which name an image on the mirror without a URL."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from common.logs import log

if TYPE_CHECKING:
    from collections.abc import Iterable

SUBSETS = ("train", "validation", "test", "challenge2018")
"""The subsets of Open Images: the folders of the mirror."""

_ID = re.compile(rf"(?:(?P<subset>{'|'.join(SUBSETS)})/)?(?P<id>[0-9a-f]{{16}})", re.IGNORECASE)


def parse_image_id(text: str) -> tuple[str, str] | None:
    """Return the subset and the id of an image: `train/0001eeaf4aed83f9`, or the id alone with an empty subset.

    Both are in lower case, as the mirror has them. Returns None for any other text.
    """
    match = _ID.fullmatch(text)
    return None if match is None else ((match["subset"] or "").lower(), match["id"].lower())


def are_image_ids(lines: Iterable[str]) -> bool:
    """Return whether most of the lines are of the form `subset/id`, as Open Images' own downloader takes them."""
    found = [parse_image_id(line.strip()) for line in lines]
    return 2 * sum(each is not None and each[0] != "" for each in found) > len(found)


def log_repeated_ids(ids: Iterable[str]) -> None:
    """Log how many rows name an image that another row of the chunk names too, as lists of annotations do."""
    rows = Counter(ids)
    if rows.total() > len(rows):
        image_id, times = rows.most_common(1)[0]
        log.info(
            "repeated_ids",
            rows=rows.total(),
            images=len(rows),
            example=f"{image_id} on {times} rows",
            message="each row is embedded, also where several rows name one image, as in a list of annotations",
        )


def public_url(mirror_url: str) -> str:
    """Return the mirror's URL without user and password: the URLs of rows go into the result."""
    parts = urlsplit(mirror_url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
