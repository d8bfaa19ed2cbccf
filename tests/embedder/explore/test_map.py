from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.store import open_store
from embedder.explore.layout import STEPS, nearest_of, neighbour_layout, place_beside, principal_components
from embedder.explore.map import SAMPLED_ROWS, EmbeddingMap, sampled_rows
from results.result import open_result
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from embedder.explore.map import MapState


def groups(rows: int, count: int, *, noise: float = 2.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return vectors around `count` centres, and the group of each. As with CLIP, all of them share a direction."""
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((count, 512))
    centres = centres / np.linalg.norm(centres, axis=1, keepdims=True) + 1.5 * _unit(generator.standard_normal(512))
    group = generator.integers(0, count, rows)
    vectors = centres[group] + noise * generator.standard_normal((rows, 512)) / np.sqrt(512)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), group


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return length


def purity(positions: NDArray[np.float32], group: NDArray[np.int64], *, neighbours: int = 10) -> float:
    """Return the share of the nearest points that are of the same group."""
    distances = np.square(positions[:, None] - positions[None]).sum(-1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, neighbours, axis=1)[:, :neighbours]
    return float((group[nearest] == group[:, None]).mean())


def laid_out(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    *_, (step, positions) = neighbour_layout(vectors, principal_components(vectors))
    assert step == STEPS
    return positions


def test_groups_lie_apart_in_the_layout_and_further_vectors_lie_in_their_group() -> None:
    vectors, group = groups(400, 10)
    core = vectors[:250]
    positions = laid_out(core)
    assert purity(principal_components(core), group[:250]) < 0.8
    assert purity(positions, group[:250]) > 0.95
    placed = place_beside(nearest_of(vectors[250:], core), positions)
    assert purity(np.concatenate([positions, placed]), group) > 0.95


@pytest.mark.parametrize("rows", [8, 40])
def test_few_vectors_and_equal_vectors_have_finite_places(rows: int) -> None:
    vectors, _ = groups(rows, 3)
    assert np.isfinite(laid_out(vectors)).all()
    same = np.repeat(vectors[:1], rows, axis=0)
    assert np.isfinite(laid_out(np.concatenate([same, vectors]))).all()


def test_the_layout_is_the_same_each_time() -> None:
    vectors, _ = groups(30, 3)
    assert np.allclose(laid_out(vectors), laid_out(vectors), atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, SAMPLED_ROWS, SAMPLED_ROWS + 1, 7_001, 1_000_000])
def test_the_sample_is_spread_over_all_rows(count: int) -> None:
    rows = sampled_rows(count)
    assert len(rows) <= SAMPLED_ROWS
    assert len(rows) >= min(count, SAMPLED_ROWS) * 0.9
    assert len(np.unique(rows)) == len(rows)
    assert (np.diff(rows) > 0).all()
    if count:
        assert rows[0] >= 0
        assert rows[-1] < count
        gaps = np.diff(np.concatenate([[-1], rows, [count]]))
        assert gaps.max() <= max(1, 2 * count / (SAMPLED_ROWS // 5) + 1)


def finished(embedding_map: EmbeddingMap) -> MapState:
    end = time.monotonic() + 60
    while (state := embedding_map.state()).state in {"reading", "laying_out"}:
        assert time.monotonic() < end
        time.sleep(0.02)
    return state


@pytest.mark.parametrize("sizes", [(1,), (5, 2), (30, 20)])
def test_the_map_has_every_row_of_a_small_result_once(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    store = open_store(str(tmp_path))
    merge_run(store, sizes)
    state = finished(EmbeddingMap(open_result(store)))
    assert (state.state, state.step) == ("done", STEPS)
    assert sorted(state.rows) == list(range(sum(sizes)))
    assert np.abs([state.x, state.y]).max() <= 1


def test_a_map_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    merge_run(store, (10,))
    result = open_result(store)
    (tmp_path / "Images_Embedded.h5").unlink()
    state = finished(EmbeddingMap(result))
    assert state.state == "failed"
    assert "Images_Embedded.h5" in state.message
