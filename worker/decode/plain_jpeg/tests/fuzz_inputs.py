"""Inputs of the fuzzer, and the comparison of the compiled decoder with simplejpeg and torch on them.

An input is a JPEG, and behind it four bytes that choose the square. harness.c reads it in the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg

from worker.decode.geometry import Geometry
from worker.decode.plain_jpeg.tests.plain_jpegs import compiled_square, library_square

SEEDS = Path(__file__).parents[1] / "fuzz" / "seeds"
"""Folder of the inputs that every run of the fuzzer begins with."""

MAX_SIDE = 2048
"""Longest side in pixels, of the image and of the resized image. Others are skipped, because they take long."""


class DecodersDiffer(Exception):
    """The compiled decoder accepts an input that the libraries refuse, or that has other pixels with them."""


class Options(NamedTuple):
    """The last bytes of an input, 0 to 255 each. Zeros choose an image that is not resized, and its centre."""

    side: int = 0
    """Short side of the resized image in pixels. 0: as in the file."""
    size: int = 0
    """Side of the square in pixels. 0: the short side. A value above the short side begins again at 1."""
    left: int = 0
    """Left edge of the square in the resized image, plus 1. 0: the centre. Too large a value begins again at 1."""
    top: int = 0
    """Top edge, in the same way."""


def split(data: bytes) -> tuple[bytes, Options]:
    """Return the JPEG and the options of an input. Raises ValueError if the input is too short for the options."""
    count = len(Options._fields)
    if len(data) < count:
        raise ValueError(f"an input has at least {count} bytes, not {len(data)}")
    return data[:-count], Options(*data[-count:])


def geometry_of(options: Options, *, height: int, width: int) -> Geometry | None:
    """Return the square that the options choose from a (height, width) image, or None if the image is skipped."""
    least = min(height, width)
    side = options.side or least
    resized_height, resized_width = int(side * height / least), int(side * width / least)
    if max(height, width, resized_height, resized_width) > MAX_SIDE:
        return None
    size = 1 + _modulo(options.size, side, otherwise=side - 1)
    left = _modulo(options.left, resized_width - size + 1, otherwise=(resized_width - size) // 2)
    top = _modulo(options.top, resized_height - size + 1, otherwise=(resized_height - size) // 2)
    return Geometry(resized_height, resized_width, top, left, size)


def _modulo(option: int, number: int, *, otherwise: int) -> int:
    return (option - 1) % number if option else otherwise


def is_accepted(data: bytes) -> bool:
    """Tell whether the compiled decoder accepts an input. Raises DecodersDiffer if the libraries contradict it."""
    try:
        jpeg, options = split(data)
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError:
        return False  # the worker asks the compiled decoder only if the libraries accept the header
    geometry = geometry_of(options, height=height, width=width)
    if geometry is None:
        return False
    compiled = compiled_square(jpeg, height=height, width=width, geometry=geometry)
    if compiled is None:
        return False
    try:
        expected = library_square(jpeg, geometry=geometry)
    except ValueError as error:
        raise DecodersDiffer(f"the libraries refuse what the compiled decoder accepts: {error}") from error
    if not np.array_equal(compiled, expected):
        row, column, channel = (int(first) for first in np.argwhere(compiled != expected)[0])
        raise DecodersDiffer(
            f"row {row}, column {column}, channel {channel} of the square ({geometry}): "
            f"{compiled[row, column, channel]} instead of the libraries' {expected[row, column, channel]}"
        )
    return True
