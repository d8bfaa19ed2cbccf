"""A file as a list of a folder, of a bucket or of a repository shows it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ManifestError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNLISTABLE = ("gs://", "hf://")
"""The schemes of pictures that only a worker reads, and only as files of its manifest. A row cannot name them."""


class ListedFile(NamedTuple):
    uri: str
    """The absolute path or the URL. In a path, lone surrogates stand for bytes that are not UTF-8."""
    path: str
    """The path below the folder that was listed."""
    size: int | None
    """Size in bytes; None for a link whose file does not exist."""
    version: str
    """What the list says about the content: an ETag, a generation or a hash; an empty text for a local file."""
    modified_ns: int = 0
    """Time of the last change of a local file, in nanoseconds."""

    @property
    def order(self) -> bytes:
        """Return what the files of a manifest are sorted by: the bytes of the path or URL."""
        return self.uri.encode("utf-8", "surrogateescape")


class Listing(NamedTuple):
    """The files that a place names."""

    folder: str
    """The path or URL of the folder that the files' paths start from, with a slash at its end."""
    files: list[ListedFile]
    hidden: Sequence[str] = ()
    """The files, and folders of this machine, that only the `.` or `_` at the start of a name leaves out."""


def refuse_more(place: str, most: int) -> ManifestError:
    """Return the error for a place with more than `most` files."""
    if place.startswith(_UNLISTABLE):
        remedy = "give the folders in it to several runs, or raise the setting; a list cannot name pictures there"
    else:
        remedy = (
            f"write the list once with `embedder list {shlex.quote(place)} list.parquet`, and give that file in "
            "EMBEDDER_MANIFEST_URI"
        )
    return ManifestError(
        f"{place} holds more than {most:,} files, and every pod would list them (EMBEDDER_MAX_LISTED_FILES); {remedy}"
    )


def sorted_once(files: list[ListedFile]) -> list[ListedFile]:
    """Return the files in the order of a manifest, each once: some stores list a key twice or out of order.

    Raises SourceUnavailable when a file is listed twice and differs, because it changed meanwhile.
    """
    found: dict[str, ListedFile] = {}
    for file in files:
        before = found.setdefault(file.uri, file)
        if (before.size, before.version) != (file.size, file.version):
            raise SourceUnavailable(
                f"{file.uri} changed while it was listed: it had {before.size} bytes, and has {file.size}; a run needs "
                "files that do not change"
            )
    return sorted(found.values(), key=lambda file: file.order)
