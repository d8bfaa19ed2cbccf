"""Where a top-up finds the rows that stay, and that it takes no others over."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import pytest

from common.errors import ChunkInvalid, FingerprintMismatch, SettingsError
from common.format.failures_csv import new_failures_csv
from common.format.reasons import Reason
from common.run.keys import EARLIER_RESULT_KEY, FAILURES_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from tests.merger.runs import DIMENSIONS, provenance, put_chunk, read_summary
from tests.worker.top_up.pods import (
    COUNT,
    INDEX,
    MAY_BE_EMBEDDED,
    REASONS,
    Pod,
    earlier_chunk,
    manifest_chunk,
    put_earlier_run,
)
from worker.chunk_job import ledger_lines
from worker.chunk_job.ledger_lines import failures_of_chunk
from worker.chunk_job.outcome import NothingToTopUp

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


@pytest.mark.parametrize("is_merged", [False, True], ids=["unmerged", "merged"])
def test_rows_that_stay_keep_their_vectors_to_the_bit_and_their_texts(store: Store, *, is_merged: bool) -> None:
    earlier = put_earlier_run(store, is_merged=is_merged)
    with Pod(store) as pod:
        assert pod.begin() == list(MAY_BE_EMBEDDED)
        assert pod.collector.failures() == [earlier.failures[1]]
        pod.embed()
        chunk = pod.collector.chunk(index=INDEX, dimensions=DIMENSIONS, has_ids=True, provenance=provenance(COUNT))
        assert chunk.embeddings[:].tobytes() == earlier.embeddings[:].tobytes()
        assert (chunk.urls, chunk.ids) == (earlier.urls, earlier.ids)


def test_while_a_merge_replaces_the_result_the_rows_come_from_the_copy_of_the_old_one(folder_store: Store) -> None:
    put_earlier_run(folder_store, is_merged=True)
    folder_store.put_bytes(EARLIER_RESULT_KEY, folder_store.read(RESULT_KEY))
    folder_store.put_bytes(RESULT_KEY, b"the new result, not yet verified")
    with Pod(folder_store) as pod:
        assert pod.begin() == list(MAY_BE_EMBEDDED)


def test_a_run_whose_result_is_not_verified_yet_is_no_source_of_rows(folder_store: Store) -> None:
    put_earlier_run(folder_store, is_merged=True)
    folder_store.delete([SUMMARY_KEY])
    with Pod(folder_store) as pod:
        assert pod.begin() == list(range(12))


def test_a_chunk_that_is_nowhere_is_computed_as_a_whole(folder_store: Store) -> None:
    with Pod(folder_store) as pod:
        assert pod.begin() == list(range(12))


def test_a_damaged_chunk_file_is_replaced_by_the_rows_of_the_result(folder_store: Store) -> None:
    put_earlier_run(folder_store, is_merged=True)
    folder_store.put_bytes(chunk_key(INDEX), b"damaged")
    with Pod(folder_store) as pod:
        assert pod.begin() == list(MAY_BE_EMBEDDED)
        pod.embed(0, 2, 3)
        assert pod.store() == folder_store.stat(chunk_key(INDEX))


@pytest.mark.parametrize("share", [0.3, 0.95], ids=["vectors", "failures"])
def test_a_flipped_bit_in_a_chunk_file_leads_to_a_chunk_that_is_computed_as_a_whole(
    folder_store: Store, share: float
) -> None:
    put_chunk(folder_store, earlier_chunk())
    data = bytearray(folder_store.read(chunk_key(INDEX)))
    data[int(share * len(data))] ^= 1
    folder_store.put_bytes(chunk_key(INDEX), bytes(data))
    with Pod(folder_store) as pod:
        assert pod.begin() == list(range(12))
        pod.embed(*range(12))
        assert pod.store() == folder_store.stat(chunk_key(INDEX))


def test_a_flipped_bit_in_the_result_ends_the_top_up(folder_store: Store) -> None:
    put_earlier_run(folder_store, is_merged=True)
    data = bytearray(folder_store.read(RESULT_KEY))
    data[-7 * 4 * DIMENSIONS] ^= 1
    folder_store.put_bytes(RESULT_KEY, bytes(data))
    with Pod(folder_store) as pod, pytest.raises(ChunkInvalid, match=r"Images_Embedded.h5 is damaged"):
        pod.begin()


@pytest.mark.parametrize("is_merged", [False, True], ids=["unmerged", "merged"])
def test_a_run_with_other_settings_is_refused_before_any_row_is_computed(
    folder_store: Store, *, is_merged: bool
) -> None:
    put_earlier_run(folder_store, is_merged=is_merged)
    with Pod(folder_store, rotation=False) as pod, pytest.raises(FingerprintMismatch, match="rotation"):
        pod.begin()


@pytest.mark.parametrize("row", [0, 1, 7], ids=["computed again", "failed", "embedded"])
@pytest.mark.parametrize("is_merged", [False, True], ids=["unmerged", "merged"])
def test_a_list_with_another_image_in_a_row_is_refused(folder_store: Store, row: int, *, is_merged: bool) -> None:
    put_earlier_run(folder_store, is_merged=is_merged)
    listed = manifest_chunk(earlier_chunk())
    listed.rows[row] = listed.rows[row]._replace(url="https://photos.example/other")
    expected = rf"row {row} of chunk 1 is https://photos.example/.* in the list it is https://photos.example/other"
    with Pod(folder_store, listed=listed) as pod, pytest.raises(SettingsError, match=expected):
        pod.begin()


def test_a_result_of_an_earlier_version_is_refused_with_what_helps(folder_store: Store, tmp_path: Path) -> None:
    put_earlier_run(folder_store, is_merged=True)
    with h5py.File(tmp_path / "run" / RESULT_KEY, "r+") as file:
        del file["chunks"]
    summary = read_summary(folder_store)
    summary.pop("table_digest", None)
    folder_store.put_bytes(SUMMARY_KEY, json.dumps(summary).encode())
    with Pod(folder_store) as pod, pytest.raises(SettingsError, match=r"earlier version.*EMBEDDER_RUN_URI"):
        pod.begin()


@pytest.mark.parametrize("is_merged", [False, True], ids=["unmerged", "merged"])
def test_a_chunk_without_rows_to_compute_again_stays_as_it_is(folder_store: Store, *, is_merged: bool) -> None:
    put_earlier_run(folder_store, is_merged=is_merged)
    with Pod(folder_store) as pod:
        pod.begin()
        pod.embed(*MAY_BE_EMBEDDED)
        pod.store()
    before = sorted(folder_store.list(""))
    with Pod(folder_store) as later:
        nothing = later.top_up.find_nothing_to_do()
        assert nothing == NothingToTopUp(chunk=INDEX, location=later.place.location, embedded=11, failed=1)
    assert sorted(folder_store.list("")) == before


# The ledger


def write_ledger(store: Store, path: Path, *, chunks: int, failed: int, **cells: str) -> None:
    with new_failures_csv(path) as write:
        for chunk in range(chunks):
            for row in range(failed):
                texts = {"id": f"i{row}", "url": f"http://x/{chunk}/{row}", "detail": "x" * 200} | cells
                write((str(chunk), str(row), texts["id"], texts["url"], Reason.TIMEOUT, texts["detail"]))
    store.put_file(FAILURES_KEY, path)


@pytest.mark.parametrize("chunk", [0, 1, 57, 119])
def test_the_lines_of_a_chunk_are_found_in_a_long_ledger_without_reading_it_all(
    folder_store: Store, tmp_path: Path, chunk: int
) -> None:
    write_ledger(folder_store, tmp_path / "ledger.csv", chunks=120, failed=500)
    ledger = folder_store.stat(FAILURES_KEY)
    assert ledger is not None
    assert ledger.size > 10 * ledger_lines.READ_BYTES
    found = failures_of_chunk(folder_store, chunk, count=500)
    assert [failure.row for failure in found] == list(range(500))
    assert {failure.url for failure in found} == {f"http://x/{chunk}/{row}" for row in range(500)}


def test_texts_of_a_ledger_are_those_of_the_chunk_although_a_spreadsheet_must_not_run_them(
    folder_store: Store, tmp_path: Path
) -> None:
    write_ledger(folder_store, tmp_path / "l.csv", chunks=2, failed=2, detail='=1+1, "quoted"\nline', id="-5", url="")
    (failure, _) = failures_of_chunk(folder_store, 1, count=2)
    assert (failure.detail, failure.id, failure.url) == ('=1+1, "quoted"\nline', "-5", "")


def test_a_cell_that_looks_like_lines_of_a_ledger_misleads_nobody(folder_store: Store, tmp_path: Path) -> None:
    write_ledger(folder_store, tmp_path / "ledger.csv", chunks=40, failed=500, detail="\n7,7,a,b,timeout,c" * 12)
    for chunk in (3, 7, 39):
        found = failures_of_chunk(folder_store, chunk, count=500)
        assert [failure.url for failure in found] == [f"http://x/{chunk}/{row}" for row in range(500)]


def test_a_ledger_that_lacks_lines_is_an_error_that_says_how_many(folder_store: Store, tmp_path: Path) -> None:
    write_ledger(folder_store, tmp_path / "ledger.csv", chunks=2, failed=3)
    with pytest.raises(ChunkInvalid, match="has 3 images of chunk 1, and the result says that 4 failed"):
        failures_of_chunk(folder_store, 1, count=4)
    folder_store.put_bytes(FAILURES_KEY, b"chunk,row\n")
    with pytest.raises(ChunkInvalid, match="not a ledger of this program"):
        failures_of_chunk(folder_store, 1, count=3)
    folder_store.delete([FAILURES_KEY])
    with pytest.raises(ChunkInvalid, match="is absent"):
        failures_of_chunk(folder_store, 1, count=3)


def test_failed_rows_of_a_ledger_that_are_not_ascending_are_an_error(folder_store: Store, tmp_path: Path) -> None:
    earlier = put_earlier_run(folder_store, is_merged=True)
    with new_failures_csv(tmp_path / "ledger.csv") as write:
        for failure in replace(earlier, failures=earlier.failures[::-1]).failures:
            write((str(INDEX), str(failure.row), failure.id, failure.url, REASONS[failure.row], ""))
    folder_store.put_file(FAILURES_KEY, tmp_path / "ledger.csv")
    with Pod(folder_store) as pod, pytest.raises(ChunkInvalid, match="ascending"):
        pod.begin()
