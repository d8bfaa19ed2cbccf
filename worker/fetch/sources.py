"""Where an image may be had: the ordered fallback list of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.rows import Row


class Candidate(NamedTuple):
    source: str
    """`mirror`, `thumbnail`, `original` or `url`."""
    url: str
    """Empty where the row has none for this source."""


def candidates(row: Row, sources: Sequence[str], *, mirror_url: str) -> list[Candidate]:
    """Return one candidate for each of `sources`, in their order."""
    return [Candidate(source, _url(row, source, mirror_url)) for source in sources]


def _url(row: Row, source: str, mirror_url: str) -> str:
    if source == "mirror":
        return _mirrored(row, mirror_url)
    return row.thumbnail if source == "thumbnail" else row.url


def _mirrored(row: Row, mirror_url: str) -> str:
    if not row.id or not row.subset:
        return ""
    base = mirror_url.rstrip("/")
    if base.startswith("s3://"):
        return f"{base}/{row.subset}/{row.id}.jpg"  # a key, not a URL: it is quoted when it is signed
    return f"{base}/{quote(row.subset, safe='')}/{quote(row.id, safe='')}.jpg"
