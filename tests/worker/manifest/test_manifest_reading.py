"""A worker reads its own part of a manifest and little more. The server counts the bytes that it sends."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.manifest.manifests import opened
from worker.manifest.places.byte_source import HEAD_BYTES
from worker.manifest.text.lines import OVERLAP_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKS = 20


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def csv_list(rows: int) -> bytes:
    lines = (f'{row:08},https://photos.example/{row}.jpg,"A title, with {row % 97} words"' for row in range(rows))
    return ("ImageID,url,Title\n" + "\n".join(lines)).encode()


@pytest.mark.parametrize("index", [0, 7, CHUNKS - 1])
def test_a_worker_reads_its_own_part_of_a_csv_and_the_head(server: ManifestServer, index: int) -> None:
    content = csv_list(100_000)
    chunk = opened(server.publish("list.csv", content)).read_chunk(index, CHUNKS)
    own = sum(len(f'{row.id},{row.url},"A title, with {int(row.id) % 97} words"\n') for row in chunk.rows)
    assert abs(own - len(content) / CHUNKS) < 100
    assert server.bytes_sent <= HEAD_BYTES + own + OVERLAP_BYTES
    assert len(server.requests) == 2


def test_a_chunk_in_the_head_takes_no_second_request(server: ManifestServer) -> None:
    manifest = opened(server.publish("list.csv", csv_list(500)))
    assert [row.url for row in manifest.read_chunk(3, 500).rows] == ["https://photos.example/3.jpg"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("group_rows", [1000, 5000, 30_000])
def test_a_worker_reads_the_needed_columns_of_the_row_groups_that_overlap(
    server: ManifestServer, group_rows: int
) -> None:
    rows = 100_000
    table = pa.table(
        {
            "ImageID": [f"{row * 7919:016x}" for row in range(rows)],
            "Title": [f"A title of {row * 104_729} words that no worker needs" for row in range(rows)],
            "url": [f"https://photos.example/{row}.jpg" for row in range(rows)],
        }
    )
    file = io.BytesIO()
    parquet.write_table(table, file, row_group_size=group_rows, compression="none", use_dictionary=False)
    content = file.getvalue()
    manifest = opened(server.publish("list.parquet", content))
    metadata = parquet.ParquetFile(io.BytesIO(content)).metadata
    assert server.bytes_sent <= HEAD_BYTES + 65_536 + metadata.serialized_size
    server.bytes_sent = 0
    index = 7
    chunk = manifest.read_chunk(index, CHUNKS)
    first, last = index * rows // CHUNKS, (index + 1) * rows // CHUNKS - 1
    assert [row.id for row in chunk.rows] == [f"{row * 7919:016x}" for row in range(first, last + 1)]
    groups = range(first // group_rows, last // group_rows + 1)
    needed = sum(
        metadata.row_group(group).column(column).total_compressed_size for group in groups for column in (0, 2)
    )
    assert 0 < server.bytes_sent <= needed


def test_a_server_that_ignores_ranges_is_read_in_one_pass_and_gives_the_same_rows(server: ManifestServer) -> None:
    uri = server.publish("list.csv", csv_list(100_000))
    expected = opened(uri).read_chunk(7, CHUNKS)
    server.ranges = False
    server.requests.clear()
    assert opened(uri).read_chunk(7, CHUNKS) == expected
    assert len(server.requests) == 1
