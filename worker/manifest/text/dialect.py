"""How the fields of a CSV or TSV file are separated and quoted.

Programs write quotes in three ways, and no file says which. A field that is quoted as RFC 4180 has it is read so. Where
that does not give the right number of fields, a backslash before a quote (Spark, MySQL) escapes it. In files separated
by tabs or bars a quote is first of all a character, as most programs write these files without any quoting.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.manifest.text.lines import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEPARATORS = (",", "\t", ";", "|", "\x01")
"""The separators that are recognised by the header."""

_RAW_SEPARATORS = ("\t", "|", "\x01")  # the last one is Hive's
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
_TRAILING_BACKSLASHES = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")

# A field may be as long as a line.
csv.field_size_limit(MAX_LINE_BYTES)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    separator: str
    width: int | None = None
    """Number of columns; None while it is not known."""
    has_escapes: bool = False
    """Whether backslashes escape quotes in the file's head."""
    has_stray_quotes: bool = False
    """Whether the file's head has quotes within fields that are not quoted."""

    @property
    def is_raw(self) -> bool:
        """Return whether a quote is first of all a character."""
        return self.separator in _RAW_SEPARATORS

    def fits(self, fields: list[str]) -> bool:
        """Return whether the number of fields is right. Empty fields behind the last column do not count."""
        return self.width is None or len(fields) == self.width or self._excess(fields) == self.width

    def ends_record(self, fields: list[str]) -> bool:
        """Return whether the fields can be the last ones of a record."""
        return self.width is None or len(fields) <= self.width or self._excess(fields) <= self.width

    def _excess(self, fields: list[str]) -> int:
        count = len(fields)
        while count > (self.width or 0) and not fields[count - 1].strip():
            count -= 1
        return count

    def escapes(self, text: str) -> list[str | None]:
        """Return the characters that may escape a quote in a record that begins with the line `text`, in order."""
        if self.has_escapes and '"' in text:
            return ["\\", None]
        return [None, "\\"] if "\\" in text else [None]

    def plain_fields(self, text: str) -> list[str] | None:
        """Return the fields of a line whose quotes can be read in one way only, None for any other line."""
        if '"' not in text and "\r" not in text:
            fields = text.split(self.separator)
            return fields if self.fits(fields) else None
        return self.raw_fields(text) if self.is_raw and not self.opens_quote(text) else None

    def raw_fields(self, text: str) -> list[str] | None:
        """Return what lies between the separators of a line, None where there are not exactly as many as columns.

        Fields that are wholly in quotes are unquoted.
        """
        fields = text.split(self.separator)
        return [unquoted(field) for field in fields] if self.width in {None, len(fields)} else None

    def opens_quote(self, text: str) -> bool:
        """Return whether a field of the line begins with a quote that does not end it."""
        return '"' in text and any(
            field.startswith('"') and not _QUOTED.fullmatch(field) for field in text.split(self.separator)
        )

    def has_stray_quote(self, text: str) -> bool:
        """Return whether the line is one of raw fields, and one of them has a quote that quotes nothing."""
        fields = text.split(self.separator) if self.is_raw else []
        return len(fields) == self.width and any('"' in field and not _QUOTED.fullmatch(field) for field in fields)

    def parse(self, lines: Iterable[str], *, escape: str | None) -> list[str]:
        """Return the fields of the record at the beginning of `lines`. Only its lines are taken from the iterator.

        Raises ValueError when the quotes are wrong, or when the lines end within a field.
        """
        try:
            return next(
                csv.reader(
                    lines,
                    delimiter=self.separator,
                    escapechar=escape,
                    skipinitialspace=not self.is_raw,
                    strict=True,
                )
            )
        except csv.Error as error:
            raise ValueError(str(error)) from error

    def parse_line(self, text: str) -> list[str]:
        """Return the fields of a record of one line. Raises ValueError when the line is not a record."""
        fields = self.parse([text], escape=None)
        if not self.fits(fields):
            raise ValueError(f"expected {self.width} columns, found {len(fields)}")
        return fields

    def parse_spaced(self, text: str) -> list[str] | None:
        """Return the fields of a line with blanks between a closing quote and the separator, None for any other."""
        closed = re.sub(rf'"[ \t]+(?={re.escape(self.separator)}|\Z)', '"', text) if '"' in text else text
        try:
            return None if closed == text else self.parse_line(closed)
        except ValueError:
            return None


def unquoted(field: str) -> str:
    """Return the content of a field that is wholly in quotes, any other field as it is."""
    return field[1:-1].replace('""', '"') if field[:1] == '"' and _QUOTED.fullmatch(field) else field


def until_escaped_break(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines up to the first whose line break a backslash escapes."""
    for line in lines:
        yield line
        if _TRAILING_BACKSLASHES.search(line.rstrip("\n")):
            return
