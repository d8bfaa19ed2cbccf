"""What the readers of the formats share: the rows as a manifest holds them, before anything in them is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from common.format.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.columns import Columns


class Fields(NamedTuple):
    """A row's values in the order of Columns: None where there is none, else text or what else the format allows."""

    url: object
    id: object = None
    subset: object = None
    thumbnail: object = None
    rotation: object = None


class RawRow(NamedTuple):
    where: str
    """As in `line at byte 4711` or `row 17 (the first is 0)`."""
    fields: Fields
    text: str = ""
    """The row as it is written, where it is text."""
    problem: str = ""
    """What is wrong with the row although its values could be told apart."""


class UnreadableRow(NamedTuple):
    where: str
    problem: str
    text: str
    reason: Reason = Reason.MALFORMED_ROW


class RowReader(Protocol):
    @property
    def columns(self) -> Columns | None:
        """Return None where the format has no columns."""

    @property
    def has_ids(self) -> bool: ...

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        """Yield the rows of chunk `index` of `count`, in the manifest's order."""


def chunk_range(total: int, *, index: int, count: int) -> range:
    """Return chunk `index`'s share of `total` rows or bytes: the shares of 0 to `count` - 1 follow without gap."""
    return range(index * total // count, (index + 1) * total // count)
