from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.errors import RunUnfinished
from common.store import open_store
from results.nearest import ExactSearch
from results.result import open_result
from tests.merger.runs import put_run
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path


def test_rows_are_read_by_ranges(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    chunks = merge_run(store, (30, 20))
    vectors = np.concatenate([chunk.embeddings[:] for chunk in chunks])
    urls = [url for chunk in chunks for url in chunk.urls]
    ids = [each for chunk in chunks for each in chunk.ids or ()]
    result = open_result(store)
    assert (result.row_count, result.dimensions, result.has_ids) == (50, 512, True)
    assert np.array_equal(result.vectors(25, 40), vectors[25:40])
    assert result.urls(25, 40) == urls[25:40]
    assert result.ids(0, 50) == ids
    for rows in ([49, 0, 7], [0, 1, 2, 7, 8, 30, 49], [3, 3, 2, 1], range(50), []):
        assert np.array_equal(result.picked_vectors(rows), vectors[np.array(rows, np.int64)])
    for ahead in (1, 3):
        blocks = list(result.vector_blocks(block_bytes=7 * 2048, ahead=ahead))
        assert [first for first, _ in blocks] == list(range(0, 50, 7))
        assert np.array_equal(np.concatenate([block for _, block in blocks]), vectors)


def test_rows_that_do_not_exist_are_an_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    merge_run(store, (3,))
    with pytest.raises(IndexError, match="rows 2 to 4 of a result with 3 rows"):
        open_result(store).vectors(2, 4)


def test_a_run_that_is_not_finished_has_no_result(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_run(store, (3, 3))
    with pytest.raises(RunUnfinished, match="has no finished result"):
        open_result(store)


def test_exact_search_finds_the_nearest_rows_in_their_order(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    chunks = merge_run(store, (300, 200))
    vectors = np.concatenate([chunk.embeddings[:] for chunk in chunks])
    found = ExactSearch(open_result(store)).nearest(vectors[123], 10)
    scores = vectors @ vectors[123]
    assert [each.row for each in found] == np.argsort(-scores, kind="stable")[:10].tolist()
    assert found[0].row == 123
    assert found[0].score == pytest.approx(1, abs=1e-5)


def test_exact_search_returns_all_rows_of_a_small_result(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    chunks = merge_run(store, (4,))
    assert len(ExactSearch(open_result(store)).nearest(chunks[0].embeddings[:][0], 10)) == 4
