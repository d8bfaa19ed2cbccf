"""What a .txt file holds: a URL on each line, or columns, as in Excel's "Unicode text" and many published lists."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from common.errors import ManifestError
from worker.manifest.columns import find_columns
from worker.manifest.text.delimited_rows import DelimitedRows
from worker.manifest.text.dialect import SEPARATORS
from worker.manifest.text.files import TextLines
from worker.manifest.text.header import header_or_fault
from worker.manifest.text.rows import TextRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.manifest.places.byte_source import ByteSource
    from worker.settings import ManifestSettings

COMPARED_LINES = 10
"""Number of lines whose tabs are compared."""

_NAME = re.compile(r"[\w \-]+")


def open_txt(sources: Sequence[ByteSource], settings: ManifestSettings) -> TextRows | DelimitedRows:
    """Return the reader that fits the first lines. Raises ManifestError as the readers do."""
    lines = [line.text for line in islice(TextLines(sources).head(), COMPARED_LINES) if line.is_whole]
    separator = _separator(lines, settings) if lines else None
    return TextRows(sources) if separator is None else DelimitedRows(sources, settings, delimiter=separator)


def _separator(lines: list[str], settings: ManifestSettings) -> str | None:
    """Return the separator of the columns, None where the lines are URLs."""
    first = lines[0]
    # No URL has a tab in it, but it may have any other separator.
    tab_counts = {line.count("\t") for line in lines}
    has_tabs = len(lines) > 1 and len(tab_counts) == 1 and tab_counts != {0}
    if has_tabs or settings.manifest_columns or first.lower().startswith("sep="):
        return "\t"
    if _NAME.fullmatch(first):
        return "\t" if _are_names([first], settings) else None
    return next((each for each in SEPARATORS if each in first and _are_names(first.split(each), settings)), None)


def _are_names(fields: list[str], settings: ManifestSettings) -> bool:
    names = [field.strip().strip('"').strip() for field in fields]
    try:
        header_or_fault(names, settings, name="")
        columns = find_columns(names, settings, name="")
    except ManifestError:
        return False
    return _NAME.fullmatch(columns.url) is not None
