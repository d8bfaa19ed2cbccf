"""Rows are settled in any order, and come out in the manifest's order, each once."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.format.chunk_file import Chunk, Failure, check_rows, write_chunk
from common.format.provenance import Provenance
from common.format.reasons import Reason
from worker.collector import Collector
from worker.manifest.manifest import ManifestChunk
from worker.rows import ImageFailed, Row
from worker.vector_file import VectorFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIMENSIONS = 4
PROVENANCE = Provenance(
    manifest="m",
    chunk_count=1,
    model="untrained",
    model_revision="",
    weights="w",
    dtype="float32",
    preprocessing="p",
    rotation=True,
    sources="url",
)


@pytest.fixture
def vector_file() -> Iterator[VectorFile]:
    with VectorFile() as file:
        yield file


def manifest_chunk(count: int, *, malformed: frozenset[int] = frozenset()) -> ManifestChunk:
    return ManifestChunk(
        rows=[Row(at, f"http://x/{at}", id=f"id{at}") for at in range(count) if at not in malformed],
        failures=[Failure(at, "", Reason.MALFORMED_ROW, "broken") for at in sorted(malformed)],
    )


def vector(position: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return a vector of norm 1 that differs for each row."""
    angle = position / 1000
    return np.array([np.cos(angle), np.sin(angle), 0, 0], dtype=np.float32)


def vectors(*positions: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([vector(position) for position in positions]).reshape(-1, DIMENSIONS)


def chunk_of(collector: Collector, *, has_ids: bool = True) -> Chunk:
    return collector.chunk(index=3, dimensions=DIMENSIONS, has_ids=has_ids, provenance=PROVENANCE)


def test_rows_come_out_in_the_manifests_order_whatever_order_they_arrive_in(vector_file: VectorFile) -> None:
    collector = Collector(manifest_chunk(6), vector_file)
    collector.embed([5, 1], vectors(5, 1))
    collector.fail(2, ImageFailed(Reason.NOT_FOUND, "404"))
    collector.embed([0, 4], vectors(0, 4))
    collector.fail(3, ImageFailed(Reason.TRUNCATED, "half"))
    chunk = chunk_of(collector)
    check_rows(chunk)
    assert chunk.index == 3
    assert list(chunk.urls) == ["http://x/0", "http://x/1", "http://x/4", "http://x/5"]
    assert chunk.ids == ["id0", "id1", "id4", "id5"]
    assert np.array_equal(chunk.embeddings[:], vectors(0, 1, 4, 5))
    assert list(chunk.failures) == [
        Failure(2, "http://x/2", Reason.NOT_FOUND, "404", id="id2"),
        Failure(3, "http://x/3", Reason.TRUNCATED, "half", id="id3"),
    ]


def test_malformed_rows_are_settled_from_the_start_and_keep_their_place(vector_file: VectorFile) -> None:
    collector = Collector(manifest_chunk(4, malformed=frozenset({0, 2})), vector_file)
    assert (collector.requested, collector.settled, collector.failed, collector.embedded) == (4, 2, 2, 0)
    collector.fail(1, ImageFailed(Reason.TIMEOUT, "slow"))
    collector.embed([3], vectors(3))
    chunk = chunk_of(collector)
    assert [failure.row for failure in chunk.failures] == [0, 1, 2]
    assert list(chunk.urls) == ["http://x/3"]
    assert collector.count_by_reason() == {Reason.MALFORMED_ROW: 2, Reason.TIMEOUT: 1}


@st.composite
def _fates(draw: st.DrawFn) -> tuple[list[str], list[int]]:
    """Return the fate of each row, and the order in which the rows arrive."""
    fates = draw(st.lists(st.sampled_from(["embedded", "failed", "not finite", "malformed"]), max_size=60))
    return fates, draw(st.permutations(range(len(fates))))


@given(settled=_fates(), batch_size=st.integers(1, 7))
@settings(deadline=None)
def test_the_chunk_has_exactly_the_embedded_rows_whatever_the_order_and_the_batches(
    settled: tuple[list[str], list[int]], batch_size: int
) -> None:
    fates, order = settled
    malformed = frozenset(at for at, fate in enumerate(fates) if fate == "malformed")
    encoded = [at for at in order if fates[at] in {"embedded", "not finite"}]
    everything = vectors(*range(len(fates)))
    given_out = everything.copy()
    given_out[[at for at, fate in enumerate(fates) if fate == "not finite"]] = np.nan
    with VectorFile() as vector_file:
        collector = Collector(manifest_chunk(len(fates), malformed=malformed), vector_file)
        for start in range(0, len(encoded), batch_size):
            batch = encoded[start : start + batch_size]
            collector.embed(batch, given_out[batch])
        for at in order:
            if fates[at] == "failed":
                collector.fail(at, ImageFailed(Reason.NOT_FOUND, "404"))
        chunk = chunk_of(collector)
        embedded = [at for at, fate in enumerate(fates) if fate == "embedded"]
        assert np.array_equal(chunk.embeddings[:], everything[embedded])
        assert list(chunk.urls) == [f"http://x/{at}" for at in embedded]
        assert [failure.row for failure in chunk.failures] == [
            at for at, fate in enumerate(fates) if fate != "embedded"
        ]
        assert collector.embedded + collector.failed == collector.requested == len(fates)
    reasons = {"failed": Reason.NOT_FOUND, "not finite": Reason.NOT_FINITE, "malformed": Reason.MALFORMED_ROW}
    assert [failure.reason for failure in chunk.failures] == [reasons[fate] for fate in fates if fate in reasons]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 3.0])
