"""Sets of chunk indexes in Kubernetes' notation, "1,3-5,7", as Jobs report completed and failed indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def format_indexes(indexes: Iterable[int]) -> str:
    """Return the indexes sorted, once each, with runs of two or more as ranges: {1, 3, 4, 5, 7} is "1,3-5,7"."""
    ranges: list[list[int]] = []
    for index in sorted(set(indexes)):
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def parse_indexes(text: str) -> list[int]:
    """Return the indexes that `text` names, ascending. Raises ValueError when it is not of the form "1,3-5,7"."""
    indexes: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        if not (_is_index(first) and (_is_index(last) if dash else True)):
            raise ValueError(f"{part!r} is neither an index nor a range of indexes; write for example 3,7-9")
        low, high = int(first), int(last if dash else first)
        if high < low:
            raise ValueError(f"the range {part!r} runs backwards")
        if high - low >= MAX_INDEXES:
            raise ValueError(f"the range {part!r} holds more than {MAX_INDEXES} indexes")
        indexes.update(range(low, high + 1))
    return sorted(indexes)


MAX_INDEXES = 1_000_000
"""No Indexed Job is anywhere near so large; a typo must not fill the memory."""


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()
