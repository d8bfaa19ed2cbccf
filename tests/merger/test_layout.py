"""The layout that is computed from headers alone, compared with how HDF5 reads it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import h5py
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from common.format.chunk_file import ChunkHeader, DatasetSpan
from merger.layout import ALIGNMENT, METADATA, SMALL_BYTES, Layout, compute_layout, result_attributes
from merger.totals import count_totals
from tests.merger.runs import provenance

if TYPE_CHECKING:
    from collections.abc import Sequence


def header(index: int, rows: int, *, url_bytes: int, id_bytes: int, dimensions: int, chunk_count: int) -> ChunkHeader:
    widths = {"urls": url_bytes, "ids": id_bytes, "embeddings": 4 * dimensions}
    failures = {
        f"failures/{name}": DatasetSpan(0, 0, 8, f"{index:064x}") for name in ("row", "url", "id", "reason", "detail")
    }
    made_by = provenance(chunk_count)
    return ChunkHeader(
        index=index,
        requested=rows,
        embedded=rows,
        failed=0,
        dimensions=dimensions,
        provenance=made_by,
        fingerprint=made_by.fingerprint,
        program_version="1",
        created_at=f"2026-11-23T00:00:{index % 60:02}+00:00",
        spans=failures
        | {name: DatasetSpan(65_536, rows, width, f"{index:064x}") for name, width in widths.items() if width},
    )


@st.composite
def runs(draw: st.DrawFn) -> list[ChunkHeader]:
    sizes = draw(st.lists(st.integers(0, 40) | st.integers(0, 9000), min_size=1, max_size=12))
    dimensions = draw(st.integers(1, 40))
    with_ids = draw(st.booleans())
    return [
        header(
            index,
            rows,
            url_bytes=draw(st.integers(1, 90)),
            id_bytes=draw(st.integers(1, 20)) if with_ids else 0,
            dimensions=dimensions,
            chunk_count=len(sizes),
        )
        for index, rows in enumerate(sizes)
    ]


def layout_of(headers: Sequence[ChunkHeader]) -> Layout:
    return compute_layout(headers, result_attributes(headers, count_totals(headers, [])))


@given(runs())
@settings(max_examples=60, deadline=None)
def test_the_pieces_cover_the_file_once_and_the_rows_of_every_column_in_order(headers: list[ChunkHeader]) -> None:
    layout = layout_of(headers)
    offset = 0
    rows: dict[str, list[tuple[int, int]]] = {column.name: [] for column in layout.columns}
    for piece in layout.pieces():
        if piece.column == METADATA:
            assert piece.first == offset
        else:
            column = layout.column(piece.column)
            assert offset == column.offset + (layout.starts[piece.chunk] + piece.first) * column.row_bytes
            rows[piece.column].append((piece.chunk, piece.rows))
        offset += piece.size
    assert offset == layout.size
    expected = [(chunk, header.embedded) for chunk, header in enumerate(headers) if header.embedded]
    assert all(found == expected for found in rows.values())
    assert all(
        column.offset % ALIGNMENT == 0 for column in layout.columns if layout.rows * column.row_bytes >= SMALL_BYTES
    )


@given(runs())
@settings(max_examples=40, deadline=None)
def test_hdf5_reads_from_the_layout_what_was_written_by_it(headers: list[ChunkHeader]) -> None:
    layout = layout_of(headers)
    file = io.BytesIO(bytes(layout.size))
    for offset, data in layout.metadata.items():
        file.getbuffer()[offset : offset + len(data)] = data
    expected = {}
    for number, column in enumerate(layout.columns):
        content = np.random.default_rng(number).integers(1, 100, layout.rows * column.row_bytes, np.uint8)
        file.getbuffer()[column.offset : column.offset + content.size] = content.data
        expected[column.name] = content.tobytes()
    with h5py.File(file, "r") as result:
        assert set(result) == {"chunks", *expected}
        for name, written in expected.items():
            assert result[name][:].tobytes() == written
            assert result[name].chunks is None
        assert result["embeddings"].dtype == np.dtype("<f4")
        assert result["embeddings"].shape == (layout.rows, headers[0].dimensions)
        assert result["urls"].dtype.kind == "S"
        assert result.attrs["rows_embedded"] == layout.rows


def test_the_layout_of_nine_million_rows_is_computed_without_writing_them() -> None:
    headers = [
        header(index, 10_000, url_bytes=150 + index % 50, id_bytes=16, dimensions=512, chunk_count=900)
        for index in range(900)
    ]
    layout = layout_of(headers)
    assert layout.rows == 9_000_000
    assert layout.column("urls").row_bytes == 199
    assert sum(map(len, layout.metadata.values())) < 200_000
    assert layout.size > 9_000_000 * (199 + 16 + 2048)


def test_the_same_chunks_have_the_same_layout_and_metadata_whenever_they_are_merged() -> None:
    headers = [header(index, 7, url_bytes=20, id_bytes=0, dimensions=8, chunk_count=3) for index in range(3)]
    assert layout_of(headers) == layout_of(headers)


def test_a_list_of_missing_chunks_longer_than_the_metadata_block_still_precedes_the_rows() -> None:
    headers = [header(index, 3, url_bytes=20, id_bytes=0, dimensions=8, chunk_count=60_000) for index in (1, 3)]
    missing = range(0, 60_000, 2)
    layout = compute_layout(headers, result_attributes(headers, count_totals(headers, missing)))
    assert layout.metadata.keys() & {0}
    assert layout.columns[0].offset > 170_000
    with h5py.File(io.BytesIO(b"".join(layout.metadata.values()).ljust(layout.size, b"\0")), "r") as result:
        assert len(result.attrs["chunks_missing"]) > 170_000
