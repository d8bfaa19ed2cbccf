"""Grey of more than 8 bits, and of floating-point numbers, as a picture that can be seen.

Pillow cuts such values off at 255: a TIFF of floats from 0 to 1 becomes a black square, one of 16 bits a white one. So
the range is found from the type of the samples and the values themselves:

    0 to 1, floats        one is white
    0 to 255              as Pillow shows them
    up to 4,095           as many bits as the largest value needs, 9 to 12: what cameras and scanners measure
    up to 65,535          16 bits
    all others            refused, because nobody knows which of the values is black or white

Values that take up less than a sixteenth of their range are refused too: the square would be black. Zeros are black.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from common.format.reasons import Reason
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

NODATA_TAG = 42_113
"""The TIFF tag in which GDAL writes the value that stands for "nothing was measured here"."""

PHOTOMETRIC_TAG = 262
"""The TIFF tag that says which value is white: the lowest one if it is 0."""

_SLACK = 1 / 16
"""The part of a range by which values may lie beyond it, as after a sharpening. They are cut off, as Pillow does. It is
also the part of a range below which the largest value is too dark."""

_ROWS_AT_ONCE = 256
"""The number of rows that are scaled at a time, so that a large image takes no second copy of its values."""


def shown_grey(image: Image.Image, layout: str) -> Image.Image:
    """Return a grey image of mode I, I;16 or F with values from 0 to 255. Raises ImageFailed if its range is unknown.

    `layout` is Pillow's name of how the values lie in the file.
    """
    values: NDArray[Any] = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    values = _without_nodata(values, tags.get(NODATA_TAG))
    lowest, highest = float(values.min()), float(values.max())
    full = 4095 if layout == "I;12" else range_of(lowest, highest, is_float=values.dtype.kind == "f")
    if full == 255 and image.mode in {"I", "F"}:
        return image if tags.get(NODATA_TAG) is None else Image.fromarray(values)
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS_AT_ONCE):
        rows = values[top : top + _ROWS_AT_ONCE]
        scaled = rows * 255.0 if full == 1 else rows * (256 / (full + 1))
        grey[top : top + _ROWS_AT_ONCE] = (scaled.round() if full == 1 else np.floor(scaled)).clip(0, 255)
    if full != 255 and tags.get(PHOTOMETRIC_TAG) == 0:
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey)


def range_of(lowest: float, highest: float, *, is_float: bool) -> int:
    """Return the value that is white for grey values from `lowest` to `highest`: 1, 255, 511 and so on, or 65,535.

    Raises ImageFailed with unsupported_pixels if it is not plain.
    """
    spare = 1 + _SLACK if is_float else 1
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise _unknown("some values are not numbers")
    if lowest == highest == 0:
        return 255
    if is_float and highest <= spare:
        full = 1
    elif highest <= 255 * spare:
        full = 255
    elif highest < 4096:
        full = 2 ** int(highest).bit_length() - 1
    elif highest <= 65_535 * spare:
        full = 65_535
    else:
        raise _unknown(f"values from {lowest:g} to {highest:g}")
    if lowest < -full * _SLACK or highest < full * _SLACK:
        raise _unknown(f"values from {lowest:g} to {highest:g}")
    return full


def _without_nodata(values: NDArray[Any], nodata: object) -> NDArray[Any]:
    """Return the values with black where nothing was measured."""
    try:
        absent = float(str(nodata).strip("\0 "))
    except ValueError:
        return values
    return np.where(np.isnan(values) if math.isnan(absent) else values == absent, 0, values).astype(values.dtype)


def _unknown(what: str) -> ImageFailed:
    return ImageFailed(
        Reason.UNSUPPORTED_PIXELS,
        f"grey {what}: neither 0 to 1, nor of 8 to 16 bits, so nobody knows what is black and what is white",
    )
