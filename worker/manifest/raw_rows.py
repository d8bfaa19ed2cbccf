"""Rows as a manifest holds them, before their values are checked, and the contract of the formats' readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from common.format.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from worker.manifest.columns import Columns
    from worker.rows import ByteRange, ImageContent, ImageFailed


FIRST_VALUES = 1000
"""Number of values at the beginning of a manifest that tell what it holds."""


class Fields(NamedTuple):
    """The values of a row, in the order of Columns: text, or any other value that the format allows, or None."""

    url: object
    id: object = None
    subset: object = None
    thumbnail: object = None
    rotation: object = None
    image: object = None
    """Always None, because images are read apart from the rows."""


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
    cell: int | None = None
    """The number of the row among all rows, for `ImageReader.images`; None for a row without an image of its own."""
    name: str = ""
    """What the row is called where its URL is empty or cannot be used, for a row whose image the manifest holds."""


class UnreadableRow(NamedTuple):
    """A row that cannot be divided into values."""

    where: str
    problem: str
    """What is wrong with the row, for the ledger's detail."""
    text: str
    """The line."""
    reason: Reason = Reason.MALFORMED_ROW
    url: str = ""
    """The row's URL, where that much is known."""
    id: str = ""


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


@runtime_checkable
class ImageReader(Protocol):
    """A reader of a manifest that holds images which only the worker can read."""

    def images(self, cells: Sequence[int], *, max_bytes: int) -> Generator[ImageContent | ImageFailed]:
        """Yield the image of each of `cells`, which ascend, or the reason why there is none.

        An image of more than `max_bytes` is too large. Raises ManifestError when the manifest is damaged, and
        SourceUnavailable when it cannot be read.
        """


def spread_range(total: int, count: int) -> list[int]:
    """Return `count` evenly spaced numbers below `total`, or all of them where there are fewer."""
    return list(range(total)) if total <= count else [index * total // count for index in range(count)]


def chunk_range(total: int, *, index: int, count: int) -> range:
    """Return the part of `total` rows or bytes that chunk `index` of `count` covers. The parts follow without gaps."""
    return range(index * total // count, (index + 1) * total // count)
