"""Sets of chunk indexes as text.

The notation is Kubernetes' own, "1,3-5,7", as in a Job's completedIndexes and failedIndexes. A long list of scattered
indexes has a compact form beside it, because an environment variable ends at 128 KiB and every pod of a rerun carries
the list: `bitmap:` and the base64 of a deflated bitmap. 100,000 indexes take 17 KB at most.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_INDEXES = 1_000_000
"""The most indexes in one range, so that a typo does not fill the memory. Kubernetes allows an Indexed Job 100,000."""

BITMAP = "bitmap:"
"""The start of the compact form."""


def format_indexes(indexes: Iterable[int]) -> str:
    """Return the indexes sorted, once each, in Kubernetes' notation: three or more in a row become a range.

    {1, 2, 4, 5, 6, 8} is "1,2,4-6,8".
    """
    ordered = sorted(set(indexes))
    if not ordered:
        return ""
    # A run of neighbours begins after each gap.
    starts = [0, *(place for place, (before, after) in enumerate(pairwise(ordered), 1) if after != before + 1)]
    parts = []
    for start, end in pairwise([*starts, len(ordered)]):
        if end - start > 2:
            parts.append(f"{ordered[start]}-{ordered[end - 1]}")
        else:
            parts += map(str, ordered[start:end])
    return ",".join(parts)


def brief_indexes(indexes: Iterable[int], *, ranges: int = 30) -> str:
    """Return the indexes as `format_indexes` does. Of very many ranges only the first are named, with the total."""
    wanted = set(indexes)
    parts = format_indexes(wanted).split(",")
    return ",".join(parts) if len(parts) <= ranges else f"{','.join(parts[:ranges])},… ({len(wanted):,} in all)"


def compact_indexes(indexes: Iterable[int]) -> str:
    """Return the indexes in the compact form, which `parse_indexes` reads. Bit i of byte j stands for index 8 j + i."""
    ordered = sorted(set(indexes))
    bits = bytearray(ordered[-1] // 8 + 1 if ordered else 0)
    for index in ordered:
        bits[index // 8] |= 1 << index % 8
    return BITMAP + base64.b64encode(zlib.compress(bits, 9)).decode()


def parse_indexes(text: str) -> list[int]:
    """Return the indexes that `text` names, in ascending order. A range of two, "1-2", is accepted too.

    Raises ValueError when the text has neither the form "1,3-5,7" nor the compact one.
    """
    if text.startswith(BITMAP):
        return _parse_bitmap(text.removeprefix(BITMAP))
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


def _parse_bitmap(encoded: str) -> list[int]:
    try:
        inflater = zlib.decompressobj()
        bits = inflater.decompress(base64.b64decode(encoded, validate=True), MAX_INDEXES // 8)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the bitmap of indexes cannot be read: {error}; it may have been cut") from error
    if not inflater.eof:
        raise ValueError(f"the bitmap of indexes was cut, or holds more than {MAX_INDEXES} indexes")
    return [8 * place + bit for place, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1]


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()
