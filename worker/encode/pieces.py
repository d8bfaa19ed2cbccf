"""A batch as pieces: views of the pool of squares, one for each run of neighbouring slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def rows_in(pieces: Sequence[Tensor]) -> int:
    """Return the number of squares in all pieces, each of them (rows, size, size, 3)."""
    return sum(len(piece) for piece in pieces)


def split_pieces(pieces: Sequence[Tensor], rows: int) -> list[list[Tensor]]:
    """Divide pieces into parts of `rows` squares each, in their order, without a copy. The last part may be smaller."""
    parts: list[list[Tensor]] = []
    room = 0
    for piece in pieces:
        start = 0
        while start < len(piece):
            if not room:
                parts.append([])
                room = rows
            taken = piece[start : start + room]
            parts[-1].append(taken)
            start += len(taken)
            room -= len(taken)
    return parts


def fill(squares: Tensor, pieces: Sequence[Tensor]) -> None:
    """Copy the pieces to `squares`, (rows, size, size, 3) of any type and device. Rows that are left become black.

    On a GPU the copies only begin here, in the order of the current stream.
    """
    rows = rows_in(pieces)
    places = torch.split(squares[:rows], [len(piece) for piece in pieces])
    # One call for all pieces, because each call gives the interpreter's lock away and has to wait for it again.
    torch._foreach_copy_(places, tuple(pieces), non_blocking=True)
    squares[rows:].zero_()
