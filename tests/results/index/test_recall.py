from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from results.index.recall import ExactNeighbours, sample_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


def vectors_of(rows: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(rows).standard_normal((rows, 16), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@pytest.mark.parametrize("rows", [2, 5, 11, 200])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_one_pass_finds_the_scores_of_the_nearest_other_rows(rows: int, block: int) -> None:
    vectors = vectors_of(rows)
    sampled = sample_rows(rows, queries=30, seed="x")
    exact = ExactNeighbours(sampled, vectors[sampled], row_count=rows)
    for first in range(0, rows, block):
        exact.add(first, vectors[first : first + block])
    scores = vectors[sampled] @ vectors.T
    scores[np.arange(len(sampled)), sampled] = -np.inf
    expected = np.sort(scores, axis=1)[:, ::-1][:, min(10, rows - 1) - 1]
    assert np.allclose(exact.last_scores(), expected, atol=1e-6)


def test_the_same_rows_are_sampled_for_the_same_result() -> None:
    assert sample_rows(10_000, queries=50, seed="a") == sample_rows(10_000, queries=50, seed="a")
    assert sample_rows(10_000, queries=50, seed="a") != sample_rows(10_000, queries=50, seed="b")
    assert list(sample_rows(3, queries=50, seed="a")) == [0, 1, 2]
