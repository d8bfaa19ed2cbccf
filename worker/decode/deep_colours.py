"""Colours of 16 bits of which only the low ones are used, as a picture that can be seen.

Pillow keeps the high byte of each 16-bit colour. Where a file holds colours of 8 to 12 bits in 16, that makes a black
square. Then the low bytes are read too, which Pillow does if it is told the other order of bytes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_DARK = 16
"""The value of the high byte below which the colours use 12 bits or fewer."""

_OTHER_ORDER = {
    f"{colours};16{order}": f"{colours};16{other}"
    for colours in ("RGB", "RGBX", "RGBA", "CMYK")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
} | {"LA;16B": "RGBA"}
"""Pillow's names of the layouts of 16-bit colours, and of the same layouts with the other order of bytes. Grey with
transparency has none, but its four bytes can be read as four colours. The second one is the low byte of grey."""


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of how the pixels of an image that is not yet loaded lie in the file, "" if unknown."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ""
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def shown_colours(image: Image.Image, layout: str, reopened: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """Return a loaded image of this layout, with the bits that it uses.

    `reopened` opens the file again. It is called only if the image is of 16 bits and too dark.
    """
    if layout not in _OTHER_ORDER:
        return image
    colours = len(image.getbands()) - (image.mode == "RGBA")
    high: NDArray[np.uint8] = np.asarray(image)
    if high[..., :colours].max() >= _DARK:
        return image
    with reopened() as other:
        other.tile = [with_layout(tile, _OTHER_ORDER[layout]) for tile in other.tile]
        other.load()
        low: NDArray[np.uint16] = np.asarray(other).astype(np.uint16)
    if layout == "LA;16B":
        low = low[..., 1:2].repeat(4, axis=-1)
    values = high.astype(np.uint16) << 8 | low
    used_bits = max(8, int(values[..., :colours].max()).bit_length())
    shown = high.copy()
    shown[..., :colours] = values[..., :colours] >> (used_bits - 8)
    return Image.frombytes(image.mode, image.size, shown.tobytes())


def with_layout(tile: ImageFile._Tile, layout: str) -> ImageFile._Tile:
    """Return what tells Pillow to read the pixels of a file as another layout."""
    arguments = (layout, *tile.args[1:]) if isinstance(tile.args, tuple) else layout
    return tile._replace(args=arguments)
