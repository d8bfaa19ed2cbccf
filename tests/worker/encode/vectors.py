"""Squares to encode, and how far vectors are from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


def noise(rows: int, size: int) -> torch.Tensor:
    """Return random squares, uint8 (rows, size, size, 3), the same each time."""
    return torch.randint(
        0, 256, (rows, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(rows)
    )


def cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each row of `one` with the same row of `other`."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    result: NDArray[np.float64] = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return result
