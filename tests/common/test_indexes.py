from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.indexes import format_indexes, parse_indexes


@given(st.sets(st.integers(0, 200)))
def test_what_is_formatted_is_parsed_back(indexes: set[int]) -> None:
    assert parse_indexes(format_indexes(indexes)) == sorted(indexes)


def test_the_notation_is_that_of_kubernetes() -> None:
    assert format_indexes([7, 1, 3, 5, 4, 4]) == "1,3-5,7"
    assert format_indexes([]) == ""
    assert parse_indexes(" 1, 3-5 ,7") == [1, 3, 4, 5, 7]


@pytest.mark.parametrize("text", ["a", "1-", "-1", "5-3", "1-2-3", "1.5", "0-99999999", "٣", "1;2"])
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"index|range"):
        parse_indexes(text)
