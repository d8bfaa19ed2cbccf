"""Squares of plain JPEGs by plain_jpeg.c: what libjpeg-turbo and torch make of them, in two thirds of the time.

It is compiled when the program is installed. Where there was no compiler, or the processor lacks what it takes (x86-64
with AVX2), it is not there, and the libraries do its work.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from worker.decode.geometry import Geometry

_DONE = 0
_NO_ROOM = 2

_LANES = 16
"""Weights are summed so many at a time."""

_OUTPUTS = 8
"""Pixels are resized so many at a time."""

_WEIGHT_BITS = 15
"""Of the largest weight, without its sign."""

_MAX_PRECISION = 22
"""Bits behind the point: 8 of the pixel and 2 for what weights sum up to in between are the others of 32."""


class _AxisStruct(ctypes.Structure):
    _fields_ = (
        ("first", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("taps", ctypes.c_int32),
        ("precision", ctypes.c_int32),
        ("start", ctypes.c_int32),
        ("end", ctypes.c_int32),
    )


class Axis(NamedTuple):
    """One direction of a resize, of the pixels that the square shows; filled up with outputs and weights of nothing."""

    first: NDArray[np.int32]
    """(outputs,): the first pixel that an output is made of."""
    counts: NDArray[np.int32]
    """(outputs,): how many pixels that is."""
    weights: NDArray[np.int16]
    """(outputs, taps): what each of them counts for."""
    precision: int
    """Bits of the weights behind the point."""
    struct: ctypes.Structure
    """The same for C."""


def is_there() -> bool:
    """Tell whether plain JPEGs are decoded by the compiled code here."""
    return _library is not None


def plain_square(
    data: bytes | bytearray | memoryview,
    *,
    height: int,
    width: int,
    geometry: Geometry,
    buffer: Callable[[int], bytearray],
) -> NDArray[np.uint8] | None:
    """Return the square of a plain JPEG, uint8 (size, size, 3) in RGB; None for another file, or a damaged one.

    `height` and `width` are what its header says by libjpeg-turbo, which must have found nothing amiss there (a colour
    profile, say, is skipped here). `buffer` returns memory of so many bytes or more to work in.
    """
    library = _library
    if library is None:
        return None
    across = resize_axis(width, geometry.width, start=geometry.left, size=geometry.size)
    down = resize_axis(height, geometry.height, start=geometry.top, size=geometry.size)
    taps = max(across.struct.taps, down.struct.taps)
    scratch = np.frombuffer(buffer(library.plain_jpeg_room(len(data), width, geometry.size, taps)), np.uint8)
    square = np.empty((geometry.size, geometry.size, 3), np.uint8)
    outcome = library.plain_jpeg_square(
        np.frombuffer(data, np.uint8).ctypes.data,
        len(data),
        width,
        height,
        geometry.size,
        ctypes.byref(across.struct),
        ctypes.byref(down.struct),
        scratch.ctypes.data,
        len(scratch),
        square.ctypes.data,
    )
    if outcome == _NO_ROOM:
        raise ValueError(f"{len(scratch)} bytes are not enough for an image of {width} x {height} pixels")
    return square if outcome == _DONE else None


@lru_cache(maxsize=128)
def resize_axis(pixels: int, resized: int, *, start: int, size: int) -> Axis:
    """Return how `size` outputs from `start` on are made, of the `resized` ones to which `pixels` become.

    As torch resizes bytes bicubically with antialiasing: Keys' cubic convolution (1981) with a = -0.5, stretched by the
    scale where that is above 1; weights that sum up to 1, in 16 bits of which as many are behind the point as the
    largest weight of all outputs, those outside the square too, leaves room for.
    """
    scale = pixels / resized
    stretch = max(scale, 1.0)
    centers = (np.arange(resized) + 0.5) * scale
    first = np.maximum((centers - 2 * stretch + 0.5).astype(np.int64), 0)
    counts = np.minimum((centers + 2 * stretch + 0.5).astype(np.int64), pixels) - first
    taps = np.arange(counts.max())
    distances = np.abs((taps + first[:, None] - centers[:, None] + 0.5) / stretch)
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    weights = np.select([taps >= counts[:, None], distances < 1, distances < 2], [0.0, near, far])
    weights /= weights.sum(axis=1, keepdims=True)
    precision = 0
    while precision < _MAX_PRECISION and int(weights.max() * 2 ** (precision + 1) + 0.5) < 2**_WEIGHT_BITS:
        precision += 1
    whole = np.trunc(weights * 2**precision + np.copysign(0.5, weights))
    shown = slice(start, start + size)
    outputs, lanes = _up_to(size, _OUTPUTS), _up_to(len(taps), _LANES)
    axis_first = np.full(outputs, first[start], np.int32)
    axis_first[:size] = first[shown]
    axis_counts = np.zeros(outputs, np.int32)
    axis_counts[:size] = counts[shown]
    axis_weights = np.zeros((outputs, lanes), np.int16)
    axis_weights[:size, : len(taps)] = whole[shown]
    struct = _AxisStruct(
        axis_first.ctypes.data,
        axis_counts.ctypes.data,
        axis_weights.ctypes.data,
        lanes,
        precision,
        int(first[start]),
        int((first + counts)[shown].max()),
    )
    return Axis(axis_first, axis_counts, axis_weights, precision, struct)


def _up_to(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _installed() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_plain_jpeg{suffix}")
        if path.exists():
            with suppress(OSError):  # it may be of another kind of machine
                library = load(path)
                return library if library.plain_jpeg_works() else None
    return None


def load(path: Path) -> ctypes.CDLL:
    """Return what is compiled at a path, its functions with their types. Raises OSError where there is nothing."""
    library = ctypes.CDLL(str(path))
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.plain_jpeg_room.argtypes = (size, number, number, number)
    library.plain_jpeg_room.restype = size
    library.plain_jpeg_square.argtypes = (
        pointer,
        size,
        number,
        number,
        number,
        ctypes.POINTER(_AxisStruct),
        ctypes.POINTER(_AxisStruct),
        pointer,
        size,
        pointer,
    )
    return library


_library = _installed()
