"""The numbers of an export: how they are made of float32, how they are read, and by how much they may differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from results.export.number_type import NumberType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

LARGEST_INT8 = 127
"""-128 is not used, so that a vector and its negative have the same error."""


class Bounds(NamedTuple):
    """The smallest and the largest number of each dimension, over all rows: (dimensions,) float32 each."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @property
    def largest(self) -> float:
        """The largest absolute value of any component; 0 for a result without rows."""
        return float(max(np.abs(self.low).max(initial=0), np.abs(self.high).max(initial=0)))


def bounds_of(blocks: Iterable[NDArray[np.float32]], *, dimensions: int) -> Bounds:
    """Return the bounds of the vectors in the blocks, zeros if there are none."""
    low, high = np.full(dimensions, np.inf, np.float32), np.full(dimensions, -np.inf, np.float32)
    for block in blocks:
        np.minimum(low, block.min(axis=0), out=low)
        np.maximum(high, block.max(axis=0), out=high)
    return Bounds(low, high) if np.isfinite(low).all() else no_bounds(dimensions)


def no_bounds(dimensions: int) -> Bounds:
    return Bounds(np.zeros(dimensions, np.float32), np.zeros(dimensions, np.float32))


@dataclass(frozen=True)
class Encoding:
    """Makes the numbers of an array. int8 numbers are multiples of one `scale`: vector = numbers x scale."""

    type: NumberType
    scale: float = 1.0

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[Any]:
        if self.type is NumberType.INT8:
            vectors = np.clip(np.rint(vectors / np.float32(self.scale)), -LARGEST_INT8, LARGEST_INT8)
        numbers: NDArray[Any] = vectors.astype(self.type.value, copy=False)
        return numbers

    def decode(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
        decoded: NDArray[np.float32] = numbers.astype(np.float32)
        return decoded * np.float32(self.scale) if self.type is NumberType.INT8 else decoded

    def tolerance(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return by how much a decoded number may differ from the vector's: half a step of the type."""
        match self.type:
            case NumberType.FLOAT32:
                return np.zeros_like(vectors)
            case NumberType.FLOAT16:
                return float16_tolerance(vectors)
            case NumberType.INT8:
                return np.full_like(vectors, 0.5001 * self.scale)


def float16_tolerance(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return half a step of float16: 11 bits, and 2^-24 near zero."""
    return np.maximum(np.abs(vectors) * np.float32(2.0**-11), np.float32(2.0**-25))


def encoding_for(number_type: NumberType, bounds: Bounds) -> Encoding:
    """Return the encoding. The largest component of all vectors becomes 127 in int8, so no number is cut off."""
    if number_type is not NumberType.INT8:
        return Encoding(number_type)
    return Encoding(number_type, (bounds.largest or 1.0) / LARGEST_INT8)
