"""What the devices have in common: how they take a batch, and what they give for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Computed(NamedTuple):
    """The vectors of a part of a batch."""

    vectors: NDArray[np.float32]
    """(rows or more, dimensions). The rows at the end fill the part up; they belong to black squares."""
    rows: int
    """Number of rows that belong to images."""


class Device(Protocol):
    def warm_up(self, batch_size: int) -> None:
        """Prepare for batches of this size, so that the first images do not wait for it."""

    def start(self, pieces: Sequence[Tensor]) -> Callable[[], list[Computed]]:
        """Begin to compute a batch, pieces of uint8 (rows, size, size, 3). Return a function that waits for it."""
