"""The first line of a CSV or TSV file: a header with the names of the columns, or the first row."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ManifestError
from worker.manifest.column_names import ID_NAMES, find_name, find_url_name, folded
from worker.manifest.excerpts import excerpt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.settings import ManifestSettings

SETTING = "EMBEDDER_MANIFEST_COLUMNS"

_ADDRESS = re.compile(r"[a-z][a-z0-9+.\-]*://|//[^/]|www\.|data:image/", re.IGNORECASE)
_FILE = re.compile(r".*\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif|heic|jxl|jp2)", re.IGNORECASE)
_OPEN_IMAGES_ID = re.compile(r"(?:[a-z]+/)?[0-9a-f]{16}")
_SUBSET = re.compile(r"train|validation|test")


class Header(NamedTuple):
    names: list[str]
    """The names of the columns, one for each field."""
    is_row: bool
    """Whether the first line is a row: a setting names the columns."""


def header_or_fault(fields: Sequence[str], settings: ManifestSettings, *, name: str) -> Header:
    """Return the header of the manifest `name`, whose first line has these fields.

    Raises ManifestError when the line looks like a row and no setting names the columns, and when the setting names
    another number of columns.
    """
    found = [field.strip() for field in fields]
    if settings.manifest_columns:
        return _named_by_setting(found, settings.manifest_columns, name=name)
    if any(_ADDRESS.match(field) for field in found) or (
        not _has_known_name(found, settings) and _looks_like_row(found)
    ):
        raise ManifestError(
            f"{name} looks as if it had no header line: its first line is {excerpt(', '.join(found))}; write the names "
            f"of the columns into the first line, or name them, as in {SETTING}={','.join(_likely_names(found))}"
        )
    return Header(found, is_row=False)


def _named_by_setting(found: list[str], columns: str, *, name: str) -> Header:
    names = [each.strip() for each in columns.split(",")]
    if len(names) != len(found):
        raise ManifestError(
            f"{name} has {len(found)} columns and {SETTING} names {len(names)}: its first line is "
            f"{excerpt(', '.join(found))}; name each column, as in {SETTING}={','.join(_likely_names(found))}"
        )
    is_header = [folded(each) for each in names] == [folded(each) for each in found]
    return Header(names, is_row=not is_header)


def _has_known_name(names: list[str], settings: ManifestSettings) -> bool:
    if settings.url_column:
        return find_name(names, [settings.url_column]) is not None
    return find_url_name(names) is not None or find_name(names, ID_NAMES) is not None


def _looks_like_row(fields: list[str]) -> bool:
    return any(_FILE.fullmatch(field) or _OPEN_IMAGES_ID.fullmatch(field) for field in fields)


def _likely_names(fields: list[str]) -> list[str]:
    """Return names that the columns may have, for the example in an error."""
    names = [_likely_name(field) for field in fields]
    return [each if names.index(each) == place else f"column{place + 1}" for place, each in enumerate(names)]


def _likely_name(field: str) -> str:
    if _ADDRESS.match(field) or _FILE.fullmatch(field):
        return "url"
    if _OPEN_IMAGES_ID.fullmatch(field):
        return "ImageID"
    if _SUBSET.fullmatch(field):
        return "Subset"
    return "caption" if " " in field else "id"
