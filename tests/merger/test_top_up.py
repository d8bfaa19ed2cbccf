"""The merge after a top-up: rows of chunk files and of the earlier result become one result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import pytest

from common.errors import ChunkInvalid
from common.format.reasons import Reason
from common.run.keys import EARLIER_RESULT_KEY, FAILURES_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.run.state import find_finished, find_missing
from common.store import open_store
from merger.merge import merge
from merger.outcome import AlreadyFinished, Merged
from tests.merger.runs import put_chunk, read_summary, settings_for
from tests.merger.top_ups import FINISHED, content, manifest, merged_at_once, objects, put, with_files

if TYPE_CHECKING:
    from common.store.contract import Store

COUNTS = (40, 3, 25, 1, 30)
GONE = {0: (5, 9), 2: (1,), 4: (29,)}
"""Rows that no top-up embeds."""


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def merged(store: Store, **options: str) -> Merged | AlreadyFinished:
    return merge(store, settings_for(store, len(COUNTS), **options))


@pytest.mark.parametrize(("with_ids", "url_bytes"), [(True, 300), (False, 0)])
def test_after_a_top_up_the_run_is_what_it_would_be_if_nothing_had_failed(
    store: Store, tmp_path: Path, with_ids: bool, url_bytes: int
) -> None:
    rows = manifest(COUNTS, with_ids=with_ids, url_bytes=url_bytes)
    gone = [GONE.get(each.index, ()) for each in rows]
    failed = {1: (0, 2), 2: (3, 24), 3: (0,)}
    put(store, [each.chunk(failed.get(each.index, ()), gone=gone[each.index]) for each in rows])
    merged(store)
    assert objects(store) == FINISHED
    put(store, [rows[index].chunk(gone=gone[index]) for index in failed])
    outcome = merged(store)
    assert isinstance(outcome, Merged)
    assert content(store) == merged_at_once([each.chunk(gone=gone[each.index]) for each in rows], tmp_path)
    assert objects(store) == FINISHED
    assert read_summary(store)["chunks_topped_up"] == "1-3"
    assert read_summary(store)["failures_by_reason"] == {"not_found": 4}
    assert isinstance(merged(store), AlreadyFinished)


@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_any_number_of_top_ups_give_the_same_in_the_end(store: Store, tmp_path: Path) -> None:
    rows = manifest(COUNTS, url_bytes=200)
    left = {index: set(range(0, count, 2)) for index, count in enumerate(COUNTS)}
    put(store, [each.chunk(left[each.index]) for each in rows])
    merged(store)
    for index in (4, 0, 2, 4, 1, 3):
        left[index] = set(sorted(left[index])[: len(left[index]) // 3])
        put_chunk(store, rows[index].chunk(left[index], reason=Reason.DEFERRED))
        merged(store)
        assert read_summary(store)["rows_failed"] == sum(map(len, left.values()))
    for index, still in left.items():
        if still:
            put_chunk(store, rows[index].chunk())
    merged(store)
    assert content(store) == merged_at_once([each.chunk() for each in rows], tmp_path)
    assert objects(store) == FINISHED


def test_a_top_up_that_embeds_nothing_and_finds_another_reason_changes_the_ledger(folder: Store) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk({0}) for each in rows])
    merged(folder)
    before = content(folder)
    put_chunk(folder, rows[2].chunk(gone={0}))
    assert isinstance(merged(folder), Merged)
    after = content(folder)
    assert after[:3] == before[:3]
    url = "https://photos.example/2/0/é".encode()
    assert after.ledger == before.ledger.replace(b"2,0,2-0,%s,timeout" % url, b"2,0,2-0,%s,not_found" % url)
    assert objects(folder) == FINISHED


def test_the_width_of_texts_shrinks_and_grows_with_the_rows_that_are_left(store: Store, tmp_path: Path) -> None:
    rows = manifest(COUNTS, url_bytes=400)
    put(store, [each.chunk({each.count - 1}) if each.index != 2 else each.chunk() for each in rows])
    merged(store)
    wide = content(store)
    put_chunk(store, rows[2].chunk({24}))
    merged(store)
    narrow = content(store)
    assert narrow.urls[0] != wide.urls[0]
    assert narrow == merged_at_once([each.chunk({each.count - 1}) for each in rows], tmp_path)
    put_chunk(store, rows[2].chunk())
    merged(store)
    assert content(store) == wide


def test_chunks_without_any_row_are_topped_up_as_well(folder: Store, tmp_path: Path) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk(range(each.count)) for each in rows])
    merged(folder)
    for index in (3, 0, 4):
        put_chunk(folder, rows[index].chunk())
        merged(folder)
    put(folder, [rows[1].chunk(), rows[2].chunk()])
    merged(folder)
    assert content(folder) == merged_at_once([each.chunk() for each in rows], tmp_path)


def test_kept_chunk_files_are_merged_again_only_after_a_top_up(store: Store, tmp_path: Path) -> None:
    rows = manifest(COUNTS)
    put(store, [each.chunk({0}) for each in rows])
    merged(store, keep_chunks="true")
    assert isinstance(merged(store, keep_chunks="true"), AlreadyFinished)
    put_chunk(store, rows[1].chunk())
    assert isinstance(merged(store, keep_chunks="true"), Merged)
    assert isinstance(merged(store, keep_chunks="true"), AlreadyFinished)
    assert objects(store) == with_files(*range(5))
    assert isinstance(merged(store), AlreadyFinished)
    assert objects(store) == FINISHED
    expected = merged_at_once([each.chunk({0}) if each.index != 1 else each.chunk() for each in rows], tmp_path)
    assert content(store) == expected


def test_a_top_up_of_a_partial_result_keeps_what_is_missing_missing(folder: Store, tmp_path: Path) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk({0}) for each in rows if each.index != 2])
    merged(folder, on_missing_chunks="partial")
    folder.delete([chunk_key(0), chunk_key(1)])
    assert find_missing(folder, 5) == {2}
    put_chunk(folder, rows[4].chunk())
    merged(folder, on_missing_chunks="partial")
    assert read_summary(folder)["chunks_missing"] == "2"
    assert objects(folder) == with_files(3, 4)
    put_chunk(folder, rows[2].chunk())
    merged(folder)
    assert objects(folder) == FINISHED
    assert content(folder) == merged_at_once(
        [each.chunk() if each.index in {2, 4} else each.chunk({0}) for each in rows], tmp_path
    )


def test_a_run_of_which_a_chunk_is_topped_up_is_still_finished_and_lacks_nothing(folder: Store) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk({0}) for each in rows])
    merged(folder)
    put_chunk(folder, rows[2].chunk())
    assert find_finished(folder) is not None
    assert find_missing(folder, 5) == set()


def test_a_run_whose_second_merge_was_killed_before_its_summary_lacks_no_chunk(folder: Store, tmp_path: Path) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk({0}) for each in rows])
    merged(folder)
    earlier, summary = folder.read(RESULT_KEY), folder.read(SUMMARY_KEY)
    put_chunk(folder, rows[2].chunk())
    merged(folder)
    # As it is after the new result and before the new summary.
    put_chunk(folder, rows[2].chunk())
    folder.put_bytes(EARLIER_RESULT_KEY, earlier)
    folder.put_bytes(SUMMARY_KEY, summary)
    assert find_finished(folder) is None
    assert find_missing(folder, 5) == set()
    assert isinstance(merged(folder), Merged)
    assert content(folder) == merged_at_once(
        [each.chunk() if each.index == 2 else each.chunk({0}) for each in rows], tmp_path
    )
    assert objects(folder) == FINISHED


def test_an_older_copy_does_not_bring_back_the_rows_of_an_earlier_result(folder: Store, tmp_path: Path) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk({0}) for each in rows])
    merged(folder)
    earlier = folder.read(RESULT_KEY)
    put_chunk(folder, rows[2].chunk())
    merged(folder)
    folder.put_bytes(EARLIER_RESULT_KEY, earlier)
    folder.delete([SUMMARY_KEY])
    put_chunk(folder, rows[4].chunk())
    assert isinstance(merged(folder), Merged)
    assert content(folder) == merged_at_once(
        [each.chunk() if each.index in {2, 4} else each.chunk({0}) for each in rows], tmp_path
    )


def test_a_ledger_that_does_not_fit_is_refused_and_the_chunks_can_be_computed_again(
    folder: Store, tmp_path: Path
) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk({0, 2}) if each.count > 2 else each.chunk() for each in rows])
    merged(folder)
    before = folder.read(RESULT_KEY)
    ledger = folder.read(FAILURES_KEY).splitlines(keepends=True)
    folder.put_bytes(FAILURES_KEY, b"".join(line for line in ledger if not line.startswith((b"4,2", b"1,0"))))
    put_chunk(folder, rows[2].chunk())
    with pytest.raises(ChunkInvalid, match=r"failed images of chunks 1,4 .*delete summary.json, run the worker"):
        merged(folder)
    assert folder.read(RESULT_KEY) == before
    folder.delete([SUMMARY_KEY])
    put(folder, [rows[index].chunk() for index in (1, 4)])
    assert isinstance(merged(folder), Merged)
    assert content(folder) == merged_at_once(
        [each.chunk({0, 2}) if each.index == 0 else each.chunk() for each in rows], tmp_path
    )
    assert objects(folder) == FINISHED


def test_a_result_of_an_earlier_version_is_merged_as_before(folder: Store, tmp_path: Path) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk({0}) for each in rows])
    merged(folder, keep_chunks="true")
    with h5py.File(Path(folder.uri) / RESULT_KEY, "r+") as file:
        del file["chunks"]
    old = {key: value for key, value in read_summary(folder).items() if key not in {"table_digest", "chunks_topped_up"}}
    folder.put_bytes(SUMMARY_KEY, json.dumps(old | {"result_bytes": folder.stat(RESULT_KEY).size}).encode())  # type: ignore[union-attr]
    assert find_finished(folder) is not None
    folder.delete([chunk_key(3)])
    assert isinstance(merged(folder, keep_chunks="true"), AlreadyFinished)
    put(folder, [rows[3].chunk({0}), rows[1].chunk()])
    assert isinstance(merged(folder), Merged), "all chunk files are there"
    assert content(folder) == merged_at_once(
        [each.chunk() if each.index == 1 else each.chunk({0}) for each in rows], tmp_path
    )


def test_a_damaged_earlier_result_is_named_with_its_chunks(folder: Store) -> None:
    rows = manifest(COUNTS, url_bytes=100)
    put(folder, [each.chunk({0, 1, 2, 24, 29}) if each.index in {2, 3} else each.chunk() for each in rows])
    merged(folder)
    with h5py.File(Path(folder.uri) / RESULT_KEY, "r+") as file:
        vectors = file["embeddings"][:]
        vectors[3, 7] += 0.5
        file["embeddings"][:] = vectors
    put_chunk(folder, rows[2].chunk())
    with pytest.raises(ChunkInvalid, match=r"is damaged in chunk 0: .*EMBEDDER_CHUNK_INDEXES, then merge again"):
        merged(folder, verify="full")
    assert find_finished(folder) is not None


@pytest.mark.parametrize("is_damaged", [False, True])
def test_every_row_of_a_result_that_was_never_verified_is_compared_with_its_digest(
    folder: Store, tmp_path: Path, is_damaged: bool
) -> None:
    rows = manifest(COUNTS)
    put(folder, [each.chunk({0}) for each in rows])
    merged(folder)
    expected = content(folder)
    folder.delete([SUMMARY_KEY])
    put_chunk(folder, rows[1].chunk({0}))
    if not is_damaged:
        merged(folder)
        assert content(folder) == expected == merged_at_once([each.chunk({0}) for each in rows], tmp_path)
        assert read_summary(folder)["verification"]["mode"] == "full"
        return
    with h5py.File(Path(folder.uri) / RESULT_KEY, "r+") as file:
        file["embeddings"][7] = -file["embeddings"][7]
    with pytest.raises(ChunkInvalid, match="is damaged in chunk 0"):
        merged(folder)


def test_leftovers_of_earlier_merges_go(store: Store) -> None:
    rows = manifest(COUNTS)
    put(store, [each.chunk({0}) for each in rows])
    merged(store)
    store.put_bytes(EARLIER_RESULT_KEY, b"an older copy")
    put_chunk(store, rows[2].chunk())
    merged(store)
    assert objects(store) == FINISHED
    store.put_bytes(EARLIER_RESULT_KEY, b"an older copy")
    assert isinstance(merged(store), AlreadyFinished)
    assert objects(store) == FINISHED
