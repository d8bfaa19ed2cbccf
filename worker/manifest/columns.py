"""The columns of a manifest: which of them mean what, and which sources they can serve."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from common.errors import ManifestError
from worker.manifest.excerpts import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.settings import ManifestSettings

URL_NAMES = ("originalurl", "url", "image_url", "imageurl", "uri", "link")
ID_NAMES = ("imageid", "image_id", "id", "key")
SUBSET_NAMES = ("subset",)
THUMBNAIL_NAMES = ("thumbnail300kurl",)
ROTATION_NAMES = ("rotation",)

SHOWN_COLUMNS = 20
"""Columns that an error lists."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names, as the manifest writes them; None where it has no such column."""

    url: str
    id: str | None = None
    subset: str | None = None
    thumbnail: str | None = None
    rotation: str | None = None

    @property
    def present(self) -> list[str]:
        """Return the names there are, once each."""
        return list(dict.fromkeys(name for name in astuple(self) if name is not None))

    @property
    def are_open_images(self) -> bool:
        """Return whether these are the columns of Open Images' own files."""
        return (self.url.lower(), (self.id or "").lower(), self.subset is not None) == ("originalurl", "imageid", True)


def find_columns(found: Iterable[str], settings: ManifestSettings, *, name: str) -> Columns:
    """Return which of the columns `found` in manifest `name` mean what, by name, whatever their case.

    Raises ManifestError when there is none with URLs, or not the one that a setting names.
    """
    names = list(found)
    url, *others = (_find(names, wanted) for wanted in field_names(settings))
    if url is None:
        raise ManifestError(
            f"{name} has {_missing(settings.url_column, 'with URLs')}, its columns are {_shown(names)}; name the one "
            "with the URLs in EMBEDDER_URL_COLUMN"
        )
    if others[0] is None and settings.id_column:
        raise ManifestError(
            f"{name} has {_missing(settings.id_column, 'with ids')}, its columns are {_shown(names)}; name the one "
            "with the ids in EMBEDDER_ID_COLUMN, or none"
        )
    return Columns(url, *others)


def field_names(settings: ManifestSettings) -> list[tuple[str, ...]]:
    """Return for each field of Columns, in its order, the names a column may have, the likeliest first."""
    return [
        (settings.url_column,) if settings.url_column else URL_NAMES,
        (settings.id_column,) if settings.id_column else ID_NAMES,
        SUBSET_NAMES,
        THUMBNAIL_NAMES,
        # A column of this name may mean something else; turning the rotation off is the way to say so.
        ROTATION_NAMES if settings.rotate else (),
    ]


def _find(names: list[str], wanted: Iterable[str]) -> str | None:
    folded = {each.lower(): each for each in reversed(names)}
    for each in wanted:
        if each in names:
            return each
        if each.lower() in folded:
            return folded[each.lower()]
    return None


def _missing(wanted: str, kind: str) -> str:
    return f"no column {wanted!r}" if wanted else f"no column {kind}"


def _shown(names: list[str]) -> str:
    first = ", ".join(shown(name) for name in names[:SHOWN_COLUMNS]) or "none"
    return first if len(names) <= SHOWN_COLUMNS else f"{first} and {len(names) - SHOWN_COLUMNS} more"


def resolve_sources(asked: str, columns: Columns | None, *, name: str) -> tuple[str, ...]:
    """Return the sources of manifest `name`: those `asked` for, comma-separated, or for `auto` all it can serve.

    Raises ManifestError for one that it cannot serve.
    """
    if asked == "auto":
        if columns is None or not columns.are_open_images:
            return ("url",)
        return ("mirror", "original") if columns.thumbnail is None else ("mirror", "thumbnail", "original")
    sources = tuple(asked.split(","))
    needs = {"mirror": ("id", "subset"), "thumbnail": ("thumbnail",)}
    titles = {"id": "ImageID", "subset": "Subset", "thumbnail": "Thumbnail300KURL"}
    for source in sources:
        for need in needs.get(source, ()):
            if columns is None or getattr(columns, need) is None:
                raise ManifestError(
                    f"{name} has no column {titles[need]}, which the source {source} needs; leave {source} out of "
                    "EMBEDDER_SOURCES"
                )
    return sources
