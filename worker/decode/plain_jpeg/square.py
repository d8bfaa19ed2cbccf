"""Calls plain_jpeg.c, which makes squares of plain JPEGs.

The pixels are those of libjpeg-turbo and torch, in two thirds of the time.

The C code is compiled when the program is installed. It is not available if there was no compiler or if the processor
is not an x86-64 with AVX2. The libraries then do its work.
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
"""Number of weights that the C code multiplies at a time."""

_OUTPUTS = 8
"""Number of output pixels that the C code makes at a time."""

_WEIGHT_BITS = 15
"""Maximum size of a weight in bits, without its sign."""

_MAX_PRECISION = 22
"""Maximum number of bits after a weight's binary point. The sums have 32 bits: 8 for the pixel and 2 for intermediate
sums of weights remain."""


class _AxisStruct(ctypes.Structure):
    """`struct axis` of plain_jpeg.c."""

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
    """One direction of a resize, for the output pixels of the square: output i is the sum of `counts[i]` pixels from
    `first[i]` on, each times its weight.

    The arrays are padded: there are a multiple of _OUTPUTS outputs, with a multiple of _LANES weights each.
    """

    first: NDArray[np.int32]
    """(outputs,): the first pixel of each output."""
    counts: NDArray[np.int32]
    """(outputs,): the number of pixels of each output."""
    weights: NDArray[np.int16]
    """(outputs, weights): the weight of each pixel, as a fixed-point number."""
    precision: int
    """Number of bits after the weights' binary point."""
    struct: ctypes.Structure
    """The same values for the C code. The struct points into the arrays above."""


def is_available() -> bool:
    """Tell whether the C code was compiled and this processor can run it."""
    return _library is not None


def plain_square(
    data: bytes | bytearray | memoryview,
    *,
    height: int,
    width: int,
    geometry: Geometry,
    buffer: Callable[[int], bytearray],
) -> NDArray[np.uint8] | None:
    """Return the square of a plain JPEG, uint8 (size, size, 3) in RGB, or None for any other or damaged file.

    `height` and `width` are what libjpeg-turbo read from the header. It must have accepted the header, because the C
    code skips parts of it (a colour profile, for example). `buffer` returns at least the number of bytes it is given,
    as memory to work in.
    """
    library = _library
    if library is None:
        return None
    across = resize_axis(width, geometry.width, start=geometry.left, size=geometry.size)
    down = resize_axis(height, geometry.height, start=geometry.top, size=geometry.size)
    taps = max(across.struct.taps, down.struct.taps)
    scratch = np.frombuffer(buffer(library.plain_jpeg_room(len(data), width, geometry.size, taps)), np.uint8)
    square = np.empty((geometry.size, geometry.size, 3), np.uint8)  # (size, size, 3)
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
    """Return the axis of a resize from `pixels` to `resized` pixels, for the `size` outputs from `start` on.

    It is torch's bicubic resize of bytes with antialiasing: Keys' cubic convolution (1981) with a = -0.5, stretched by
    the scale if the scale is above 1. The weights of an output sum up to 1. They are fixed-point numbers of 16 bits,
    with as many bits after the binary point as the largest weight allows. The weights outside the square count too.
    """
    scale = pixels / resized
    stretch = max(scale, 1.0)
    centers = (np.arange(resized) + 0.5) * scale  # (resized,)
    first = np.maximum((centers - 2 * stretch + 0.5).astype(np.int64), 0)
    counts = np.minimum((centers + 2 * stretch + 0.5).astype(np.int64), pixels) - first
    taps = np.arange(counts.max())
    distances = np.abs((taps + first[:, None] - centers[:, None] + 0.5) / stretch)  # (resized, taps)
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
    """Return the C code as it was compiled at installation, or None if it is not available."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_plain_jpeg{suffix}")
        if path.exists():
            with suppress(OSError):  # it may have been compiled for another kind of machine
                library = load(path)
                return library if library.plain_jpeg_works() else None
    return None


def load(path: Path) -> ctypes.CDLL:
    """Return the compiled code at `path`, with the types of its functions. Raises OSError if it cannot be loaded."""
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
