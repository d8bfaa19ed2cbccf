"""The columns of a manifest: what each of them holds, and which sources of images they allow."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from common.errors import ManifestError
from worker.manifest.excerpts import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.settings import ManifestSettings

URL_NAMES = ("originalurl", "url", "image_url", "imageurl", "uri", "link")
ID_NAMES = ("imageid", "image_id", "id", "key")
SUBSET_NAMES = ("subset",)
THUMBNAIL_NAMES = ("thumbnail300kurl",)
ROTATION_NAMES = ("rotation",)

LISTED_COLUMNS = 20
"""Largest number of columns in an error's list."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns that are used, as the manifest writes them; None for a column that it does not have."""

    url: str
    id: str | None = None
    subset: str | None = None
    thumbnail: str | None = None
    rotation: str | None = None
    image: str | None = None
    """The column with the images themselves, `image.bytes` for a field of a struct. Where it is `url` too, there are no
    URLs, and each row is named after its place."""

    @property
    def present(self) -> list[str]:
        """Return the names of the columns that the manifest has, each once."""
        return list(dict.fromkeys(name for name in astuple(self) if name is not None))

    @property
    def is_open_images(self) -> bool:
        """Return whether these are the columns of a list that Open Images publishes."""
        return (self.url.lower(), (self.id or "").lower(), self.subset is not None) == ("originalurl", "imageid", True)


def find_columns(found: Iterable[str], settings: ManifestSettings, *, name: str) -> Columns:
    """Return the columns to use among the columns `found` in the manifest `name`. Case does not matter.

    Raises ManifestError when no column holds URLs, or when a column that a setting names is missing.
    """
    names = list(found)
    url, *others = (_find(names, wanted) for wanted in field_names(settings))
    if url is None:
        missing = repr(settings.url_column) if settings.url_column else "with URLs"
        raise ManifestError(
            f"{name} has no column {missing}, its columns are {_listed(names)}; name the column with the URLs in "
            "EMBEDDER_URL_COLUMN"
        )
    if others[0] is None and settings.id_column:
        raise ManifestError(
            f"{name} has no column {settings.id_column!r}, its columns are {_listed(names)}; name the column with the "
            "ids in EMBEDDER_ID_COLUMN, or unset it"
        )
    return Columns(url, *others)


def field_names(settings: ManifestSettings) -> list[tuple[str, ...]]:
    """Return the names that a column may have, for each field of Columns in its order, the preferred name first."""
    return [
        (settings.url_column,) if settings.url_column else URL_NAMES,
        (settings.id_column,) if settings.id_column else ID_NAMES,
        SUBSET_NAMES,
        THUMBNAIL_NAMES,
        # A user whose column of this name holds something else turns the rotation off.
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


def _listed(names: list[str]) -> str:
    first = ", ".join(excerpt(name) for name in names[:LISTED_COLUMNS]) or "none"
    return first if len(names) <= LISTED_COLUMNS else f"{first} and {len(names) - LISTED_COLUMNS} more"


def resolve_sources(wanted: str, columns: Columns | None, *, name: str) -> tuple[str, ...]:
    """Return the sources of the images of the manifest `name`, in the order in which they are tried.

    `wanted` is a comma-separated list of sources, or `auto` for all sources that the columns allow. Raises
    ManifestError when a column that a source needs is missing.
    """
    if wanted == "auto":
        if columns is not None and columns.image is not None:
            return ("bytes",) if columns.url == columns.image else ("bytes", "url")
        if columns is None or not columns.is_open_images:
            return ("url",)
        return ("mirror", "original") if columns.thumbnail is None else ("mirror", "thumbnail", "original")
    sources = tuple(wanted.split(","))
    needs = {"mirror": ("id", "subset"), "thumbnail": ("thumbnail",)}
    titles = {"id": "ImageID", "subset": "Subset", "thumbnail": "Thumbnail300KURL"}
    for source in sources:
        for need in needs.get(source, ()):
            if columns is None or getattr(columns, need) is None:
                raise ManifestError(
                    f"{name} has no column {titles[need]}, which the source {source} needs; leave {source} out of "
                    "EMBEDDER_SOURCES"
                )
    if "bytes" in sources and columns is not None and columns.image is None:
        raise ManifestError(
            f"{name} has no column with images, which the source bytes needs; name it in EMBEDDER_IMAGE_COLUMN, or "
            "leave bytes out of EMBEDDER_SOURCES"
        )
    if columns is not None and columns.url == columns.image and sources != ("bytes",):
        others = ", ".join(each for each in sources if each != "bytes")
        raise ManifestError(f"{name} has no column with URLs, which {others} needs; set EMBEDDER_SOURCES to bytes")
    return sources


def resolve_sources_of_shards(wanted: str, *, name: str) -> tuple[str, ...]:
    """Return the sources of the images in the shard `name`. Raises ManifestError when others are `wanted`."""
    if wanted not in {"auto", "bytes"}:
        raise ManifestError(
            f"{name} holds the images themselves, so EMBEDDER_SOURCES={wanted} cannot be used; leave it out, or set "
            "it to bytes"
        )
    return ("bytes",)
