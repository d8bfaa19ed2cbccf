"""The chunks that a result was merged from, as the result itself says: the table in its dataset `chunks`.

A top-up finds a chunk's rows with it, and the merge that follows copies the rows of unchanged chunks by range.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MergedChunk:
    """One chunk of a result. The result's rows lie in the order of the chunks."""

    index: int
    requested: int
    """Number of rows of the manifest in the chunk."""
    embedded: int
    """Number of rows of the chunk in the result."""

    @property
    def failed(self) -> int:
        return self.requested - self.embedded
