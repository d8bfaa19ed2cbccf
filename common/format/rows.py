"""Rows of a dataset: as an array, as slices of it, and as the bytes that a file holds."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from common.errors import ChunkInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SLICE_BYTES = 1 << 20
"""The number of bytes of rows that are read or written at a time."""

NORM_TOLERANCE = 1e-3
"""The largest distance of a stored row's norm from 1. In float32, a vector divided by its norm is within 1e-6."""


class Rows(Protocol):
    """An array, or an object that gives slices as an array does."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


def slices(rows: Rows) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield slices of the rows in order, each with the number of its first row."""
    at_once = max(1, SLICE_BYTES // max(1, rows.dtype.itemsize * math.prod(rows.shape[1:])))
    for start in range(0, rows.shape[0], at_once):
        yield start, rows[start : start + at_once]


def pieces(rows: Rows) -> Iterator[memoryview]:
    """Yield the bytes of the rows in C order, one slice at a time."""
    for _, some in slices(rows):
        yield memoryview(np.ascontiguousarray(some).view(np.uint8).data if some.size else b"")


def sha256(rows: Rows) -> str:
    """Return the hexadecimal SHA-256 of the bytes of the rows in C order."""
    digest = hashlib.sha256()
    for piece in pieces(rows):
        digest.update(piece)
    return digest.hexdigest()


def check_norms(embeddings: NDArray[np.float32], *, name: str, first_row: int = 0) -> None:
    """Raise ChunkInvalid unless every row of (rows, dimensions) is finite and has norm 1.

    The error names the first bad row by its number in `name`, where the first of these rows has number `first_row`.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    bad = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # a comparison with NaN is false
    if bad.size:
        raise ChunkInvalid(
            f"{name}: {bad.size} rows are not of norm 1, the first is row {first_row + bad[0]}: {norms[bad[0]]}"
        )


def to_bytes_column(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return the texts as fixed-length UTF-8. The length is that of the longest text, at least 1 byte."""
    encoded = [text.encode("utf-8", "backslashreplace") for text in texts]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=0) or 1}")
