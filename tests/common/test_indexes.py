from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.indexes import format_indexes, parse_indexes


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
