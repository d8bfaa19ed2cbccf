"""What a list says of one row: texts that a worker reads as it would read the manifest's own row."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ManifestError
from worker.manifest.raw_rows import RawRow
from worker.rows import Row
from worker.url_forms import SCHEME

if TYPE_CHECKING:
    from pathlib import Path

    from common.format.chunk_file import Failure
    from worker.manifest.raw_rows import UnreadableRow


class RowTexts(NamedTuple):
    """The texts of a row, empty where it has none."""

    url: str
    id: str
    subset: str
    thumbnail: str
    rotation: str


def texts_of(raw: RawRow | UnreadableRow, checked: Row | Failure) -> RowTexts | None:
    """Return the row's texts, None for a row that has no URL that can be read.

    A row that the check refuses keeps its values, so that the worker refuses it too.
    """
    if isinstance(checked, Row):
        rotation = str(checked.rotation) if checked.rotation else ""
        return RowTexts(checked.url, checked.id, checked.subset, checked.thumbnail, rotation)
    if not isinstance(raw, RawRow):
        return None
    fields = raw.fields
    url = checked.url or _text(fields.url)
    return (
        RowTexts(url, checked.id, _text(fields.subset), _text(fields.thumbnail), _text(fields.rotation))
        if url
        else None
    )


def _text(value: object) -> str:
    """Return the value as text that Parquet can hold, without what is not Unicode."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else "" if value is None else str(value)
    return text.encode(errors="replace").decode()


class Paths:
    """Rewrites the paths of a list so that they lead to the same files from the folder of another list."""

    def __init__(self, folder: Path | None, target: Path | None) -> None:
        """`folder` is where the rows' paths start, None if they are no paths; `target` the folder of the new list, None
        if it is no folder of this machine."""
        self._folder, self._target = folder, target

    def moved(self, url: str) -> str:
        """Return the text for the new list. Raises ManifestError for a file that the new list could not name."""
        if self._folder is None or self._folder == self._target or SCHEME.match(url):
            return url
        if self._target is None:
            raise ManifestError(
                f"{url[:200]} is a file of this machine, and a list in a bucket cannot name it; write the list to a "
                "folder"
            )
        path = os.path.normpath(self._folder / url)
        inside = f"{str(self._target).rstrip('/')}/"
        return path.removeprefix(inside)
