from __future__ import annotations

import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.indexes import compact_indexes, format_indexes, parse_indexes


@given(st.sets(st.integers(0, 200)))
def test_formatted_indexes_are_parsed_back(indexes: set[int]) -> None:
    assert parse_indexes(format_indexes(indexes)) == sorted(indexes)


@pytest.mark.parametrize(
    ("indexes", "text"),
    [
        ([], ""),
        ([5], "5"),
        ([0, 1], "0,1"),
        ([0, 1, 3], "0,1,3"),
        ([0, 2, 3, 4], "0,2-4"),
        ([7, 1, 3, 5, 4, 4], "1,3-5,7"),
        ([8, 9, 10, 11], "8-11"),
    ],
)
def test_indexes_are_written_as_kubernetes_writes_them(indexes: list[int], text: str) -> None:
    assert format_indexes(indexes) == text
    assert parse_indexes(text) == sorted(set(indexes))


def test_a_range_of_two_and_spaces_are_accepted() -> None:
    assert parse_indexes("0-1,3") == parse_indexes("0,1,3") == [0, 1, 3]
    assert parse_indexes(" 1, 3-5 ,7") == [1, 3, 4, 5, 7]


@pytest.mark.parametrize("text", ["a", "1-", "-1", "5-3", "1-2-3", "1.5", "0-99999999", "٣", "1;2"])
def test_a_text_that_names_no_indexes_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"index|range"):
        parse_indexes(text)


@given(st.sets(st.integers(0, 5000)))
def test_the_compact_form_is_parsed_back(indexes: set[int]) -> None:
    assert parse_indexes(compact_indexes(indexes)) == sorted(indexes)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_the_compact_form_of_any_chunks_of_a_run_fits_into_a_variable(step: int) -> None:
    indexes = range(0, 100_000, step)
    text = compact_indexes(indexes)
    assert len(text) < 20_000
    assert parse_indexes(text) == list(indexes)


def test_the_compact_form_of_scattered_chunks_fits_too() -> None:
    indexes = random.Random(17).sample(range(100_000), 50_000)
    text = compact_indexes(indexes)
    assert len(text) < 20_000 < len(format_indexes(indexes))
    assert parse_indexes(text) == sorted(indexes)


def test_a_bitmap_that_was_cut_or_is_too_large_is_an_error() -> None:
    whole = compact_indexes(range(0, 5000, 3))
    bomb = f"bitmap:{base64.b64encode(zlib.compress(bytes(10_000_000))).decode()}"
    for text in (whole[:-8], whole[:-1], "bitmap:", "bitmap:%", bomb):
        with pytest.raises(ValueError, match="bitmap of indexes"):
            parse_indexes(text)
