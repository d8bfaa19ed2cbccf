"""What a .txt file holds: a URL on each line, or columns, as in Excel's "Unicode text" and many published lists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from common.errors import ManifestError
from worker.manifest.columns import find_columns
from worker.manifest.delimited_rows import DelimitedRows
from worker.manifest.dialect import SEPARATORS
from worker.manifest.header import header_or_fault
from worker.manifest.text_files import TextLines
from worker.manifest.text_rows import TextRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.manifest.byte_source import ByteSource
    from worker.settings import ManifestSettings

_NAME = re.compile(r"[\w \-]+")


def open_txt(sources: Sequence[ByteSource], settings: ManifestSettings) -> TextRows | DelimitedRows:
    """Return the reader that fits the first line. Raises ManifestError as the readers do."""
    first = next(TextLines(sources).head(), None)
    separator = None if first is None or not first.is_whole else _separator(first.text, settings)
    return TextRows(sources) if separator is None else DelimitedRows(sources, settings, delimiter=separator)


def _separator(line: str, settings: ManifestSettings) -> str | None:
    """Return the separator of the columns that the line names, None where the line is a URL."""
    # A URL has no tab in it, but it may have any other separator.
    if "\t" in line.strip() or settings.manifest_columns or line.lower().startswith("sep="):
        return "\t"
    if _NAME.fullmatch(line):
        return "\t" if _are_names([line], settings) else None
    return next((each for each in SEPARATORS if each in line and _are_names(line.split(each), settings)), None)


def _are_names(fields: list[str], settings: ManifestSettings) -> bool:
    names = [field.strip().strip('"').strip() for field in fields]
    try:
        header_or_fault(names, settings, name="")
        columns = find_columns(names, settings, name="")
    except ManifestError:
        return False
    return _NAME.fullmatch(columns.url) is not None
