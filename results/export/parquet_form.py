"""An export as Parquet: one file, or several files of a folder that are one table."""

from __future__ import annotations

import json
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from results.export.form import Block, ReadRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from results.export.form import Plan

METADATA_KEY = "embedder"
"""The key of the facts about the export, as JSON, in the metadata of each file."""

_NUMBERS_PATH = "embedding.list.element"
"""The path of the column of numbers within the file."""

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}


class ParquetForm:
    """See `form.Form`."""

    file_name = "embeddings.parquet"
    has_texts = True

    def memory_bytes(self, plan: Plan) -> int:  # noqa: ARG002 - written row group by row group
        return 0

    def write(self, folder: Path, plan: Plan, blocks: Iterable[Block]) -> None:
        number = _NUMBERS[plan.number_type.value]
        vector = pa.list_(pa.field("element", number, nullable=False), plan.dimensions)
        schema = rows_schema(plan).append(pa.field("embedding", vector, nullable=False))
        encoding = plan.encoding
        parts = _parts(blocks, plan.rows_per_file or max(plan.rows, 1))
        for path, part in zip(_paths(folder, plan), parts, strict=False):
            with rows_writer(path, schema) as writer:
                for block in part:
                    numbers = pa.array(encoding.encode(block.vectors).reshape(-1))
                    column = pa.FixedSizeListArray.from_arrays(numbers, type=vector)
                    writer.write_table(
                        pa.Table.from_arrays([*row_columns(block), column], schema=schema), len(block.urls)
                    )

    def open(self, folder: Path, plan: Plan) -> ParquetReading:
        return ParquetReading(_paths(folder, plan), plan)


class _RowGroup(NamedTuple):
    file: parquet.ParquetFile
    number: int


class ParquetReading:
    """See `form.Reading`."""

    least_found = 0.0

    def __init__(self, paths: Iterable[Path], plan: Plan) -> None:
        self._encoding, self._has_ids, self._dimensions = plan.encoding, plan.has_ids, plan.dimensions
        self._groups: list[_RowGroup] = []
        sizes: list[int] = []
        for path in paths:
            file = parquet.ParquetFile(path)
            for number in range(file.metadata.num_row_groups):
                self._groups.append(_RowGroup(file, number))
                sizes.append(file.metadata.row_group(number).num_rows)
        self._starts = [0, *accumulate(sizes)]
        self.row_count = self._starts[-1]
        self._last: pa.Table | None = None
        self._last_index = -1

    def rows(self, start: int, stop: int) -> ReadRows:
        urls: list[str] = []
        ids: list[str] = []
        vectors = []
        while start < stop:
            index = bisect_right(self._starts, start) - 1
            table = self._group(index).slice(start - self._starts[index], stop - start)
            numbers = table["embedding"].combine_chunks().flatten().to_numpy()
            vectors.append(self._encoding.decode(numbers.reshape(-1, self._dimensions)))
            urls += table["url"].to_pylist()
            ids += table["id"].to_pylist() if self._has_ids else []
            if table["row"].to_pylist() != list(range(start, start + len(table))):
                raise ValueError(f"rows {start} to {stop} have other numbers")
            start += len(table)
        return ReadRows(np.concatenate(vectors), urls, ids if self._has_ids else None)

    def _group(self, index: int) -> pa.Table:
        # Neighbouring rows are read one after the other, so the last row group is often the next one too.
        if self._last_index != index:
            self._last = None  # two of them are never held
            group = self._groups[index]
            self._last, self._last_index = group.file.read_row_group(group.number), index
        return self._last

    def tolerance(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._encoding.tolerance(vectors)

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        raise NotImplementedError("a table has no search")


def rows_schema(plan: Plan) -> pa.Schema:
    """Return the columns of the rows without their vectors: `row`, `url`, and `id` where the manifest has ids."""
    fields = [pa.field("row", pa.int64(), nullable=False), pa.field("url", pa.string(), nullable=False)]
    if plan.has_ids:
        fields.append(pa.field("id", pa.string(), nullable=False))
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(plan.facts, ensure_ascii=False)})


def rows_writer(path: Path, schema: pa.Schema) -> parquet.ParquetWriter:
    """Return a writer that compresses the texts alone: the numbers of a vector do not become smaller."""
    # Parquet stores an int8 in four bytes. As its place in a dictionary of at most 255 numbers it takes one.
    is_int8 = "embedding" in schema.names and schema.field("embedding").type.value_type == pa.int8()
    return parquet.ParquetWriter(
        path,
        schema,
        use_dictionary=[_NUMBERS_PATH] if is_int8 else False,
        write_statistics=["row"],
        compression={"row": "zstd", "url": "zstd", "id": "zstd", _NUMBERS_PATH: "none"},
        column_encoding={"row": "DELTA_BINARY_PACKED"},
    )


def row_columns(block: Block) -> Sequence[pa.Array]:
    """Return the columns of `rows_schema`."""
    columns = [np.arange(block.first, block.first + len(block.urls)), block.urls]
    return [pa.array(each) for each in (columns if block.ids is None else [*columns, block.ids])]


def _paths(folder: Path, plan: Plan) -> Sequence[Path]:
    if not plan.rows_per_file:
        return [folder / ParquetForm.file_name]
    count = max(1, -(-plan.rows // plan.rows_per_file))
    return [folder / f"embeddings-{number:05d}.parquet" for number in range(count)]


def _parts(blocks: Iterable[Block], rows_per_file: int) -> Iterator[Iterator[Block]]:
    """Divide the blocks into parts of that many rows. At least one part, each to be read before the next."""
    source = iter(blocks)
    rest = next(source, None)

    def part() -> Iterator[Block]:
        nonlocal rest
        room = rows_per_file
        while rest is not None and room:
            block, rest = _divided(rest, room)
            room -= len(block.urls)
            yield block
            rest = rest if rest is not None else next(source, None)

    yield part()
    while rest is not None:
        yield part()


def _divided(block: Block, rows: int) -> tuple[Block, Block | None]:
    """Return the first rows of a block, and the rest if there is one."""
    if len(block.urls) <= rows:
        return block, None
    first, rest = (
        Block(
            block.first + (part.start or 0),
            block.vectors[part],
            block.urls[part],
            None if block.ids is None else block.ids[part],
        )
        for part in (slice(None, rows), slice(rows, None))
    )
    return first, rest
