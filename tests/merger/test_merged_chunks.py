"""The table of its chunks that every result has."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from common.errors import ChunkInvalid
from common.format.merged_chunks import (
    TYPE,
    merged_chunk,
    read_contents,
    read_merged_chunks,
    table_digest,
)
from common.format.result_file import read_result
from common.run.keys import RESULT_KEY
from common.store import open_store
from common.store.object_reader import ObjectReader
from merger.chunks import read_inputs
from merger.layout import compute_layout
from merger.merge import merge
from merger.progress import Traffic
from tests.merger.runs import put_run, settings_for
from tests.merger.test_layout import header, layout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from common.format.merged_chunks import MergedChunk
    from common.store.contract import Store

SIZES = (40, 0, 25, 3)


def read(store: Store) -> Sequence[MergedChunk] | None:
    stat = store.stat(RESULT_KEY)
    assert stat is not None
    with store.open(RESULT_KEY, stat.size) as file:
        return read_merged_chunks(file, name="the result")


def test_a_result_says_which_chunks_it_was_merged_from(store: Store) -> None:
    put_run(store, SIZES, failed=2)
    headers = read_inputs(store, chunk_count=4, allow_missing=False, concurrency=2, traffic=Traffic()).headers
    merge(store, settings_for(store, 4))
    chunks = read(store)
    assert chunks == [merged_chunk(header) for header in headers]
    assert [(chunk.index, chunk.requested, chunk.embedded, chunk.failed) for chunk in chunks] == [
        (index, rows + 2, rows, 2) for index, rows in enumerate(SIZES)
    ]


def test_two_runs_with_the_same_rows_have_the_same_table_and_other_failures_give_another(tmp_path: Path) -> None:
    tables = []
    for name, failed in (("one", 1), ("two", 1), ("three", 2)):
        store = open_store(str(tmp_path / name))
        put_run(store, SIZES, failed=failed)
        merge(store, settings_for(store, 4))
        tables.append(read(store))
    assert tables[0] == tables[1] != tables[2]


class Served:
    """A store of one object, of which only the first bytes are kept. It counts what is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.reads: list[int] = []

    def read(self, _key: str, start: int, length: int) -> bytes:
        self.reads.append(length)
        return self._content[start : start + length].ljust(length, b"\0")


@pytest.mark.parametrize(("chunk_count", "reads"), [(1, 1), (20, 1), (900, 2)])
def test_one_or_two_ranged_reads_return_the_header_and_the_table(chunk_count: int, reads: int) -> None:
    layout = layout_of(
        [
            header(index, 10_000, url_bytes=60, id_bytes=16, dimensions=512, chunk_count=chunk_count)
            for index in range(chunk_count)
        ]
    )
    served = Served(layout.metadata[0])
    file = io.BufferedReader(ObjectReader(served, RESULT_KEY, layout.size))  # type: ignore[arg-type]
    contents = read_contents(file, name="the result")
    assert contents is not None
    assert len(contents.chunks) == chunk_count
    assert contents.columns["embeddings"].rows == 10_000 * chunk_count
    assert len(served.reads) == reads
    assert sum(served.reads) < chunk_count * TYPE.itemsize + 40_000
    assert read_result(file, name="the result").table_digest


def test_the_table_of_100000_chunks_lies_before_the_rows() -> None:
    headers = [header(0, 10, url_bytes=60, id_bytes=0, dimensions=8, chunk_count=100_000)] * 100_000
    layout = compute_layout(headers, {})
    assert layout.columns[0].offset == len(layout.metadata[0]) < 20 << 20


def test_a_result_of_an_earlier_version_has_no_table(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_run(store, SIZES)
    merge(store, settings_for(store, 4))
    with h5py.File(tmp_path / RESULT_KEY, "r+") as file:
        del file["chunks"]
    assert read(store) is None
    with (tmp_path / RESULT_KEY).open("rb") as opened:
        assert read_result(opened, name="").table_digest == ""


def _flip_a_bit(file: h5py.File) -> None:
    table = file["chunks"][:]
    table["embeddings_sha256"][1, 3] ^= 4
    file["chunks"][:] = table


def _count_other_rows(file: h5py.File) -> None:
    table = file["chunks"][:]
    table["embedded"][0] -= 1
    file["chunks"][:] = table
    file["chunks"].attrs["sha256"] = table_digest(table.tobytes())


def _exchange(file: h5py.File) -> None:
    table = file["chunks"][:][::-1]
    file["chunks"][:] = table
    file["chunks"].attrs["sha256"] = table_digest(table.tobytes())


def _replace_by_numbers(file: h5py.File) -> None:
    del file["chunks"]
    file["chunks"] = np.arange(4)


def _replace_by_a_link(file: h5py.File) -> None:
    del file["chunks"]
    file["chunks"] = h5py.ExternalLink("/etc/passwd", "chunks")


@pytest.mark.parametrize("damage", [_flip_a_bit, _count_other_rows, _exchange, _replace_by_numbers, _replace_by_a_link])
def test_a_damaged_table_is_not_believed(tmp_path: Path, damage: Callable[[h5py.File], None]) -> None:
    store = open_store(str(tmp_path))
    put_run(store, SIZES)
    merge(store, settings_for(store, 4))
    with h5py.File(tmp_path / RESULT_KEY, "r+") as file:
        damage(file)
    with pytest.raises(ChunkInvalid, match="table of chunks in the result is damaged"):
        read(store)
