"""Whole merges, on both stores."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from common.errors import ChunksMissing
from common.format.chunk_file import Failure
from common.format.reasons import Reason
from common.format.run_attributes import read_provenance
from common.run.keys import (
    CHUNKS_PREFIX,
    FAILURES_KEY,
    REPORT_KEY,
    RESULT_KEY,
    SUMMARY_KEY,
    checkpoint_key,
    chunk_failures_key,
    chunk_key,
)
from common.store import open_store
from merger.command import sentence
from merger.merge import merge
from merger.outcome import AlreadyFinished
from tests.merger.runs import (
    assert_merged,
    make_chunk,
    merger_environment,
    put_chunk,
    put_run,
    read_result,
    read_summary,
    settings_for,
)

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store
    from tests.s3_server import S3Server


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ([1], {}),
        ([3000], {}),
        ([5, 7, 3], {"failed": 2}),
        ([0, 40, 0, 0, 30, 0], {"failed": 1}),
        ([3000, 3000, 1], {}),
        ([2600, 10, 2600, 2559, 2561, 9], {"failed": 1}),
        ([0, 0], {"failed": 3}),
        ([0, 0], {}),
        ([3, 2, 0, 900], {"dimensions": 768, "with_ids": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize("assembly", ["server-side", "streaming"])
def test_the_result_has_the_datasets_of_a_naive_merge(
    store: Store, sizes: list[int], options: dict[str, Any], assembly: str
) -> None:
    chunks = put_run(store, sizes, **options)
    merge(store, settings_for(store, len(sizes), assembly=assembly, verify="full"))
    assert_merged(store, chunks)
    assert sorted(found.key for found in store.list("")) == [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY]


def test_urls_of_different_widths_are_never_cut(store: Store) -> None:
    chunks = [make_chunk(index, 40, chunk_count=3, url_bytes=width) for index, width in enumerate((60, 2000, 90))]
    for chunk in chunks:
        put_chunk(store, chunk)
    merge(store, settings_for(store, 3))
    assert_merged(store, chunks)
    assert read_result(store).urls.dtype == np.dtype("S2001")  # an é is two bytes


def test_the_texts_of_a_result_are_text_for_h5py(store: Store) -> None:
    chunks = put_run(store, [3, 0, 2])
    merge(store, settings_for(store, 3))
    stat = store.stat(RESULT_KEY)
    assert stat is not None
    with store.open(RESULT_KEY, stat.size) as opened, h5py.File(opened, "r") as result:
        urls = result["urls"].asstr()[:].tolist()
        ids = result["ids"].asstr()[:].tolist()
    assert urls == [url for chunk in chunks for url in chunk.urls]
    assert "é" in urls[0]
    assert ids == [each for chunk in chunks for each in chunk.ids or ()]


def test_a_merge_of_a_finished_run_says_so_and_clears_up_what_was_left(store: Store) -> None:
    chunks = put_run(store, [5, 6], failed=1)
    merge(store, settings_for(store, 2, keep_chunks=True))
    before = [store.stat(key) for key in (RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY)]
    assert isinstance(merge(store, settings_for(store, 2, keep_chunks=True)), AlreadyFinished)
    assert store.stat(chunk_key(1)) is not None
    assert isinstance(merge(store, settings_for(store, 2)), AlreadyFinished)
    assert [store.stat(key) for key in (RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY)] == before
    assert list(store.list(CHUNKS_PREFIX)) == []
    assert_merged(store, chunks)


def test_lists_of_failed_images_are_no_chunks_and_go_with_the_chunk_files(store: Store) -> None:
    chunks = put_run(store, [5, 6])
    store.put_bytes(chunk_failures_key(1), b"left by an attempt")
    merge(store, settings_for(store, 2, keep_chunks=True))
    assert store.stat(chunk_failures_key(1)) is not None
    assert isinstance(merge(store, settings_for(store, 2)), AlreadyFinished)
    assert list(store.list(CHUNKS_PREFIX)) == []
    assert_merged(store, chunks)


def test_the_lists_of_the_chunks_that_a_partial_result_lacks_stay(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_run(store, [5, 6])
    store.delete([chunk_key(1)])
    store.put_bytes(chunk_failures_key(1), b"why it failed")
    merge(store, settings_for(store, 2, on_missing_chunks="partial"))
    assert store.read(chunk_failures_key(1)) == b"why it failed"
    with pytest.raises(ChunksMissing, match=r"missing: 1 \(failed images are listed in .*failures_1\.csv\); run"):
        merge(store, settings_for(store, 2))


def test_checkpoints_are_no_chunks_and_the_merge_deletes_those_that_are_left(store: Store) -> None:
    chunks = put_run(store, [5, 6])
    for index in (0, 1):
        store.put_bytes(checkpoint_key(index, 3), b"left by an attempt")
    merge(store, settings_for(store, 2, keep_chunks=True))
    assert [found.key for found in store.list(CHUNKS_PREFIX)] == [chunk_key(0), chunk_key(1)]
    store.put_bytes(checkpoint_key(1, 4), b"left by another attempt")
    assert isinstance(merge(store, settings_for(store, 2)), AlreadyFinished)
    assert list(store.list(CHUNKS_PREFIX)) == []
    assert_merged(store, chunks)


def test_the_checkpoints_of_the_chunks_that_a_partial_result_lacks_stay_for_the_rerun(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_run(store, [5, 6])
    store.delete([chunk_key(1)])
    for index in (0, 1):
        store.put_bytes(checkpoint_key(index, 0), b"left by an attempt")
    merge(store, settings_for(store, 2, on_missing_chunks="partial"))
    assert store.stat(checkpoint_key(1, 0)) is not None
    assert store.stat(checkpoint_key(0, 0)) is None


def test_a_merge_removes_the_checkpoints_that_killed_workers_were_writing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    chunks = put_run(store, [5, 6])
    (tmp_path / "chunks" / ".checkpoint_1_000003.h5.0123abcd.part").write_bytes(b"half")
    merge(store, settings_for(store, 2))
    assert_merged(store, chunks)
    assert not (tmp_path / "chunks").exists()


def test_the_last_word_says_what_was_merged_or_that_the_run_was_finished_before(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_run(store, [5, 6], failed=1)
    merged = sentence(merge(store, settings_for(store, 2)), result="<run>/Images_Embedded.h5")
    copied, uploaded = (read_summary(store)[name] for name in ("bytes_copied_by_store", "bytes_uploaded"))
    assert merged == (
        "<run>/Images_Embedded.h5 has 11 images of 13, 2 failed; "
        f"{copied} bytes copied by the store, {uploaded} uploaded, 11 rows compared"
    )
    again = sentence(merge(store, settings_for(store, 2)), result="<run>/Images_Embedded.h5")
    assert again == "this run is finished: <run>/Images_Embedded.h5 has 11 images, 2 failed"


def test_a_result_without_a_summary_is_verified_and_finished(store: Store) -> None:
    chunks = put_run(store, [5, 6], failed=1)
    merge(store, settings_for(store, 2, keep_chunks=True))
    before = store.stat(RESULT_KEY)
    store.delete([SUMMARY_KEY, FAILURES_KEY])
    merge(store, settings_for(store, 2))
    assert store.stat(RESULT_KEY) == before
    assert read_summary(store)["assembly"] == "found"
    assert_merged(store, chunks)


def test_a_result_without_a_summary_that_is_not_right_is_made_again(store: Store) -> None:
    chunks = put_run(store, [5, 6])
    merge(store, settings_for(store, 2, keep_chunks=True))
    store.delete([SUMMARY_KEY])
    spoilt = bytearray(store.read(RESULT_KEY))
    spoilt[-2000:] = bytes(2000)
    store.put_bytes(RESULT_KEY, bytes(spoilt))
    merge(store, settings_for(store, 2))
    assert_merged(store, chunks)


def test_the_ledger_has_every_failure_in_order_and_no_formulas(store: Store) -> None:
    failures = [
        Failure(3, "=HYPERLINK(1)", Reason.INVALID_URL, "-1", "@id"),
        Failure(9, 'https://a.example/ü,"x"', Reason.NOT_FOUND, "line\nbreak", "+7"),
        Failure(11, "", Reason.MALFORMED_ROW, "\tcolumns", ""),
        Failure(12, "\uff1dSUM(1)", Reason.INVALID_URL, "\n=1", "a"),
    ]
    put_chunk(store, replace(make_chunk(0, 20, chunk_count=3), failures=failures))
    put_chunk(store, make_chunk(1, 0, chunk_count=3))
    put_chunk(store, make_chunk(2, 1, chunk_count=3, failed=2))
    merge(store, settings_for(store, 3))
    rows = list(csv.reader(io.StringIO(store.read(FAILURES_KEY).decode(), newline="")))
    assert rows[0] == ["chunk", "row", "id", "url", "reason", "detail"]
    assert rows[1:5] == [
        ["0", "3", "'@id", "'=HYPERLINK(1)", "invalid_url", "'-1"],
        ["0", "9", "'+7", 'https://a.example/ü,"x"', "not_found", "line\nbreak"],
        ["0", "11", "", "", "malformed_row", "'\tcolumns"],
        ["0", "12", "a", "'\uff1dSUM(1)", "invalid_url", "'\n=1"],
    ]
    assert [row[:2] for row in rows[5:]] == [["2", "0"], ["2", "1"]]
    summary = read_summary(store)
    assert summary["failures_by_reason"] == {"invalid_url": 2, "malformed_row": 1, "not_found": 3}
    assert (summary["rows_requested"], summary["rows_embedded"], summary["rows_failed"]) == (27, 21, 6)


def test_the_result_carries_its_provenance_and_is_mapped_from_its_offset(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    chunks = put_run(store, [300, 200], failed=1)
    merge(store, settings_for(store, 2))
    with h5py.File(tmp_path / RESULT_KEY) as file:
        assert read_provenance(file) == chunks[0].provenance
        assert file.attrs["fingerprint"] == chunks[0].provenance.fingerprint
        assert [file.attrs[f"rows_{name}"] for name in ("requested", "embedded", "failed")] == [502, 500, 2]
        assert file.attrs["chunks_missing"] == ""
        vectors = file["embeddings"]
        mapped = np.memmap(tmp_path / RESULT_KEY, vectors.dtype, "r", vectors.id.get_offset(), vectors.shape)
        assert np.array_equal(mapped, vectors[:])


@pytest.mark.parametrize("tool", ["h5ls", "h5dump"])
def test_the_tools_of_hdf5_open_the_result(tmp_path: Path, tool: str) -> None:
    if (program := shutil.which(tool)) is None:
        pytest.skip(f"{tool} is not installed (Debian: hdf5-tools)")
    store = open_store(str(tmp_path))
    chunks = put_run(store, [3, 0, 4], dimensions=8)
    merge(store, settings_for(store, 3))
    arguments = ["-d"] if tool == "h5ls" else ["-d", "/urls", "-d", "/embeddings"]
    done = subprocess.run([program, *arguments, str(tmp_path / RESULT_KEY)], capture_output=True, check=True, text=True)
    assert done.stderr == ""
    assert chunks[2].urls[3].removesuffix("é") in done.stdout
    assert ("{7, 8}" if tool == "h5ls" else "( 7, 8 )") in done.stdout


def test_merging_the_same_chunks_again_gives_the_same_bytes(store: Store) -> None:
    put_run(store, [30, 2, 7])
    results = []
    for assembly in ("server-side", "streaming"):
        merge(store, settings_for(store, 3, keep_chunks=True, assembly=assembly))
        results.append(store.read(RESULT_KEY))
        store.delete([RESULT_KEY, SUMMARY_KEY])
    assert results[0] == results[1]


def test_the_store_copies_large_chunks_and_only_the_rest_is_uploaded(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/run")
    put_run(store, [5200, 5200, 5200])
    merge(store, settings_for(store, 3))
    summary = read_summary(store)
    assert summary["assembly"] == "server-side"
    assert summary["bytes_copied_by_store"] + summary["bytes_uploaded"] == summary["result_bytes"]
    assert summary["bytes_uploaded"] < (5 << 20) + 2048


@pytest.mark.slow
def test_hundreds_of_tiny_chunks_are_merged(store: Store) -> None:
    chunks = put_run(store, [index % 4 for index in range(200)], dimensions=16)
    merge(store, settings_for(store, 200))
    assert_merged(store, chunks)


@pytest.mark.slow
def test_thousands_of_tiny_chunks_are_merged(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    chunks = put_run(store, [1 + index % 3 for index in range(2500)])
    merge(store, settings_for(store, 2500))
    assert_merged(store, chunks)


MERGE_AND_PRINT_PEAK_MEMORY = """
from pathlib import Path
from merger.command import run_merger
run_merger()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])
"""


@pytest.mark.slow
def test_a_merge_takes_far_less_memory_than_its_vectors(bucket: str, s3: S3Server) -> None:
    store = open_store(f"s3://{bucket}/run")
    chunk = make_chunk(0, 12_000, chunk_count=14)
    for index in range(14):  # 344 MB of vectors
        put_chunk(store, replace(chunk, index=index))
    for assembly in ("server-side", "streaming"):
        done = subprocess.run(
            [sys.executable, "-c", MERGE_AND_PRINT_PEAK_MEMORY],
            env=os.environ | merger_environment(store.uri, 14, s3.environment, assembly=assembly, keep_chunks="true"),
            capture_output=True,
            check=True,
            text=True,
        )
        assert int(done.stdout) * 1024 < 250e6, assembly
        assert read_summary(store)["assembly"] == assembly
        store.delete([RESULT_KEY, SUMMARY_KEY])
