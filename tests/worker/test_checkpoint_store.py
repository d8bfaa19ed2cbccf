"""What an attempt takes over from the checkpoints in a store, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from common.format.checkpoint_file import (
    MAX_CHECKPOINT_BYTES,
    MAX_VECTOR_BYTES,
    Checkpoint,
    checkpoint_bytes,
    read_checkpoint,
)
from common.run.keys import CHECKPOINTS_PREFIX, checkpoint_key, chunk_key
from common.store import open_store
from tests.merger.runs import provenance
from tests.worker.test_collector import DIMENSIONS, manifest_chunk, vectors
from tests.worker.worker_process import object_keys
from worker.chunk_job.checkpoints import Checkpoints
from worker.collector import Collector
from worker.vector_file import VectorFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from common.store.contract import Store

INDEX = 2
ROWS = 40
PROVENANCE = provenance(5)
SECONDS = 20
"""Longest time that a test waits for a checkpoint, in seconds."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with VectorFile() as file:
        yield Collector(manifest_chunk(ROWS), file)


def checkpoints(store: Store, *, seconds: float = 0.01, dimensions: int = DIMENSIONS, **changes: Any) -> Checkpoints:  # noqa: ANN401 - any field
    return Checkpoints(
        store,
        INDEX,
        seconds=seconds,
        provenance=lambda: dataclasses.replace(PROVENANCE, **changes),
        dimensions=lambda: dimensions,
    )


def checkpoint(*rows: int, **changes: Any) -> bytes:  # noqa: ANN401 - any field
    content = Checkpoint(
        index=INDEX, requested=ROWS, rows=np.array(rows), vectors=vectors(*rows), provenance=PROVENANCE
    )
    return checkpoint_bytes(dataclasses.replace(content, **changes))


def put(store: Store, *contents: bytes) -> None:
    for number, content in enumerate(contents):
        store.put_bytes(checkpoint_key(INDEX, number), content)


def embedded(collector: Collector) -> list[int]:
    """Return the embedded rows, and check that each has its own vector."""
    rows = np.flatnonzero(collector.embedded_mask())
    assert collector.embedded == len(rows)
    kept = collector.vectors_of(rows, dimensions=DIMENSIONS)[:]
    np.testing.assert_array_equal(kept, vectors(*rows.tolist()))
    return [int(row) for row in rows]


def kept_rows(store: Store) -> list[int]:
    """Return the rows of all checkpoints in the store."""
    kept = [read_checkpoint(store.read(found.key), name=found.key).rows for found in store.list(CHECKPOINTS_PREFIX)]
    return [int(row) for rows in kept for row in rows]


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rows_of_all_checkpoints_are_settled_each_once(store: Store, collector: Collector) -> None:
    put(store, checkpoint(0, 3, 5), checkpoint(1, 3, 39))
    checkpoints(store).resume(collector)
    assert embedded(collector) == [0, 1, 3, 5, 39]
    assert [row.position for row in collector.unsettled_rows()] == [
        row for row in range(ROWS) if row not in {0, 1, 3, 5, 39}
    ]


def test_rows_that_are_settled_before_stay_as_they_are(store: Store) -> None:
    put(store, checkpoint(0, 1, 2, 3))
    with VectorFile() as file:
        collector = Collector(manifest_chunk(ROWS, malformed=frozenset({2})), file)
        collector.embed([1], vectors(1))
        checkpoints(store).resume(collector)
        assert embedded(collector) == [0, 1, 3]
        assert [failure.row for failure in collector.failures()] == [2]


UNBELIEVABLE: dict[str, Callable[[], bytes]] = {
    "a flipped bit": lambda: checkpoint(7, 8)[:-5] + bytes([checkpoint(7, 8)[-5] ^ 1]) + checkpoint(7, 8)[-4:],
    "cut": lambda: checkpoint(7, 8)[:-1],
    "empty": lambda: b"",
    "something else": lambda: b"<html>welcome to this network</html>",
    "too large": lambda: bytes(MAX_CHECKPOINT_BYTES + 1),
    "other settings": lambda: checkpoint(7, 8, provenance=dataclasses.replace(PROVENANCE, rotation=False)),
    "another chunk": lambda: checkpoint(7, 8, index=INDEX + 1),
    "another number of rows": lambda: checkpoint(7, 8, requested=ROWS + 1),
    "rows beyond the chunk": lambda: checkpoint(7, ROWS),
    "other dimensions": lambda: checkpoint(7, 8, vectors=np.eye(2, DIMENSIONS + 1, dtype=np.float32)),
}


