"""Several pods and merges work on one chunk: whoever comes in between, the chunk is whole and no row is lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from common.errors import FingerprintMismatch
from common.format.reasons import Reason
from common.run.keys import RESULT_KEY, chunk_key
from common.store import open_store
from common.store.contract import ObjectStat
from merger.merge import merge
from tests.merger.runs import make_chunk, put_chunk, settings_for
from tests.worker.top_up.pods import COUNT, INDEX, MAY_BE_EMBEDDED, Pod, earlier_chunk, merge_again, put_earlier_run
from tests.worker.worker_process import read_chunk
from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store

EVERYTHING = {"https://photos.example/gone/1/1": "not_found"}
"""The failures of a chunk in which all rows are embedded that may be."""


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def failures(store: Store) -> dict[str, str]:
    return read_chunk(store.uri, INDEX).failures


def vectors(store: Store) -> bytes:
    """Return the vectors of the chunk file."""
    return read_chunk(store.uri, INDEX).embeddings.tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The vectors of a chunk that one pod alone has topped up."""
    store = open_store(str(tmp_path_factory.mktemp("whole") / "run"))
    put_earlier_run(store)
    with Pod(store) as pod:
        pod.begin()
        pod.embed(*MAY_BE_EMBEDDED)
        pod.store()
    return vectors(store)


@pytest.mark.parametrize("is_merged", [False, True], ids=["unmerged", "merged"])
def test_two_top_ups_at_once_leave_the_rows_that_either_has_embedded(
    store: Store, whole: bytes, *, is_merged: bool
) -> None:
    put_earlier_run(store, is_merged=is_merged)
    with Pod(store) as one, Pod(store) as other:
        for pod in (one, other):
            pod.begin()
        one.embed(0)
        other.embed(2, 3)
        assert isinstance(one.store(), ObjectStat)
        assert other.store() == store.stat(chunk_key(INDEX))
    assert failures(store) == EVERYTHING
    assert vectors(store) == whole


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_of_three_top_ups_at_once_no_row_is_lost_whatever_their_order(
    folder_store: Store, whole: bytes, order: tuple[int, ...]
) -> None:
    put_earlier_run(folder_store)
    with Pod(folder_store) as one, Pod(folder_store) as two, Pod(folder_store) as three:
        pods = (one, two, three)
        for pod, row in zip(pods, MAY_BE_EMBEDDED, strict=True):
            pod.begin()
            pod.embed(row)
        for number in order:
            pods[number].store()
    assert failures(folder_store) == EVERYTHING
    assert vectors(folder_store) == whole


def test_many_top_ups_that_store_at_the_same_moment_lose_no_row(folder_store: Store, whole: bytes) -> None:
    for _ in range(3):
        put_earlier_run(folder_store)
        with ExitStack() as stack:
            pods = [stack.enter_context(Pod(folder_store)) for _ in MAY_BE_EMBEDDED]
            for pod, row in zip(pods, MAY_BE_EMBEDDED, strict=True):
                pod.begin()
                pod.embed(row)
            with ThreadPoolExecutor() as threads:
                assert len(list(threads.map(Pod.store, pods))) == len(pods)
        assert failures(folder_store) == EVERYTHING
        assert vectors(folder_store) == whole


def test_a_later_top_up_that_has_no_more_rows_leaves_the_chunk_of_the_first(folder_store: Store) -> None:
    put_earlier_run(folder_store)
    with Pod(folder_store) as one, Pod(folder_store) as other:
        for pod in (one, other):
            pod.begin()
        one.embed(0, 2, failing={3: Reason.DEFERRED})
        other.embed(2)
        one.store()
        before = folder_store.stat(chunk_key(INDEX))
        there = AlreadyStored(chunk=INDEX, location=other.place.location, embedded=10, failed=2, deferred=1)
        assert other.store() == there
    assert folder_store.stat(chunk_key(INDEX)) == before


def test_a_top_up_of_a_chunk_that_is_merged_meanwhile_stores_it_for_the_next_merge(
    folder_store: Store, whole: bytes
) -> None:
    put_earlier_run(folder_store)
    with Pod(folder_store) as pod:
        pod.begin()
        pod.embed(*MAY_BE_EMBEDDED)
        merge(folder_store, settings_for(folder_store, COUNT))
        assert folder_store.stat(chunk_key(INDEX)) is None
        assert pod.store() == folder_store.stat(chunk_key(INDEX))
    assert vectors(folder_store) == whole
    assert folder_store.stat(RESULT_KEY) is not None


