"""From an image's bytes to the model's square of pixels.

The square is that of OpenAI's published transform: resize the short side bicubically with antialiasing, crop the
centre, convert to RGB. There are three ways to compute it. The first two are called the fast way:

    plain JPEG      plain_jpeg, a decoder of our own; if it refuses the file, the next way
    ordinary JPEG   libjpeg-turbo and torch's resize of bytes, which give the same pixels as plain_jpeg
    other images    Pillow, whose resize is the published one

Like the published transform, this one ignores the EXIF orientation. The exception is TIFF, whose orientation Pillow
itself applies.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

import simplejpeg
import torch
from PIL import Image
from torch.nn import functional

from worker.decode.geometry import square_geometry
from worker.decode.pillow_square import pillow_square
from worker.decode.pixel_limits import PixelLimits
from worker.decode.plain_jpeg import plain_square

if TYPE_CHECKING:
    from torch import Tensor

    from worker.decode.boxes import Buffer

MAX_FAST_ASPECT = 4
"""Largest ratio of long side to short side for the fast way. torch resizes the whole image, but the crop removes most
of a longer image. So Pillow resizes longer images."""

LARGE_PIXELS = 32_000_000
"""Number of pixels above which an image is large. Large images are decoded one at a time, because the pixels of each
take 100 MB or more."""

KEPT_BYTES = 16 << 20
"""Largest size in bytes of a buffer for decoded pixels that a thread keeps for its next image: 5 megapixels. Fresh
memory costs a page fault for each page, and those took a third of the decoding time."""

_thread = threading.local()

# Pillow's own limit is off, because `PixelLimits` checks the caller's limit for every format.
Image.MAX_IMAGE_PIXELS = None

# Pillow warns of odd palettes and metadata, and among millions of photos nobody can act on that.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def image_square(
    data: Buffer,
    *,
    rotation: int = 0,
    size: int = 224,
    max_pixels: int,
    may_be_large: bool = True,
) -> Tensor:
    """Return the pixels that the model sees, uint8 (size, size, 3) in RGB.

    `rotation` is in degrees counter-clockwise, a multiple of 90. Raises ImageFailed for bytes that are not an image,
    are damaged, or announce more than `max_pixels` pixels in the header, which is checked before anything is decoded.
    Raises LargeImage for an image of more than LARGE_PIXELS pixels, unless it `may_be_large`.
    """
    limits = PixelLimits(max_pixels, max_pixels if may_be_large else LARGE_PIXELS)
    if _is_ordinary_jpeg(data):
        square = _fast_square(data, limits, rotation=rotation, size=size)
        if square is not None:
            return square
    return torch.from_numpy(pillow_square(data, limits, rotation=rotation, size=size))


def _is_ordinary_jpeg(data: Buffer) -> bool:
    """Tell whether the bytes are a sequential JPEG (SOF0 or SOF1) of 8 bits with one or three components."""
    if len(data) < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return False
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            return marker in {0xC0, 0xC1} and data[at + 4] == 8 and data[at + 9] in {1, 3}
        if marker in {0xD9, 0xDA}:
            return False
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return False


def _fast_square(data: Buffer, limits: PixelLimits, *, rotation: int, size: int) -> Tensor | None:
    """Return the square by `plain_jpeg` or by libjpeg-turbo and torch, or None if Pillow's may differ from it."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        limits.check(height=height, width=width)
        if colorspace not in {"YCbCr", "Gray"} or max(height, width) > MAX_FAST_ASPECT * min(height, width):
            return None
        upright = (height, width) if rotation % 180 == 0 else (width, height)
        geometry = square_geometry(height=upright[0], width=upright[1], size=size)
        if geometry.is_vertical_first(height=upright[0], width=upright[1]):
            return None  # torch always resizes horizontally first
        if not rotation:
            square = plain_square(data, height=height, width=width, geometry=geometry, buffer=_buffer)
            if square is not None:
                return torch.from_numpy(square)
        grey = colorspace == "Gray"
        pixels = simplejpeg.decode_jpeg(
            data, colorspace="GRAY" if grey else "RGB", buffer=_buffer(height * width * (1 if grey else 3))
        )
    except ValueError:
        return None  # Pillow decides whether and how the bytes are damaged
    # The channels are last in memory. torch recognises that by the stride of the first dimension, but only if this
    # dimension is added before the permutation. Otherwise it copies the image into another order and back.
    image = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)  # (1, channels, height, width)
    if rotation:
        image = torch.rot90(image, rotation // 90, dims=(2, 3)).contiguous(memory_format=torch.channels_last)
    resized = functional.interpolate(image, size=(geometry.height, geometry.width), mode="bicubic", antialias=True)[0]
    shown = resized[:, geometry.top : geometry.top + size, geometry.left : geometry.left + size]
    return shown.permute(1, 2, 0).expand(size, size, 3)  # from (channels, size, size)


def _buffer(size: int) -> bytearray:
    """Return memory for decoded pixels: this thread's own buffer, or a new one for more than KEPT_BYTES."""
    if size > KEPT_BYTES:
        return bytearray(size)
    buffer: bytearray = getattr(_thread, "buffer", None) or bytearray()
    if len(buffer) < size:
        buffer = _thread.buffer = bytearray(size)
    return buffer
