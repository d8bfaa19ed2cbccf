"""The square by Pillow, whose resize is the published one, for every image that is not an ordinary JPEG."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from common.format.reasons import Reason
from worker.decode.announced_sizes import announced_size
from worker.decode.deep_colours import raw_mode, shown_colours, with_layout
from worker.decode.descriptions import description
from worker.decode.file_kinds import formats_of
from worker.decode.geometry import square_geometry
from worker.decode.grey_levels import shown_grey
from worker.decode.metadata import without_metadata
from worker.decode.pillow_failures import check_memory, failure
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from worker.decode.boxes import Buffer
    from worker.decode.geometry import Geometry
    from worker.decode.pixel_limits import PixelLimits

Read = TypeVar("Read")

MAX_WHOLE_ASPECT = 64
"""Largest ratio of long side to short side of an image that Pillow resizes as a whole, as published. Of longer images
it resizes only what the crop shows: a panorama of 65,535 x 1 pixels would become 15 million x 224 pixels."""

_SAME_COLOUR = 16
"""Difference of two values (0 to 255) below which a square shows nothing."""


_SWAPPED = {"F;32BF": "F;32F", "I;32BS": "I;32S", "I;16BS": "I;16S"} if sys.byteorder == "little" else {}
"""Layouts of grey with the high byte first, and the same layouts in the order of this machine."""


def pillow_square(data: Buffer, limits: PixelLimits, *, rotation: int, size: int) -> NDArray[np.uint8]:
    """Return the square, uint8 (size, size, 3) in RGB.

    Raises ImageFailed and LargeImage as `image_square`, and MemoryError when the machine has no memory for the image.
    """

    def square(image: ImageFile.ImageFile, data: Buffer) -> NDArray[np.uint8]:
        return np.array(_square(image, data, rotation=rotation, size=size), dtype=np.uint8)

    return with_opened(data, limits, square)


def with_opened(data: Buffer, limits: PixelLimits, read: Callable[[ImageFile.ImageFile, Buffer], Read]) -> Read:
    """Return what `read` makes of the image, which it is given opened and not loaded, with the bytes of its file.

    Raises like `pillow_square`.
    """
    pixels = 0
    try:
        if announced := announced_size(data):
            limits.check(height=announced[0], width=announced[1])
            pixels = announced[0] * announced[1]
        data = without_metadata(data)
        with _opened(data) as image:
            limits.check(height=image.height, width=image.width)
            pixels = image.height * image.width
            return read(image, data)
    except (ImageFailed, LargeImage, MemoryError):
        raise
    except Exception as error:  # for damaged bytes, Pillow's decoders raise errors of any type
        check_memory(pixels)
        raise failure(data, error) from error


def _opened(data: Buffer) -> ImageFile.ImageFile:
    formats = formats_of(data)
    if not formats:
        raise ImageFailed(Reason.NOT_AN_IMAGE, description(data))
    return Image.open(io.BytesIO(data), formats=formats)


def shown_picture(image: ImageFile.ImageFile, data: Buffer) -> Image.Image:
    """Return the picture, loaded, with the bits that it uses, in any of Pillow's modes. `data` is its file."""
    layout = raw_mode(image)
    tags = getattr(image, "tag_v2", {})
    if layout in {"R", "C"} and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (8,))) > 8:
        # Pillow would read the two bytes of each value as two pixels.
        raise ImageFailed(Reason.UNSUPPORTED_PIXELS, "a TIFF of 16-bit colours in separate planes, not compressed")
    if layout in _SWAPPED and image.tile[0].codec_name == "libtiff":
        # libtiff has put the bytes in the order of this machine already, which Pillow forgets.
        image.tile = [with_layout(tile, _SWAPPED[layout]) for tile in image.tile]
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        shown = shown_grey(image, layout)
    else:
        shown = shown_colours(image, layout, lambda: _opened(data))
    return shown.convert("LA") if shown.mode == "La" else shown


def _square(image: ImageFile.ImageFile, data: Buffer, *, rotation: int, size: int) -> Image.Image:
    shown = shown_picture(image, data)
    square = _resized(shown, rotation=rotation, size=size)
    if shown.has_transparency_data and _shows_nothing(square):
        alpha: NDArray[np.uint8] = np.asarray(shown.convert("RGBA"))[..., 3]
        if not alpha.any():
            # A resize makes what cannot be seen black. Here, nothing can be seen, so the transparency is a mistake.
            return _resized(shown.convert("RGB"), rotation=rotation, size=size)
        if alpha.min() != alpha.max():
            raise ImageFailed(
                Reason.UNSUPPORTED_PIXELS,
                "the picture is in its transparency alone: without it, the square has one colour",
            )
    return square


def _shows_nothing(square: Image.Image) -> bool:
    pixels: NDArray[np.uint8] = np.asarray(square)
    spread = pixels.max(axis=(0, 1)) - pixels.min(axis=(0, 1))
    return bool((spread < _SAME_COLOUR).all())


def _resized(image: Image.Image, *, rotation: int, size: int) -> Image.Image:
    upright = image.transpose(_TRANSPOSE[rotation]) if rotation else image
    geometry = square_geometry(height=upright.height, width=upright.width, size=size)
    if max(upright.size) > MAX_WHOLE_ASPECT * min(upright.size):
        return _resized_square(upright, geometry).convert("RGB")
    resized = upright.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC)
    right, bottom = geometry.left + size, geometry.top + size
    return resized.crop((geometry.left, geometry.top, right, bottom)).convert("RGB")


def _resized_square(image: Image.Image, geometry: Geometry) -> Image.Image:
    """Return the square, but resize only what it shows. Pillow's rounding of the box is the only difference."""
    if image.mode in _PREMULTIPLIED:
        # Pillow would premultiply for each of the two passes, and the rounding between them would lose colours.
        return _resized_square(image.convert(_PREMULTIPLIED[image.mode]), geometry).convert(image.mode)
    left, top, right, bottom = geometry.source_box(height=image.height, width=image.width)
    passes = [(True, left, right), (False, top, bottom)]
    if geometry.is_vertical_first(height=image.height, width=image.width):
        passes.reverse()
    for is_across, start, end in passes:
        image = image.resize(
            (geometry.size, image.height) if is_across else (image.width, geometry.size),
            Image.Resampling.BICUBIC,
            box=(start, 0, end, image.height) if is_across else (0, start, image.width, end),
        )
    return image


_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}
"""Pillow's modes with transparency, and the modes whose colours are multiplied by it."""

_TRANSPOSE = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