def test_rows_that_were_topped_up_and_merged_meanwhile_are_in_a_later_pods_chunk(
    folder_store: Store, whole: bytes, tmp_path: Path
) -> None:
    put_earlier_run(folder_store, is_merged=True)
    with Pod(folder_store) as quick, Pod(folder_store) as late, Pod(folder_store) as last:
        for pod in (quick, late, last):
            pod.begin()
        quick.embed(0)
        late.embed(2, 3)
        last.embed()
        quick.store()
        merge_again(folder_store, tmp_path)
        assert last.store() == AlreadyMerged(chunk=INDEX, result=folder_store.location(RESULT_KEY))
        assert folder_store.stat(chunk_key(INDEX)) is None
        assert late.store() == folder_store.stat(chunk_key(INDEX))
    assert failures(folder_store) == EVERYTHING
    assert vectors(folder_store) == whole


@pytest.mark.parametrize("delay", [0, 0.2], ids=["at once", "a little later"])
def test_a_top_up_whose_chunk_a_merge_deletes_by_mistake_stores_it_again(
    folder_store: Store, whole: bytes, delay: float
) -> None:
    put_earlier_run(folder_store)
    chunk = folder_store.read(chunk_key(INDEX))
    merge(folder_store, settings_for(folder_store, COUNT))
    folder_store.put_bytes(chunk_key(INDEX), chunk)  # a merge that was killed before it deleted the chunks

    timers: list[threading.Timer] = []

    def delete_later() -> None:
        if not timers:
            timers.append(threading.Timer(delay, folder_store.delete, [[chunk_key(INDEX)]]))
            timers[0].start()

    with Pod(folder_store, after_put=delete_later) as pod:
        pod.begin()
        pod.embed(*MAY_BE_EMBEDDED)
        assert pod.store() == folder_store.stat(chunk_key(INDEX))
    assert timers
    assert vectors(folder_store) == whole


def test_a_top_up_of_a_chunk_that_a_worker_replaces_by_a_damaged_one_replaces_that(
    folder_store: Store, whole: bytes
) -> None:
    put_earlier_run(folder_store)
    with Pod(folder_store) as pod:
        pod.begin()
        pod.embed(*MAY_BE_EMBEDDED)
        folder_store.put_bytes(chunk_key(INDEX), b"damaged")
        assert pod.store() == folder_store.stat(chunk_key(INDEX))
    assert vectors(folder_store) == whole


def test_a_top_up_never_takes_the_earlier_chunk_away_although_a_peer_has_other_settings(folder_store: Store) -> None:
    put_chunk(folder_store, earlier_chunk())
    with Pod(folder_store) as pod:
        pod.begin()
        pod.embed(0)
        put_chunk(folder_store, make_chunk(2, 4, chunk_count=COUNT, rotation=False))
        with pytest.raises(FingerprintMismatch):
            pod.store()
    assert folder_store.stat(chunk_key(INDEX)) is not None
    assert "https://photos.example/gone/1/0" not in failures(folder_store)


def test_a_first_chunk_is_taken_back_when_a_peer_has_other_settings(folder_store: Store) -> None:
    with Pod(folder_store) as pod:
        pod.begin()
        pod.embed(*range(12))
        put_chunk(folder_store, make_chunk(2, 4, chunk_count=COUNT, rotation=False))
        with pytest.raises(FingerprintMismatch):
            pod.store()
    assert folder_store.stat(chunk_key(INDEX)) is None


def test_rows_that_fail_once_more_have_their_new_reason_in_the_chunk(folder_store: Store) -> None:
    put_earlier_run(folder_store)
    with Pod(folder_store) as pod:
        pod.begin()
        pod.embed(2, failing={0: Reason.NOT_FOUND})
        pod.store()
    gone = "https://photos.example/gone/1"
    assert failures(folder_store) == {f"{gone}/0": "not_found", f"{gone}/1": "not_found", f"{gone}/3": "timeout"}
