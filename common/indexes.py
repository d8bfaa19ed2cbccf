"""Sets of chunk indexes in Kubernetes' notation, "1,3-5,7", as in a Job's completedIndexes and failedIndexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def format_indexes(indexes: Iterable[int]) -> str:
    """Return the indexes sorted, once each, in Kubernetes' notation: three or more in a row become a range.

    {1, 2, 4, 5, 6, 8} is "1,2,4-6,8".
    """
    runs: list[list[int]] = []
    for index in sorted(set(indexes)):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def parse_indexes(text: str) -> list[int]:
    """Return the indexes that `text` names, in ascending order. A range of two, "1-2", is accepted too.

    Raises ValueError when the text does not have the form "1,3-5,7".
    """
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
"""The most indexes in one range, so that a typo does not fill the memory. Kubernetes allows an Indexed Job 100,000."""


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()
