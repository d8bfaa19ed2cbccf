"""The Parquet file of a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import pyarrow as pa
from pyarrow import parquet

from worker.listing.row_texts import RowTexts

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

GROUP_ROWS = 20_000
"""Number of rows in a row group. A chunk reads the row groups that it overlaps, and a usual chunk has 10,000 rows."""

PLAIN_NAMES = RowTexts("url", "id", "Subset", "Thumbnail300KURL", "Rotation")
OPEN_IMAGES_NAMES = PLAIN_NAMES._replace(url="OriginalURL", id="ImageID")
"""The names of columns. A list of Open Images keeps its own, because they tell where its images are."""


class ListFile:
    """Writes rows to a new Parquet file; use it as a context manager. Columns that are empty are left out.

    Whether a column is empty is known at the end only, so `columns` says which there are.
    """

    def __init__(self, path: Path, columns: RowTexts) -> None:
        """`columns` has the name of each column, an empty text for one that is left out."""
        self._places = [place for place, name in enumerate(columns) if name]
        self._schema = pa.schema([(columns[place], pa.string()) for place in self._places])
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[RowTexts] = []
        self.count = 0

    def add(self, row: RowTexts) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = [pa.array([row[place] for row in self._rows], pa.string()) for place in self._places]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rows and error is None:
            self._flush()
        self._writer.close()
