"""The columns of a manifest: what each of them holds, and which sources of images they allow."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING

from common.errors import ManifestError
from worker.manifest.column_names import ID_NAMES, find_name, find_url_by_values, find_url_name, folded
from worker.manifest.excerpts import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.settings import ManifestSettings

SUBSET_NAMES = ("subset",)
THUMBNAIL_NAMES = ("thumbnail300kurl",)
ROTATION_NAMES = ("rotation",)

OPEN_IMAGES_ID = "imageid"
"""The name of Open Images' column of ids, folded."""

LISTED_COLUMNS = 20
"""Largest number of columns in an error's list."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns that are used, as the manifest writes them; None for a column that it does not have."""

    url: str
    """The column with the URLs. In a list of Open Images' ids, which has no URLs, it is the column with the ids."""
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

    def __str__(self) -> str:
        """Return which column is used for what, for the log: `url=photo_image_url, id=photo_id`."""
        used = asdict(self).items()
        return ", ".join(f"{what}={excerpt(name)}" for what, name in used if name is not None)

    @property
    def are_ids(self) -> bool:
        """Return whether the rows are ids of Open Images, without URLs."""
        return self.url == self.id and folded(self.url) == OPEN_IMAGES_ID

    def is_open_images(self, *, subset: str) -> bool:
        """Return whether these are the columns of a list that Open Images publishes. `subset` is that of all rows."""
        is_known = self.subset is not None or bool(subset)
        return is_known and (self.url.lower(), (self.id or "").lower()) == ("originalurl", OPEN_IMAGES_ID)


def find_columns(
    found: Iterable[str], settings: ManifestSettings, *, name: str, examples: Sequence[Mapping[str, object]] = ()
) -> Columns:
    """Return the columns to use among the columns `found` in the manifest `name`. See column_names for the names.

    `examples` are some rows by the names of their columns, where they are to be had.

    Raises ManifestError when no column holds URLs, or when a column that a setting names is missing.
    """
    names = list(found)
    columns = choose_columns(names, settings, examples)
    if columns is None:
        missing = repr(settings.url_column) if settings.url_column else "with URLs"
        likely = find_url_by_values(names, examples)
        has_ids = not likely and not settings.url_column and find_name(names, (OPEN_IMAGES_ID,)) is not None
        raise ManifestError(
            f"{name} has no column {missing}, its columns are {_listed(names)}; name the column with the URLs in "
            "EMBEDDER_URL_COLUMN"
            + (f", as in EMBEDDER_URL_COLUMN={excerpt(likely)}" if likely else "")
            + (", or, for ids of Open Images, their subset in EMBEDDER_SUBSET (train, validation or test)" * has_ids)
        )
    if columns.id is None and settings.id_column:
        raise ManifestError(
            f"{name} has no column {settings.id_column!r}, its columns are {_listed(names)}; name the column with the "
            "ids in EMBEDDER_ID_COLUMN, or unset it"
        )
    return columns


def choose_columns(
    names: Sequence[str], settings: ManifestSettings, examples: Sequence[Mapping[str, object]] = ()
) -> Columns | None:
    """Return the columns to use among `names`, None when none of them holds URLs or ids of Open Images."""
    url, *others = choose_names(names, settings, examples)
    return None if url is None else Columns(url, *others)


CHOSEN = ("url", "id", "subset", "thumbnail", "rotation")
"""The fields of Columns that `choose_names` chooses, in its order."""


def choose_names(
    names: Sequence[str], settings: ManifestSettings, examples: Sequence[Mapping[str, object]] = ()
) -> tuple[str | None, ...]:
    """Return the name in `names` of each of CHOSEN, None for a field that no name stands for."""
    url = find_name(names, [settings.url_column]) if settings.url_column else find_url_name(names, examples)
    id_name = find_name(names, [settings.id_column] if settings.id_column else ID_NAMES)
    subset = find_name(names, SUBSET_NAMES)
    if url is None and not settings.url_column and (subset or settings.subset):
        url = find_name(names, (OPEN_IMAGES_ID,))
        id_name = url or id_name
    elif url == id_name and settings.url_column and not (settings.id_column or subset or settings.subset):
        # The setting says that these are URLs or paths, as CelebA's `image_id` has them.
        id_name = find_name([name for name in names if name != url], ID_NAMES)
    # A user whose column of this name holds something else turns the rotation off.
    rotation = find_name(names, ROTATION_NAMES) if settings.rotate else None
    return url, id_name, subset, find_name(names, THUMBNAIL_NAMES), rotation


def _listed(names: list[str]) -> str:
    first = ", ".join(excerpt(name) for name in names[:LISTED_COLUMNS]) or "none"
    return first if len(names) <= LISTED_COLUMNS else f"{first} and {len(names) - LISTED_COLUMNS} more"


def sources_of_ids(wanted: str, *, name: str) -> tuple[str, ...]:
    """Return the sources of the images of the manifest `name`, whose rows are ids of Open Images without URLs.

    `wanted` is a comma-separated list of sources, or `auto`. Raises ManifestError when the mirror is not among them.
    """
    sources = ("mirror",) if wanted == "auto" else tuple(wanted.split(","))
    if "mirror" not in sources:
        raise ManifestError(
            f"{name} holds ids of Open Images and no URLs, and EMBEDDER_SOURCES is {wanted}; add mirror to it"
        )
    return sources


def resolve_sources(wanted: str, columns: Columns | None, *, name: str, subset: str = "") -> tuple[str, ...]:
    """Return the sources of the images of the manifest `name`, in the order in which they are tried.

    `wanted` is a comma-separated list of sources, or `auto` for all sources that the columns allow. `subset` is Open
    Images' subset of all rows, or empty. Raises ManifestError when a column that a source needs is missing.
    """
    if wanted == "auto":
        if columns is not None and columns.image is not None:
            return ("bytes",) if columns.url == columns.image else ("bytes", "url")
        if columns is None or not columns.is_open_images(subset=subset):
            return ("url",)
        return ("mirror", "original") if columns.thumbnail is None else ("mirror", "thumbnail", "original")
    sources = tuple(wanted.split(","))
    needs = {"mirror": ("id",) if subset else ("id", "subset"), "thumbnail": ("thumbnail",)}
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
