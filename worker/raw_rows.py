"""What the readers of the formats share: the rows as a manifest holds them, before anything in them is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from common.logs import redact_urls
from common.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.columns import Columns

EXCERPT_LENGTH = 200
"""Characters of a bad row that its record shows."""


LOOKED_AT = 4096
"""Characters of a bad row in which URLs are redacted."""


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


def shown(text: str) -> str:
    """Return an excerpt for the ledger and the log: without passwords and signatures of URLs."""
    return excerpt(redact_urls(text[:LOOKED_AT]))


def excerpt(text: str) -> str:
    """Return the start of `text` with control characters and lone surrogates escaped."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:EXCERPT_LENGTH])
    return f"{shown[:EXCERPT_LENGTH]}…" if len(text) > EXCERPT_LENGTH or len(shown) > EXCERPT_LENGTH else shown
