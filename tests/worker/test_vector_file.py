"""Vectors are written in any order, and read in the order of their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ResourceExhausted
from tests.resources.small_disk import small_disk
from worker.vector_file import StoredVectors, VectorFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def numbered(count: int, *, dimensions: int = 3) -> NDArray[np.float32]:
    return np.arange(count * dimensions, dtype=np.float32).reshape(count, dimensions)


@given(order=st.permutations(range(30)), written=st.integers(0, 30), batch_size=st.integers(1, 9), data=st.data())
@settings(deadline=None)
def test_a_slice_has_the_vectors_in_the_order_of_their_rows(
    order: list[int], written: int, batch_size: int, data: st.DataObject
) -> None:
    vectors = numbered(30)
    order = order[:written]
    bounds = st.integers(-written, written) | st.none()
    rows = slice(data.draw(bounds), data.draw(bounds))
    with VectorFile() as file:
        for start in range(0, written, batch_size):
            batch = np.array(order[start : start + batch_size])
            file.write(batch, vectors[batch])
        stored = StoredVectors(file, np.array(sorted(order), dtype=np.intp), dimensions=3)
        assert stored.shape == (written, 3)
        assert np.array_equal(stored[rows], vectors[sorted(order)][rows])


def test_rows_that_are_never_written_take_no_room() -> None:
    with VectorFile() as file:
        file.write(np.array([10_000_000]), numbered(1))
        assert np.array_equal(file.read(np.array([10_000_000]), dimensions=3), numbered(1))


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with VectorFile() as file:
        file.write(np.array([0]), numbered(1))
        assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setenv("TMPDIR", str(disk.outside))
        with VectorFile() as file:
            disk.fill(leaving_pages=2)
            with pytest.raises(ResourceExhausted, match=f"^{disk.outside}: No space left on device; make room there"):
                file.write(np.arange(100), numbered(100, dimensions=512))
            disk.make_room()
            file.write(np.arange(100), numbered(100, dimensions=512))
            assert np.array_equal(file.read(np.arange(100), dimensions=512), numbered(100, dimensions=512))


def test_a_file_that_another_program_has_cut_short_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with VectorFile() as file:
        file.write(np.array([0]), numbered(1))
        with pytest.raises(ResourceExhausted, match=f"{tmp_path}: .* has shortened"):
            file.read(np.array([0, 1]), dimensions=3)