@pytest.mark.parametrize("what", UNBELIEVABLE)
def test_a_checkpoint_that_cannot_be_believed_costs_its_own_rows_alone(
    what: str, store: Store, collector: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, checkpoint(0, 1), UNBELIEVABLE[what](), checkpoint(4, 5))
    checkpoints(store).resume(collector)
    assert embedded(collector) == [0, 1, 4, 5]
    assert "checkpoint_2_000001.h5" in capsys.readouterr().out


def test_new_checkpoints_get_numbers_after_those_that_are_there_and_have_new_rows_alone(
    store: Store, collector: Collector
) -> None:
    put(store, checkpoint(0, 1), b"damaged")
    before = {found.key: found for found in store.list(CHECKPOINTS_PREFIX)}
    attempt = checkpoints(store)
    attempt.resume(collector)
    attempt.start(collector)
    collector.embed([9, 8], vectors(9, 8))
    wait_for(lambda: store.stat(checkpoint_key(INDEX, 2)) is not None)
    attempt.stop()
    assert {found.key: found for found in store.list(CHECKPOINTS_PREFIX)}.items() > before.items()
    store.delete([checkpoint_key(INDEX, 1)])
    assert sorted(kept_rows(store)) == [0, 1, 8, 9]


def test_two_pods_on_one_chunk_replace_no_checkpoint_of_each_other(store: Store) -> None:
    with VectorFile() as one, VectorFile() as other:
        pods = [(checkpoints(store), Collector(manifest_chunk(ROWS), file)) for file in (one, other)]
        for attempt, collector in pods:
            attempt.resume(collector)
            attempt.start(collector)
        for row in range(ROWS):
            for _, collector in pods:
                collector.embed([row], vectors(row))
            time.sleep(0.005)
        wait_for(lambda: len(kept_rows(store)) == 2 * ROWS)
        for attempt, _ in pods:
            attempt.stop()
    assert sorted(kept_rows(store)) == sorted([*range(ROWS)] * 2)


def test_many_rows_become_several_checkpoints_none_of_which_is_large(store: Store, collector: Collector) -> None:
    wide = MAX_VECTOR_BYTES // 4 // 3
    attempt = checkpoints(store, dimensions=wide)
    attempt.start(collector)
    collector.embed([*range(10)], np.eye(10, wide, dtype=np.float32))
    wait_for(lambda: len(list(store.list(CHECKPOINTS_PREFIX))) == 4)
    attempt.stop()
    assert all(found.size <= MAX_CHECKPOINT_BYTES for found in store.list(CHECKPOINTS_PREFIX))
    assert sorted(kept_rows(store)) == [*range(10)]


def test_what_was_settled_before_the_start_is_not_kept_again(store: Store, collector: Collector) -> None:
    collector.embed([4], vectors(4))
    attempt = checkpoints(store)
    attempt.start(collector)
    collector.embed([5], vectors(5))
    wait_for(lambda: bool(kept_rows(store)))
    attempt.stop()
    assert kept_rows(store) == [5]


def test_after_the_stop_nothing_is_written(store: Store, collector: Collector) -> None:
    attempt = checkpoints(store)
    attempt.start(collector)
    attempt.stop()
    collector.embed([5], vectors(5))
    time.sleep(0.1)
    assert object_keys(store) == []


def test_all_checkpoints_of_the_chunk_are_removed_and_no_other_object(store: Store) -> None:
    put(store, checkpoint(0, 1), b"damaged", UNBELIEVABLE["other settings"]())
    others = [chunk_key(INDEX), checkpoint_key(INDEX + 1, 0), checkpoint_key(10 * INDEX, 0)]
    for key in others:
        store.put_bytes(key, b"x")
    checkpoints(store).remove()
    assert object_keys(store) == sorted(others)


def test_a_file_that_a_killed_worker_was_writing_is_removed(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "chunks"
    folder.mkdir(parents=True)
    (folder / f".checkpoint_{INDEX}_000003.h5.0123abcd.part").write_bytes(b"half")
    other = folder / f".checkpoint_{INDEX + 1}_000003.h5.0123abcd.part"
    other.write_bytes(b"another chunk's")
    checkpoints(store).remove()
    assert list(folder.iterdir()) == [other]


def test_without_the_setting_nothing_is_read_or_written(store: Store, collector: Collector) -> None:
    put(store, checkpoint(0, 1))
    attempt = checkpoints(store, seconds=0)
    attempt.resume(collector)
    attempt.start(collector)
    collector.embed([5], vectors(5))
    time.sleep(0.1)
    attempt.stop()
    assert embedded(collector) == [5]
    assert object_keys(store) == [checkpoint_key(INDEX, 0)]
    attempt.remove()
    assert object_keys(store) == []
