"""From an image's bytes to the model's square of pixels.

The result is that of OpenAI's published transform: resize the short side bicubically with antialiasing, crop the
centre, convert to RGB. Ordinary JPEGs take the fast way, libjpeg-turbo and torch's integer resize, or `plain_jpeg`
with the same pixels; all other images go through Pillow, whose resize is the published one. EXIF orientation is not
applied, as it is not there (a TIFF's is, by Pillow itself, there and here).
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
from worker.decode.plain_jpeg.square import plain_square
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from worker.decode.geometry import Geometry

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read, by Pillow's names. Every decoder more is one more that hostile bytes reach."""

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""How a file begins that is an image however damaged; Pillow cannot identify one whose header it cannot read."""

MAX_FAST_ASPECT = 4
"""Of long side to short. Longer images take Pillow's way: most of what torch resized would be cropped away."""

MAX_WHOLE_ASPECT = 64
"""Up to here Pillow resizes the whole image before the crop, as published; of longer ones only what the crop shows: a
panorama of 65,535 x 1 pixels would become one of 15 million x 224."""

LARGE_PIXELS = 32_000_000
"""Images above this are large, to be decoded one at a time: their pixels alone take 100 MB and more."""

KEPT_BYTES = 16 << 20
"""Of decoded pixels in a buffer that is used again: fresh memory comes page by page, each a fault, and those took as
long as a third of the decoding. It holds photos of 5 megapixels."""

_thread = threading.local()

# The limit is the caller's, and it is checked for every format in one place.
Image.MAX_IMAGE_PIXELS = None

# Odd palettes and metadata, of which nobody who embeds millions of photos could do anything.
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

    `rotation` is in degrees counter-clockwise, a multiple of 90. Raises ImageFailed for bytes that are no image, that
    are damaged, or that announce more than `max_pixels` pixels, which is checked before any is decoded; LargeImage for
    more than LARGE_PIXELS unless it `may_be_large`.
    """
    limits = _PixelLimits(max_pixels, max_pixels if may_be_large else LARGE_PIXELS)
    if _is_plain_jpeg(data):
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
            raise ImageFailed(reason, f"its header cannot be read: {_looks_like(data)}") from None
        raise ImageFailed(Reason.NOT_AN_IMAGE, _looks_like(data)) from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        text = str(error) or type(error).__name__
        is_cut = "truncated" in text.lower() or isinstance(error, EOFError) or _is_cut(data)
        raise ImageFailed(Reason.TRUNCATED if is_cut else Reason.CORRUPT, text[:200]) from error


class _PixelLimits(NamedTuple):
    ever: int
    now: int

    def check(self, *, height: int, width: int) -> None:
        if height * width > self.ever:
            raise ImageFailed(Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels, the limit is {self.ever}")
        if height * width > self.now:
            raise LargeImage


def _is_plain_jpeg(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether the bytes are a sequential JPEG of 8 bits (SOF0 or SOF1) with one or three components."""
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
    """Return the square as by libjpeg-turbo and torch, None where that way is not sure to give Pillow's pixels."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        limits.check(height=height, width=width)
        if colorspace not in {"YCbCr", "Gray"} or max(height, width) > MAX_FAST_ASPECT * min(height, width):
            return None
        upright = (height, width) if rotation % 180 == 0 else (width, height)
        geometry = square_geometry(height=upright[0], width=upright[1], size=size)
        if geometry.is_vertical_first(height=upright[0], width=upright[1]):
            return None  # torch resizes along the rows first
        if not rotation:
            square = plain_square(data, height=height, width=width, geometry=geometry, buffer=_buffer)
            if square is not None:
                return torch.from_numpy(square)
        grey = colorspace == "Gray"
        pixels = simplejpeg.decode_jpeg(
            data, colorspace="GRAY" if grey else "RGB", buffer=_buffer(height * width * (1 if grey else 3))
        )
    except ValueError:
        return None  # Pillow decides whether the bytes are damaged, and how
    # (1, 3 or 1, height, width), channels last in memory. Added first, the dimension of one has the stride by which
    # torch sees that the channels are last, and it neither takes them apart nor puts them together.
    image = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    if rotation:
        image = torch.rot90(image, rotation // 90, dims=(2, 3)).contiguous(memory_format=torch.channels_last)
    resized = functional.interpolate(image, size=(geometry.height, geometry.width), mode="bicubic", antialias=True)[0]
    shown = resized[:, geometry.top : geometry.top + size, geometry.left : geometry.left + size]
    return shown.permute(1, 2, 0).expand(size, size, 3)


def _pillow_square(data: bytes | bytearray | memoryview, limits: _PixelLimits, *, rotation: int, size: int) -> Tensor:
    _check_webp_canvas(data, limits)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        limits.check(height=image.height, width=image.width)
        square = _resized(image, rotation=rotation, size=size)
    return torch.from_numpy(np.array(square, dtype=np.uint8))


def _resized(image: Image.Image, *, rotation: int, size: int) -> Image.Image:
    image.load()
    turned = _eight_bits(image)
    if rotation:
        turned = turned.transpose(_TRANSPOSE[rotation])
    geometry = square_geometry(height=turned.height, width=turned.width, size=size)
    if max(turned.size) > MAX_WHOLE_ASPECT * min(turned.size):
        return _resized_square(turned, geometry).convert("RGB")
    resized = turned.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC)
    right, bottom = geometry.left + size, geometry.top + size
    return resized.crop((geometry.left, geometry.top, right, bottom)).convert("RGB")


def _resized_square(image: Image.Image, geometry: Geometry) -> Image.Image:
    """Return the square, resizing only what it shows: as of the whole image but for Pillow's rounding of the box."""
    if image.mode in _PREMULTIPLIED:
        # Once around both passes, as Pillow does around one resize; between them it would round colours away.
        return _resized_square(image.convert(_PREMULTIPLIED[image.mode]), geometry).convert(image.mode)
    left, top, right, bottom = geometry.source_box(height=image.height, width=image.width)
    passes = [("across", left, right), ("down", top, bottom)]
    if geometry.is_vertical_first(height=image.height, width=image.width):
        passes.reverse()
    for direction, start, end in passes:
        across = direction == "across"
        image = image.resize(
            (geometry.size, image.height) if across else (image.width, geometry.size),
            Image.Resampling.BICUBIC,
            box=(start, 0, end, image.height) if across else (0, start, image.width, end),
        )
    return image


