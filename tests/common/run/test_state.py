"""When a run is finished, and which chunks are missing until then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from common.errors import ChunkInvalid
from common.run.keys import RESULT_KEY, SUMMARY_KEY, chunk_failures_key, chunk_key
from common.run.state import find_finished, find_missing
from common.run.summary import read_summary, write_summary
from common.store import open_store
from merger.merge import merge
from tests.merger.runs import put_run, settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store


@pytest.fixture
def merged(tmp_path: Path) -> Store:
    """A run of two chunks, merged."""
    store = open_store(str(tmp_path / "run"))
    put_run(store, [3, 2], failed=1)
    merge(store, settings_for(store, 2))
    return store


def test_a_merged_run_is_finished_and_lacks_no_chunk(merged: Store) -> None:
    finished = find_finished(merged)
    assert finished is not None
    assert (finished.header.requested, finished.header.embedded, finished.header.failed) == (7, 5, 2)
    assert finished.summary == read_summary(merged)
    assert finished.is_complete
    assert finished.holds(1)
    assert find_missing(merged, 2) == set()


def test_a_partial_merge_is_finished_and_still_lacks_its_missing_chunks(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    put_run(store, [3, 2, 4])
    store.delete([chunk_key(1)])
    merge(store, settings_for(store, 3, on_missing_chunks="partial"))
    finished = find_finished(store)
    assert finished is not None
    assert not finished.is_complete
    assert [finished.holds(chunk) for chunk in range(3)] == [True, False, True]
    assert find_missing(store, 3) == {1}


def test_a_chunk_that_has_left_only_the_list_of_its_failed_images_is_missing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    store.put_bytes(chunk_failures_key(1), b"chunk,row,id,url,reason,detail\n")
    assert find_missing(store, 2) == {0, 1}


@pytest.mark.parametrize("key", [SUMMARY_KEY, RESULT_KEY])
def test_a_run_without_its_summary_or_its_result_is_not_finished(merged: Store, key: str) -> None:
    merged.delete([key])
    assert find_finished(merged) is None
    assert find_missing(merged, 2) == {0, 1}


@pytest.mark.parametrize(
    "change",
    [
        {"rows_embedded": 6},
        {"chunks_missing": "1"},
        {"fingerprint": "another"},
        {"result_bytes": 1},
        {"rows_failed": -1},
    ],
)
def test_a_summary_of_another_result_does_not_make_a_run_finished(merged: Store, change: dict[str, object]) -> None:
    summary = json.loads(merged.read(SUMMARY_KEY)) | change
    merged.put_bytes(SUMMARY_KEY, json.dumps(summary).encode())
    assert find_finished(merged) is None


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"rows_requested": "many"}'])
def test_a_broken_summary_is_an_error_to_its_reader_and_no_finished_run(merged: Store, data: bytes) -> None:
    merged.put_bytes(SUMMARY_KEY, data)
    with pytest.raises(ChunkInvalid, match="is not a summary of a merge"):
        read_summary(merged)
    assert find_finished(merged) is None


def test_a_broken_result_is_not_a_finished_run(merged: Store) -> None:
    merged.put_bytes(RESULT_KEY, b"no HDF5")
    assert find_finished(merged) is None


def test_a_summary_is_written_as_it_is_read(merged: Store) -> None:
    summary = read_summary(merged)
    assert summary is not None
    before = merged.read(SUMMARY_KEY)
    write_summary(merged, summary, replacing=merged.stat(SUMMARY_KEY))
    assert merged.read(SUMMARY_KEY) == before