def test_a_vector_that_is_not_finite_or_not_of_norm_one_is_a_failure_and_costs_no_other(
    value: float, vector_file: VectorFile
) -> None:
    collector = Collector(manifest_chunk(3), vector_file)
    batch = vectors(2, 1, 0)
    batch[1] = value
    with np.errstate(all="ignore"):
        collector.embed([2, 1, 0], batch)
    chunk = chunk_of(collector)
    check_rows(chunk)
    assert list(chunk.urls) == ["http://x/0", "http://x/2"]
    assert [(failure.row, failure.reason, failure.id) for failure in chunk.failures] == [(1, Reason.NOT_FINITE, "id1")]
    assert np.array_equal(chunk.embeddings[:], vectors(0, 2))


def test_a_chunk_without_embedded_images_has_no_rows_and_the_models_width(vector_file: VectorFile) -> None:
    collector = Collector(manifest_chunk(2), vector_file)
    for position in range(2):
        collector.fail(position, ImageFailed(Reason.NOT_FOUND, "404"))
    chunk = chunk_of(collector)
    check_rows(chunk)
    assert chunk.embeddings.shape == (0, DIMENSIONS)
    assert chunk.embeddings.dtype == np.float32


def test_a_chunk_without_rows_is_a_chunk(vector_file: VectorFile) -> None:
    chunk = chunk_of(Collector(manifest_chunk(0), vector_file))
    assert (list(chunk.urls), list(chunk.failures)) == ([], [])


def test_a_manifest_without_ids_makes_a_chunk_without_ids(vector_file: VectorFile) -> None:
    collector = Collector(manifest_chunk(1), vector_file)
    collector.embed([0], vectors(0))
    assert chunk_of(collector, has_ids=False).ids is None


def test_a_chunk_with_a_row_that_is_not_settled_is_refused(vector_file: VectorFile) -> None:
    collector = Collector(manifest_chunk(3), vector_file)
    collector.embed([0], vectors(0))
    with pytest.raises(RuntimeError, match="2 rows of 3"):
        chunk_of(collector)


def test_threads_may_settle_rows_at_the_same_time(vector_file: VectorFile) -> None:
    count = 600
    collector = Collector(manifest_chunk(count), vector_file)

    def settle(start: int) -> None:
        collector.embed([start, start + 1], vectors(start, start + 1))
        collector.fail(start + 2, ImageFailed(Reason.NOT_FOUND, "404"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(settle, range(0, count, 3)))
    chunk = chunk_of(collector)
    assert np.array_equal(chunk.embeddings[:], vectors(*(at for at in range(count) if at % 3 != 2)))
    assert [failure.row for failure in chunk.failures] == list(range(2, count, 3))


def test_a_chunk_is_written_in_less_memory_than_its_vectors_take(vector_file: VectorFile, tmp_path: Path) -> None:
    count, dimensions = 8_000, 512
    batch = np.full((32, dimensions), dimensions**-0.5, dtype=np.float32)
    collector = Collector(manifest_chunk(count), vector_file)
    tracemalloc.start()
    try:
        for start in range(0, count, len(batch)):
            collector.embed(range(start, start + len(batch)), batch)
        chunk = collector.chunk(index=0, dimensions=dimensions, has_ids=True, provenance=PROVENANCE)
        write_chunk(tmp_path / "chunk.h5", chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "chunk.h5").stat().st_size > count * dimensions * 4
    assert peak < count * dimensions * 4 / 2
