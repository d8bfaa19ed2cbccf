"""Rows as a manifest holds them, before their values are checked, and the contract of the formats' readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from common.format.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.columns import Columns
    from worker.rows import ByteRange


class Fields(NamedTuple):
    """The values of a row, in the order of Columns: text, or any other value that the format allows, or None."""

    url: object
    id: object = None
    subset: object = None
    thumbnail: object = None
    rotation: object = None


class RawRow(NamedTuple):
    where: str
    """The row's place for the ledger: `line at byte 4711`, or `row 17 (the first is 0)`."""
    fields: Fields
    text: str = ""
    """The line of a text format; an empty text for other formats."""
    is_utf8: bool = True
    """False for a line with bytes that are not UTF-8. Lone surrogates stand for them in `text` and `fields`."""
    held: ByteRange | None = None
    """Where the image's bytes lie in the manifest's own files. Then the URL is only a name."""


class UnreadableRow(NamedTuple):
    """A row that cannot be divided into values."""

    where: str
    problem: str
    """What is wrong with the row, for the ledger's detail."""
    text: str
    """The line."""
    reason: Reason = Reason.MALFORMED_ROW


class RowCount(NamedTuple):
    """How many rows a manifest has."""

    rows: int
    is_exact: bool
    """False for an estimate from a sample."""


class RowReader(Protocol):
    @property
    def columns(self) -> Columns | None:
        """Return the columns that are used; None when the manifest has no columns."""

    @property
    def has_ids(self) -> bool:
        """Return whether rows have ids."""

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        """Yield the rows of chunk `index` of `count`, in the manifest's order."""

    def count_rows(self) -> RowCount:
        """Return how many rows there are: exactly where that is quick, else an estimate."""

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        """Yield about `count` rows from all over the manifest, or all rows where there are fewer. Little is read."""


def spread_range(total: int, count: int) -> list[int]:
    """Return `count` evenly spaced numbers below `total`, or all of them where there are fewer."""
    return list(range(total)) if total <= count else [index * total // count for index in range(count)]


def chunk_range(total: int, *, index: int, count: int) -> range:
    """Return the part of `total` rows or bytes that chunk `index` of `count` covers. The parts follow without gaps."""
    return range(index * total // count, (index + 1) * total // count)
