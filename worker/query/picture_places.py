"""Where a picture lies whose row names a place inside a tar or inside a Parquet file, and not a file of its own.

00000.tar#000000000.jpg                   a member of a tar, which the list names by its path
s3://bucket/train/00000.tar#0.jpg         a member of a tar in a bucket
part-00000.parquet#17                     a row of a Parquet file, without a name of its own
"""

from __future__ import annotations

import os.path
import re
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import unquote

from common.errors import QueryRefused
from worker.manifest.excerpts import excerpt
from worker.manifest.manifest_format import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HASH_SIGNS = 16
"""Number of `#` in a URL that may separate the file from the place in it."""

MAX_PARTS = 16
"""Number of the last folders and names of a file's path by which a copy of the file is looked for."""

_ROW_NUMBER = re.compile(r"[0-9]{1,18}")


class PicturePlace(NamedTuple):
    file: str
    """The tar or the Parquet file, as the result names it: a path or a URL."""
    kind: Literal["tar", "parquet"]
    entry: str
    """The name of a member, or the number of a row in the file."""

    @property
    def is_remote(self) -> bool:
        return "://" in self.file

    @property
    def url(self) -> str:
        """The URL of the row."""
        return f"{self.file}#{self.entry}"

    @property
    def name(self) -> str:
        """The file's last name, for sentences."""
        return excerpt(_parts(self.file)[-1])


def find_place(url: str) -> PicturePlace | None:
    """Return the place that the URL of a row names, None for that of a file or object that is itself a picture."""
    for sign in islice(re.finditer("#", url), MAX_HASH_SIGNS):
        file, entry = url[: sign.start()], url[sign.end() :]
        kind = FORMATS.get(PurePosixPath(_path(file)).suffix.lower())
        if kind == "tar" and entry:
            return PicturePlace(file, "tar", entry)
        if kind == "parquet" and _ROW_NUMBER.fullmatch(entry):
            return PicturePlace(file, "parquet", entry)
    return None


def find_copy(place: PicturePlace, folder: Path) -> Path:
    """Return the file of this name in `folder`, or below it with the same last folders. Raises QueryRefused.

    No path leads out of the folder, except by symbolic links in it.
    """
    for path in _paths_below(place.file):
        if os.path.isfile(copy := folder / path):  # noqa: PTH113 - it takes every name, and Path.is_file not
            return copy
    raise QueryRefused(
        f"the picture lies in {place.name}, and {folder} has no such file; give --images FOLDER, the folder of the tar "
        "or Parquet files or of copies of them"
    )


def _paths_below(file: str) -> Iterator[str]:
    """Yield the ends of a file's path, the longest first."""
    parts = _parts(file)[-MAX_PARTS:]
    names = [parts, [unquote(part) for part in parts]] if file.lower().startswith(("http://", "https://")) else [parts]
    for start in range(len(parts)):
        for each in names:
            end = each[start:]
            if not any(part in {"", ".", ".."} or "/" in part or "\0" in part for part in end):
                yield "/".join(end)


def _parts(file: str) -> list[str]:
    """Return the folders and the name of a file, without the host or the bucket of a URL."""
    path = _path(file)
    scheme, separator, rest = path.partition("://")
    return rest.split("/")[1:] or [rest] if separator else scheme.split("/")


def _path(file: str) -> str:
    """Return a path or URL without its query."""
    return file.partition("?")[0] if file.lower().startswith(("http://", "https://")) else file
