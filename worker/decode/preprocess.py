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

import io
import threading
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn import functional

from common.format.reasons import Reason
from worker.decode.geometry import square_geometry
from worker.decode.plain_jpeg import plain_square
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from worker.decode.geometry import Geometry

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are decoded. Hostile bytes reach the decoder of each, so the list is short."""

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""First bytes of files that count as damaged images when Pillow cannot read their header."""

MAX_FAST_ASPECT = 4
"""Largest ratio of long side to short side for the fast way. torch resizes the whole image, but the crop removes most
of a longer image. So Pillow resizes longer images."""

MAX_WHOLE_ASPECT = 64
"""Largest ratio of long side to short side of an image that Pillow resizes as a whole, as published. Of longer images
it resizes only what the crop shows: a panorama of 65,535 x 1 pixels would become 15 million x 224 pixels."""

LARGE_PIXELS = 32_000_000
"""Number of pixels above which an image is large. Large images are decoded one at a time, because the pixels of each
take 100 MB or more."""

KEPT_BYTES = 16 << 20
"""Largest size in bytes of a buffer for decoded pixels that a thread keeps for its next image: 5 megapixels. Fresh
memory costs a page fault for each page, and those took a third of the decoding time."""

_thread = threading.local()

# Pillow's own limit is off, because `_PixelLimits` checks the caller's limit for every format.
Image.MAX_IMAGE_PIXELS = None

# Pillow warns of odd palettes and metadata, and among millions of photos nobody can act on that.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def image_square(
    data: bytes | bytearray | memoryview,
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
    limits = _PixelLimits(max_pixels, max_pixels if may_be_large else LARGE_PIXELS)
    if _is_ordinary_jpeg(data):
        square = _fast_square(data, limits, rotation=rotation, size=size)
        if square is not None:
            return square
    try:
        return _pillow_square(data, limits, rotation=rotation, size=size)
    except (ImageFailed, LargeImage):
        raise
    except UnidentifiedImageError:
        if bytes(data[:8]).startswith(SIGNATURES):
            reason = Reason.TRUNCATED if _is_cut(data) else Reason.CORRUPT
            raise ImageFailed(reason, f"the image's header cannot be read: {_first_bytes(data)}") from None
        raise ImageFailed(Reason.NOT_AN_IMAGE, _first_bytes(data)) from None
    except MemoryError:
        raise  # the machine is at fault, not the image
    except Exception as error:  # for damaged bytes, Pillow's decoders raise errors of any type
        text = str(error) or type(error).__name__
        # Pillow has no type of error for a cut file; only the text says it.
        is_cut = "truncated" in text.lower() or isinstance(error, EOFError) or _is_cut(data)
        raise ImageFailed(Reason.TRUNCATED if is_cut else Reason.CORRUPT, text[:200]) from error


class _PixelLimits(NamedTuple):
    for_any_image: int
    for_this_call: int
    """LARGE_PIXELS if the call does not allow large images, else equal to `for_any_image`."""

    def check(self, *, height: int, width: int) -> None:
        if height * width > self.for_any_image:
            raise ImageFailed(Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels, the limit is {self.for_any_image}")
        if height * width > self.for_this_call:
            raise LargeImage


def _is_ordinary_jpeg(data: bytes | bytearray | memoryview) -> bool:
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


def _fast_square(
    data: bytes | bytearray | memoryview, limits: _PixelLimits, *, rotation: int, size: int
) -> Tensor | None:
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


def _pillow_square(data: bytes | bytearray | memoryview, limits: _PixelLimits, *, rotation: int, size: int) -> Tensor:
    _check_webp_canvas(data, limits)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        limits.check(height=image.height, width=image.width)
        square = _resized(image, rotation=rotation, size=size)
    return torch.from_numpy(np.array(square, dtype=np.uint8))  # (size, size, 3)


def _resized(image: Image.Image, *, rotation: int, size: int) -> Image.Image:
    image.load()
    upright = _eight_bits(image)
    if rotation:
        upright = upright.transpose(_TRANSPOSE[rotation])
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


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit image scaled to 8 bits. Pillow's own conversion would clip every value above 255 to white."""
    if not image.mode.startswith("I"):
        return image
    values: NDArray[np.integer] = np.asarray(image).clip(0, 65_535)
    values >>= 8
    return Image.fromarray(values.astype(np.uint8))


def _check_webp_canvas(data: bytes | bytearray | memoryview, limits: _PixelLimits) -> None:
    """Check the canvas of an extended WebP. The decoder allocates two canvases as soon as it opens the file."""
    if len(data) >= 30 and data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        limits.check(height=height, width=width)


def _buffer(size: int) -> bytearray:
    """Return memory for decoded pixels: this thread's own buffer, or a new one for more than KEPT_BYTES."""
    if size > KEPT_BYTES:
        return bytearray(size)
    buffer: bytearray = getattr(_thread, "buffer", None) or bytearray()
    if len(buffer) < size:
        buffer = _thread.buffer = bytearray(size)
    return buffer


def _is_cut(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether a WebP or TIFF is shorter than its header says. Their decoders report a cut file as damaged."""
    start = bytes(data[:8])
    if len(start) == 8 and start.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(start[4:], "little")
    if len(start) == 8 and start.startswith((b"II*\0", b"MM\0*")):
        # The header says where the directory starts, which may be after the pixels.
        return len(data) < int.from_bytes(start[4:], "little" if start.startswith(b"I") else "big") + 2
    return False


def _first_bytes(data: bytes | bytearray | memoryview) -> str:
    if not len(data):
        return "no bytes"
    return f"{len(data)} bytes that start with {bytes(data[:16])!r}"
