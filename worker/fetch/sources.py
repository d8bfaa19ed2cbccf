"""The sources of an image, in the order in which they are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from worker.rows import url_on_mirror

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.rows import Row


class Candidate(NamedTuple):
    """One source of one image."""

    source: str
    """`mirror`, `thumbnail`, `original`, `url` or `bytes`."""
    url: str
    """An empty text if the row has no URL for this source."""


def candidates(row: Row, sources: Sequence[str], *, mirror_url: str) -> list[Candidate]:
    """Return one candidate for each of `sources`, in their order."""
    return [Candidate(source, _url(row, source, mirror_url)) for source in sources]


def first_url(row: Row, sources: Sequence[str], *, mirror_url: str) -> str:
    """Return the first of the row's URLs, an empty text if it has none or the manifest's own bytes come first."""
    for source in sources:
        if source == "bytes":
            return ""
        url = _url(row, source, mirror_url)
        if url:
            return url
    return ""


def _url(row: Row, source: str, mirror_url: str) -> str:
    if source == "mirror":
        return _url_on_mirror(row, mirror_url)
    if source == "bytes":
        return ""  # these are not at a URL
    if source == "thumbnail":
        return row.thumbnail
    return "" if row.is_named else row.url


def _url_on_mirror(row: Row, mirror_url: str) -> str:
    if not row.id or not row.subset:
        return ""
    return url_on_mirror(mirror_url, subset=row.subset, image_id=row.id)
