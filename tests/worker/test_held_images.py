"""Whole workers on manifests that hold the images themselves: the vectors are those of the same pictures in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from common.format.checkpoint_file import Checkpoint, checkpoint_bytes
from common.format.chunk_file import read_header
from common.run.keys import checkpoint_key, chunk_key
from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.held_pictures import jpeg, struct_table, write_parquet
from tests.worker.worker_process import PHOTOS, Ended, read_chunk, run_worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PICTURES = [path.read_bytes() for path in PHOTOS]


@pytest.fixture(autouse=True)
def _quick_model(quick_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_MODEL", str(quick_clip))


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def embedded(run: Path, ended: Ended) -> dict[str, np.ndarray]:
    assert ended.exit_code == 0, ended.log
    chunk = read_chunk(run)
    return dict(zip(chunk.urls, chunk.embeddings, strict=True))


@pytest.mark.slow
def test_pictures_in_a_parquet_file_give_the_vectors_of_the_same_pictures_in_files(tmp_path: Path) -> None:
    names = [path.name for path in PHOTOS]
    list_path = tmp_path / "list.txt"
    list_path.write_text("".join(f"{path}\n" for path in PHOTOS))
    expected = embedded(tmp_path / "a", run_worker(run_uri=tmp_path / "a", manifest_uri=list_path))
    held = write_parquet(tmp_path / "held.parquet", struct_table(PICTURES, names), row_group_size=3)
    ended = run_worker(run_uri=tmp_path / "b", manifest_uri=held)
    found = embedded(tmp_path / "b", ended)
    assert list(found) == names
    for path in PHOTOS:
        assert np.array_equal(found[path.name], expected[str(path)])
    assert float(ended.events("spent")[0].values["megabytes"]) == pytest.approx(sum(map(len, PICTURES)) / 1e6, rel=0.01)


@pytest.mark.slow
def test_a_chunk_of_pictures_in_a_parquet_file_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    names = [path.name for path in PHOTOS]
    held = write_parquet(tmp_path / "held.parquet", struct_table(PICTURES, names), row_group_size=3)
    settings: dict[str, Any] = {"manifest_uri": held, "checkpoint_seconds": 60}
    undisturbed = embedded(tmp_path / "a", run_worker(run_uri=tmp_path / "a", **settings))
    with (tmp_path / "a" / chunk_key(0)).open("rb") as file:
        made_by = read_header(file, name="chunk").provenance
    rows = np.arange(0, len(names) - 3, 2)
    kept = np.array([undisturbed[names[row]] for row in rows])
    checkpoint = Checkpoint(index=0, requested=len(names), rows=rows, vectors=kept, provenance=made_by)
    (tmp_path / "b" / "chunks").mkdir(parents=True)
    (tmp_path / "b" / checkpoint_key(0, 0)).write_bytes(checkpoint_bytes(checkpoint))
    ended = run_worker(run_uri=tmp_path / "b", **settings)
    found = embedded(tmp_path / "b", ended)
    assert ended.events("resumed")[0].values["rows"] == str(len(rows))
    assert list(found) == names
    assert all(np.array_equal(found[name], undisturbed[name]) for name in names)


def test_rows_without_bytes_come_from_their_path_and_else_are_in_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "beside.jpg").write_bytes(jpeg(90))
    table = struct_table(
        [jpeg(10), None, None, b"no picture", b""], ["in.jpg", "beside.jpg", None, "text.jpg", "gone.jpg"]
    )
    held = write_parquet(tmp_path / "held.parquet", table)
    ended = run_worker(run_uri=tmp_path / "run", manifest_uri=held, max_failure_ratio=1)
    assert ended.exit_code == 0, ended.log
    chunk = read_chunk(tmp_path / "run")
    assert chunk.urls == ["in.jpg", "beside.jpg"]
    assert chunk.failures == {"held.parquet#2": "no_source", "text.jpg": "not_an_image", "gone.jpg": "not_found"}


@pytest.mark.slow
def test_seven_chunks_of_pictures_behind_http_are_one_chunk(tmp_path: Path, server: ManifestServer) -> None:
    pictures = [jpeg(shade) for shade in range(0, 230, 10)]
    table = pa.table({"content": pictures, "id": list(range(len(pictures)))})
    path = write_parquet(tmp_path / "held.parquet", table, row_group_size=4)
    uri = server.publish("held.parquet", path.read_bytes())
    run_worker(run_uri=tmp_path / "one", manifest_uri=uri)
    whole = read_chunk(tmp_path / "one")
    assert whole.urls == [f"{uri}#{row}" for row in range(len(pictures))]
    assert whole.ids == [str(row) for row in range(len(pictures))]
    parts = []
    for index in range(7):
        ended = run_worker(run_uri=tmp_path / "seven", manifest_uri=uri, chunk_count=7, index=index)
        assert ended.exit_code == 0, ended.log
        parts.append(read_chunk(tmp_path / "seven", index))
    assert [url for part in parts for url in part.urls] == whole.urls
    assert np.array_equal(np.concatenate([part.embeddings for part in parts]), whole.embeddings)


def test_a_damaged_page_of_pictures_ends_the_chunk_with_a_sentence(tmp_path: Path) -> None:
    table = struct_table([jpeg(shade, side=200) for shade in range(60)], [f"{shade}.jpg" for shade in range(60)])
    path = write_parquet(tmp_path / "held.parquet", table, row_group_size=20, compression="gzip")
    content = bytearray(path.read_bytes())
    place = content.index(b"\x1f\x8b", len(content) // 2)
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    ended = run_worker(run_uri=tmp_path / "run", manifest_uri=path)
    assert ended.exit_code == 78, ended.log
    assert "held.parquet is not a Parquet file, or is damaged" in ended.last_word


def test_the_provenance_names_the_source_bytes(tmp_path: Path) -> None:
    held = write_parquet(tmp_path / "held.parquet", pa.table({"jpg": [jpeg(5)]}))
    ended = run_worker(run_uri=tmp_path / "run", manifest_uri=held)
    assert ended.exit_code == 0, ended.log
    with (tmp_path / "run" / chunk_key(0)).open("rb") as file:
        assert read_header(file, name="chunk").provenance.sources == "bytes"
