"""What a worker finds of its chunk in the store, and what it does when other pods store or merge meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from common.errors import ChunkInvalid, FingerprintMismatch
from common.format.chunk_file import write_chunk
from common.format.reasons import Reason
from common.run.keys import RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from common.store.contract import ObjectStat
from merger.merge import merge
from tests.merger.runs import make_chunk, provenance, put_chunk, put_run, settings_for
from worker.chunk_job.chunk_in_store import ChunkInStore
from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store

COUNT = 2


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Chunk 0 as its worker has computed it."""
    path = tmp_path / "chunk.h5"
    write_chunk(path, make_chunk(0, 3, chunk_count=COUNT, failed=1))
    return path


def place(store: Store) -> ChunkInStore:
    return ChunkInStore(store, 0, lambda: provenance(COUNT))


def test_a_chunk_that_is_absent_is_put(store: Store, file: Path) -> None:
    assert place(store).find() is None
    stored = place(store).put(file, overwrite=False)
    assert isinstance(stored, ObjectStat)
    assert place(store).find() == AlreadyStored(chunk=0, location=place(store).location, embedded=3, failed=1)


def test_a_chunk_that_is_found_is_reported_with_its_deferred_images(store: Store) -> None:
    chunk = make_chunk(0, 3, chunk_count=COUNT, failed=3)
    failures = [*chunk.failures[:1], *(replace(each, reason=Reason.DEFERRED) for each in chunk.failures[1:])]
    put_chunk(store, replace(chunk, failures=failures))
    assert place(store).find() == AlreadyStored(
        chunk=0, location=place(store).location, embedded=3, failed=3, deferred=2
    )


def test_another_pods_chunk_is_found_and_left(store: Store, file: Path) -> None:
    put_chunk(store, make_chunk(0, 3, chunk_count=COUNT, failed=1))
    before = store.stat(chunk_key(0))
    assert isinstance(place(store).put(file, overwrite=False), AlreadyStored)
    assert store.stat(chunk_key(0)) == before


def test_a_damaged_chunk_is_replaced(store: Store, file: Path) -> None:
    store.put_bytes(chunk_key(0), b"damaged")
    with pytest.raises(ChunkInvalid):
        place(store).find()
    assert isinstance(place(store).put(file, overwrite=True), ObjectStat)
    assert isinstance(place(store).find(), AlreadyStored)


def test_a_merged_run_holds_the_chunk_and_a_chunk_stored_after_it_is_taken_back(store: Store, file: Path) -> None:
    put_run(store, [3, 2])
    merge(store, settings_for(store, COUNT))
    merged = AlreadyMerged(chunk=0, result=store.location(RESULT_KEY))
    assert place(store).find() == merged
    assert place(store).put(file, overwrite=False) == merged
    assert store.stat(chunk_key(0)) is None


def test_a_result_without_its_summary_does_not_hold_the_chunk(store: Store, file: Path) -> None:
    put_run(store, [3, 2])
    merge(store, settings_for(store, COUNT))
    store.delete([SUMMARY_KEY])
    assert place(store).find() is None
    assert isinstance(place(store).put(file, overwrite=False), ObjectStat)


def test_a_peer_with_other_settings_ends_the_worker_and_its_chunk_is_taken_back(store: Store, file: Path) -> None:
    put_chunk(store, make_chunk(1, 2, chunk_count=COUNT, rotation=False))
    with pytest.raises(FingerprintMismatch, match="rotation"):
        place(store).check_peers()
    with pytest.raises(FingerprintMismatch, match="rotation"):
        place(store).put(file, overwrite=False)
    assert store.stat(chunk_key(0)) is None


def test_a_damaged_result_does_not_hide_a_peer_with_other_settings(store: Store, file: Path) -> None:
    put_chunk(store, make_chunk(1, 2, chunk_count=COUNT, rotation=False))
    store.put_bytes(RESULT_KEY, b"damaged")
    with pytest.raises(FingerprintMismatch, match="rotation"):
        place(store).put(file, overwrite=False)
    assert store.stat(chunk_key(0)) is None


def test_a_damaged_result_and_a_damaged_peer_are_no_reason_to_give_a_chunk_up(store: Store, file: Path) -> None:
    store.put_bytes(chunk_key(1), b"damaged")
    store.put_bytes(RESULT_KEY, b"damaged")
    assert isinstance(place(store).put(file, overwrite=False), ObjectStat)
    assert store.stat(chunk_key(0)) is not None
