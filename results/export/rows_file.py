"""The file `metadata.parquet` beside vectors without texts: the URL and the id of each row."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import parquet

from results.export.parquet_form import row_columns, rows_schema, rows_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from results.export.form import Block, Plan

ROWS_FILE = "metadata.parquet"


@contextmanager
def rows_file(folder: Path, plan: Plan) -> Iterator[Callable[[Block], None]]:
    """Give a function that adds a block's rows to the file."""
    schema = rows_schema(plan)
    with rows_writer(folder / ROWS_FILE, schema) as writer:
        yield lambda block: writer.write_table(pa.Table.from_arrays(list(row_columns(block)), schema=schema))


class RowsFileReading:
    """Reads the file back."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._columns = ["url", "id"] if plan.has_ids else ["url"]
        self._file = parquet.ParquetFile(folder / ROWS_FILE)
        self.row_count: int = self._file.metadata.num_rows
        self._groups = range(self._file.metadata.num_row_groups)

    def texts(self, rows: frozenset[int]) -> dict[int, tuple[str, ...]]:
        """Return the URL, and the id if there are ids, of these rows."""
        found: dict[int, tuple[str, ...]] = {}
        for group in self._groups:
            table = self._file.read_row_group(group, columns=["row", *self._columns])
            wanted = [place for place, row in enumerate(table["row"].to_pylist()) if row in rows]
            picked = table.take(wanted)
            texts = zip(*(picked[name].to_pylist() for name in self._columns), strict=True)
            found |= dict(zip(picked["row"].to_pylist(), texts, strict=True))
        return found
