"""What every form of an export promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from results.export.encoding import encoding_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from results.export.encoding import Bounds, Encoding
    from results.export.number_type import NumberType


class Block(NamedTuple):
    """Rows of the result, in their order."""

    first: int
    """The number of the first row."""
    vectors: NDArray[np.float32]
    """(rows, dimensions)"""
    urls: Sequence[str]
    ids: Sequence[str] | None
    """None where the manifest has no ids."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is exported."""

    rows: int
    dimensions: int
    has_ids: bool
    number_type: NumberType
    bounds: Bounds
    """The bounds of the vectors; zeros unless the numbers are int8."""
    rows_per_file: int
    """Number of rows in each file of a Parquet export; 0: all rows in one file."""
    facts: Mapping[str, object]
    """What the export says of itself: where it comes from and how its numbers are read."""

    @property
    def encoding(self) -> Encoding:
        return encoding_for(self.number_type, self.bounds)

    @property
    def vectors_bytes(self) -> int:
        return self.rows * self.dimensions * self.number_type.item_bytes


class ReadRows(NamedTuple):
    """Rows that were read back from an export."""

    vectors: NDArray[np.float32]
    urls: Sequence[str] | None
    """None where the form holds no texts."""
    ids: Sequence[str] | None


class Reading(Protocol):
    """An export that is read back with the library that people use."""

    row_count: int
    least_found: float
    """The share of sampled vectors (0 to 1) that a search must find; 0 for a form without a search."""

    def rows(self, start: int, stop: int) -> ReadRows:
        """Return the rows [start, stop)."""

    def tolerance(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return by how much each number may differ from these vectors."""

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the row that is nearest to each vector, by the form's own search."""


class Form(Protocol):
    """A form of an export."""

    file_name: str
    """The name of the file with the vectors. Of several files, it is the first part of each name."""
    has_texts: bool
    """Whether that file holds the URLs and ids too."""

    def memory_bytes(self, plan: Plan) -> int:
        """Return the memory for what the form must hold whole, 0 for a form that is written row by row."""

    def write(self, folder: Path, plan: Plan, blocks: Iterable[Block]) -> None:
        """Write all rows into the folder."""

    def open(self, folder: Path, plan: Plan) -> Reading:
        """Open what was written."""
