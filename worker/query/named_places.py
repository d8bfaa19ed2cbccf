"""Places by names, for millions of names: of each name its hash is kept, which takes a tenth of the memory."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class NamedPlaces:
    """Pairs of numbers by names. A hash has 64 bits, so no two of some million names share one."""

    def __init__(self, places: Iterable[tuple[str, int, int]]) -> None:
        keys, firsts, seconds = array("q"), array("q"), array("q")
        for name, first, second in places:
            keys.append(hash(name))
            firsts.append(first)
            seconds.append(second)
        table = np.array([keys, firsts, seconds], np.int64)
        self._table: NDArray[np.int64] = table[:, np.argsort(table[0], kind="stable")]  # (3, names)

    @property
    def kept_bytes(self) -> int:
        return self._table.nbytes

    def find(self, name: str) -> list[tuple[int, int]]:
        """Return the pair of a name, the first two pairs of a name that was given more than once."""
        keys, firsts, seconds = self._table
        key = hash(name)
        start = int(np.searchsorted(keys, key))
        numbers = range(start, min(start + 2, len(keys)))
        return [(int(firsts[number]), int(seconds[number])) for number in numbers if keys[number] == key]
