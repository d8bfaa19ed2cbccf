"""Ids of Open Images, which name an image on the mirror without a URL."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from common.errors import ManifestError
from common.logs import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SUBSETS = ("train", "validation", "test", "challenge2018")
"""The subsets of Open Images: the folders of the mirror."""

LOOKED_FOR = 5
"""Number of texts that are looked for as files."""

_ID = re.compile(rf"(?:(?P<subset>{'|'.join(SUBSETS)})/)?(?P<id>[0-9a-f]{{16}})(?:\.jpg)?", re.IGNORECASE)


def parse_image_id(text: str) -> tuple[str, str] | None:
    """Return the subset and the id of an image: `train/0001eeaf4aed83f9`, or the id alone with an empty subset.

    Open Images' own downloader leaves out `.jpg` behind the id, and so does this function.

    Both are in lower case, as the mirror has them. Returns None for any other text.
    """
    match = _ID.fullmatch(text)
    return None if match is None else ((match["subset"] or "").lower(), match["id"].lower())


def are_image_ids(texts: Sequence[str], *, subset: str, folder: Path | None, name: str) -> bool:
    """Return whether most of the first texts of the manifest `name` are ids, as Open Images' own downloader takes them.

    Paths of files in `folder` are no ids. Raises ManifestError when most of the ids name no subset, and there is no
    `subset` of all rows.
    """
    pairs = [(text.strip(), parsed) for text in texts if (parsed := parse_image_id(text.strip())) is not None]
    if 2 * len(pairs) <= len(texts):
        return False
    if folder is not None and any((folder / text).is_file() for text, _ in pairs[:LOOKED_FOR]):
        return False
    found = [parsed for _, parsed in pairs]
    if not subset and 2 * sum(own == "" for own, _ in found) > len(found):
        raise ManifestError(
            f"{name} holds ids of Open Images without a subset, such as {found[0][1]}; name the subset of all of them "
            "in EMBEDDER_SUBSET (train, validation or test), or write train/ before the id"
        )
    return True


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
