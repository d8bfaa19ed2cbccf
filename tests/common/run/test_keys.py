from __future__ import annotations

import pytest

from common.run.keys import (
    checkpoint_index,
    checkpoint_key,
    checkpoint_number,
    checkpoints_prefix,
    chunk_failures_index,
    chunk_failures_key,
    chunk_index,
    chunk_key,
)


@pytest.mark.parametrize("index", [0, 7, 10, 99_999])
def test_the_key_of_a_chunk_holds_its_index(index: int) -> None:
    assert chunk_key(index) == f"chunks/Images_Embedded_{index}.h5"
    assert chunk_index(chunk_key(index)) == index
    assert chunk_failures_index(chunk_key(index)) is None


@pytest.mark.parametrize("index", [0, 7, 10, 99_999])
def test_the_list_of_a_chunks_failed_images_is_no_chunk(index: int) -> None:
    assert chunk_failures_key(index) == f"chunks/failures_{index}.csv"
    assert chunk_failures_index(chunk_failures_key(index)) == index
    assert chunk_index(chunk_failures_key(index)) is None


@pytest.mark.parametrize("index", [0, 7, 10, 99_999])
@pytest.mark.parametrize("number", [0, 12, 1_234_567])
def test_a_checkpoint_is_no_chunk_and_its_key_holds_index_and_number(index: int, number: int) -> None:
    key = checkpoint_key(index, number)
    assert key.startswith(checkpoints_prefix(index))
    assert not key.startswith(checkpoints_prefix(index + 1))
    assert (checkpoint_index(key), checkpoint_number(key)) == (index, number)
    assert chunk_index(key) is None
    assert chunk_failures_index(key) is None


@pytest.mark.parametrize(
    "key", ["Images_Embedded.h5", "chunks/Images_Embedded_07.h5", "chunks/Images_Embedded_1.h5.part", "chunks/1.h5"]
)
def test_any_other_key_has_no_index(key: str) -> None:
    assert chunk_failures_index(key) is None
    assert checkpoint_index(key) is None
    assert checkpoint_number(key) is None
    assert chunk_index(key) is None
