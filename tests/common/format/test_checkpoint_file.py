from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from common.errors import ChunkInvalid
from common.format.checkpoint_file import (
    MAX_CHECKPOINT_BYTES,
    MAX_VECTOR_BYTES,
    Checkpoint,
    checkpoint_bytes,
    read_checkpoint,
    rows_at_once,
)
from common.format.seal import SEAL_BYTES
from tests.merger.runs import provenance

if TYPE_CHECKING:
    from pathlib import Path


def make_checkpoint(count: int = 40, **changes: Any) -> Checkpoint:  # noqa: ANN401 - any field
    vectors = np.random.default_rng(0).normal(size=(count, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    checkpoint = Checkpoint(
        index=3,
        requested=3 * count,
        rows=np.arange(count, dtype=np.int64) * 3,
        vectors=vectors,
        provenance=provenance(4),
    )
    return dataclasses.replace(checkpoint, **changes)


def content(checkpoint: Checkpoint) -> tuple[Any, ...]:
    return (
        checkpoint.index,
        checkpoint.requested,
        checkpoint.provenance,
        checkpoint.rows.tolist(),
        checkpoint.vectors[:].tobytes(),
    )


@pytest.mark.parametrize("rows", [1, 40, 5000])
def test_what_was_written_is_read(rows: int) -> None:
    checkpoint = make_checkpoint(rows)
    assert content(read_checkpoint(checkpoint_bytes(checkpoint), name="x")) == content(checkpoint)


def test_the_largest_checkpoint_is_within_the_limit_of_its_object() -> None:
    for dimensions in (16, 512, 8192):
        rows = rows_at_once(dimensions)
        assert rows * dimensions * 4 <= MAX_VECTOR_BYTES
        assert rows * (dimensions * 4 + 8) + 16_384 <= MAX_CHECKPOINT_BYTES
    assert rows_at_once(1 << 30) == 1


def test_a_flipped_bit_of_a_checkpoint_is_found_wherever_it_is() -> None:
    checkpoint = make_checkpoint()
    data = checkpoint_bytes(checkpoint)
    draw = random.Random(1)
    places = [*range(SEAL_BYTES), *(draw.randrange(SEAL_BYTES, len(data)) for _ in range(600))]
    found = 0
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << draw.randrange(8)
        try:
            read = read_checkpoint(bytes(damaged), name="x")
        except ChunkInvalid:
            found += 1
        else:  # a byte that nobody reads, such as the rest of the seal
            assert content(read) == content(checkpoint)
    assert found > 600


def test_a_checkpoint_that_was_cut_or_is_something_else_is_refused() -> None:
    data = checkpoint_bytes(make_checkpoint())
    for other in (b"", b"x", data[:100], data[: len(data) // 2], data[:-1], data + b"x", bytes(len(data))):
        with pytest.raises(ChunkInvalid, match="place"):
            read_checkpoint(other, name="place")


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": np.arange(40, dtype=np.int64)[::-1].copy()},
        {"rows": np.zeros(40, np.int64)},
        {"rows": np.arange(40, dtype=np.int64) - 1},
        {"requested": 117},
        {"rows": np.arange(39, dtype=np.int64)},
        {"rows": np.arange(40, dtype=np.int32)},
        {"vectors": make_checkpoint().vectors[:] * np.float32(1.1)},
        {"vectors": np.full((40, 64), np.nan, np.float32)},
        {"vectors": make_checkpoint().vectors[:].astype(np.float64)},
    ],
    ids=["descending", "twice", "negative", "beyond", "too few", "int32", "not norm 1", "not finite", "float64"],
)
def test_rows_that_cannot_be_those_of_the_chunk_are_refused(changes: dict[str, Any]) -> None:
    data = checkpoint_bytes(make_checkpoint(**changes))
    with pytest.raises(ChunkInvalid, match="place"):
        read_checkpoint(data, name="place")


def test_other_programs_read_it(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    (tmp_path / "checkpoint.h5").write_bytes(checkpoint_bytes(checkpoint))
    with h5py.File(tmp_path / "checkpoint.h5") as file:
        assert file["rows"][:].tolist() == checkpoint.rows.tolist()
        np.testing.assert_array_equal(file["embeddings"][:], checkpoint.vectors[:])
        assert file.attrs["fingerprint"] == checkpoint.provenance.fingerprint
