"""A small picture for people to look at, as a JPEG."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from worker.decode.pillow_square import shown_picture, with_opened
from worker.decode.pixel_limits import PixelLimits
from worker.decode.preprocess import LARGE_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import ImageFile

    from worker.decode.boxes import Buffer

QUALITY = 82
"""Quality of the JPEG, 1 to 95. At this quality, a photo of 320 pixels has about 20 KB."""

LENGTH_BYTES = 4
"""Size in bytes of the length that stands before a picture in a slot."""

_ORIENTATION = 274
"""The EXIF tag that says how a camera was held."""


def small_picture(data: Buffer, *, side: int, max_pixels: int, may_be_large: bool = True) -> bytes:
    """Return a JPEG of the whole picture whose longest side has at most `side` pixels.

    It is upright as a browser shows it, on white where it is transparent, and has no metadata. Raises as
    `worker.decode.preprocess.image_square`.
    """
    limits = PixelLimits(max_pixels, max_pixels if may_be_large else LARGE_PIXELS)
    orientation = _orientation(data)

    def read(image: ImageFile.ImageFile, data: Buffer) -> bytes:
        image.draft("RGB", (2 * side, 2 * side))  # a JPEG is then decoded at a fraction of its size
        shown = shown_picture(image, data)
        shown.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
        file = io.BytesIO()
        _on_white(_upright(shown, orientation)).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()

    return with_opened(data, limits, read)


def picture_as_array(picture: bytes) -> NDArray[np.uint8]:
    """Return what the slot of a picture begins with: its length and its bytes."""
    return np.frombuffer(len(picture).to_bytes(LENGTH_BYTES) + picture, np.uint8)


def picture_of_slot(slot: NDArray[np.uint8]) -> bytes:
    """Return the picture that lies in a slot, uint8 of any shape."""
    flat = slot.reshape(-1)
    length = int.from_bytes(flat[:LENGTH_BYTES].tobytes())
    return flat[LENGTH_BYTES : LENGTH_BYTES + length].tobytes()


def _orientation(data: Buffer) -> int:
    """Return the EXIF orientation, 1 if there is none that can be read."""
    orientation: object = 1
    # The metadata may be damaged in any way, and the picture is good without it.
    with suppress(Exception), Image.open(io.BytesIO(data), formats=("JPEG", "WEBP", "PNG")) as image:
        orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    shown = image.convert("RGBA")
    white = Image.new("RGBA", shown.size, "white")
    return Image.alpha_composite(white, shown).convert("RGB")