_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}

_TRANSPOSE = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit image scaled to 8 bits; Pillow's own conversion would clip all above 255 to white."""
    if not image.mode.startswith("I"):
        return image
    values: NDArray[np.integer] = np.asarray(image).clip(0, 65_535)
    values >>= 8
    return Image.fromarray(values.astype(np.uint8))


def _check_webp_canvas(data: bytes | bytearray | memoryview, limits: _PixelLimits) -> None:
    """Check the canvas of an extended WebP: its decoder allocates two of them as it opens the file."""
    if len(data) >= 30 and data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        limits.check(height=height, width=width)


def _buffer(size: int) -> bytearray:
    """Return this thread's memory for decoded pixels; an image so large that it is not worth keeping has its own."""
    if size > KEPT_BYTES:
        return bytearray(size)
    buffer: bytearray = getattr(_thread, "buffer", None) or bytearray()
    if len(buffer) < size:
        buffer = _thread.buffer = bytearray(size)
    return buffer


def _is_cut(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether a WebP or TIFF ends before its header says; their decoders do not tell cut bytes from damaged."""
    start = bytes(data[:8])
    if len(start) == 8 and start.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(start[4:], "little")
    if len(start) == 8 and start.startswith((b"II*\0", b"MM\0*")):
        # The directory may stand behind the pixels.
        return len(data) < int.from_bytes(start[4:], "little" if start.startswith(b"I") else "big") + 2
    return False


def _looks_like(data: bytes | bytearray | memoryview) -> str:
    if not len(data):
        return "no bytes"
    return f"{len(data)} bytes that start with {bytes(data[:16])!r}"
