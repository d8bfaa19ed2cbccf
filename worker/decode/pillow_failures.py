"""Why Pillow did not make a picture of a file: what the image is blamed for, and what it is not."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from common.format.reasons import Reason
from common.process.limits import require_memory
from worker.decode.descriptions import description
from worker.decode.file_kinds import formats_of, is_image
from worker.decode.truncation import is_cut
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from worker.decode.boxes import Buffer

_BYTES_OF_A_PIXEL = 24
"""Memory that a decoder takes for a pixel, at most: OpenJPEG's, for three colours, in bytes."""

_BYTES_OF_ANY_IMAGE = 16 << 20
"""Memory that every decoder takes beside the pixels, in bytes."""

_UNSUPPORTED = ("unknown pixel mode", "cannot handle ", "Unsupported BMP")
"""Parts of the texts with which Pillow refuses whole images whose pixels it cannot read."""


def check_memory(pixels: int) -> None:
    """Raise MemoryError when the memory for an image of so many pixels cannot be had.

    Where memory is refused, each decoder says something else: libjpeg-turbo and OpenJPEG that the data is broken,
    libwebp that there is no decoder, the interpreter that an error was lost. None of it is the image's fault.
    """
    require_memory(_BYTES_OF_ANY_IMAGE + _BYTES_OF_A_PIXEL * pixels)


def failure(data: Buffer, error: Exception) -> ImageFailed:
    """Return why there is no square of an image, from an error of Pillow, of any type."""
    # Pillow has no types of errors for these cases; only the text says which one it is.
    text = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        if not is_image(data):
            return ImageFailed(Reason.NOT_AN_IMAGE, description(data))
        text = f"the image's header cannot be read: {_why_unidentified(data)}"
    if any(words in text for words in _UNSUPPORTED):
        return ImageFailed(Reason.UNSUPPORTED_PIXELS, text[:200])
    is_truncated = "truncated" in text.lower() or isinstance(error, EOFError) or is_cut(data)
    return ImageFailed(Reason.TRUNCATED if is_truncated else Reason.CORRUPT, text[:200])


def _why_unidentified(data: Buffer) -> str:
    """Return what the format's own reader says about an image that Pillow does not recognise."""
    start = bytes(data[:16])
    for name in formats_of(data):
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(start) is True:
            try:
                factory(io.BytesIO(data), "").close()
            except Exception as error:  # noqa: BLE001 - only the text is wanted, of whatever error
                return f"{error}: {_tiff_pixels(data)}" if name == "TIFF" else str(error)
    return description(data)


def _tiff_pixels(data: Buffer) -> str:
    """Return what a TIFF says about its pixels, as far as it can be read."""
    file = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if bytes(data[2:4]) in {b"+\0", b"\0+"} else 8))
        file.seek(tags.next)
        tags.load(file)
    except Exception as error:  # noqa: BLE001 - damaged bytes, of which something else is told already
        return str(error)
    names = {258: "BitsPerSample", 339: "SampleFormat", 262: "PhotometricInterpretation", 338: "ExtraSamples"}
    return ", ".join(f"{name} {tags[tag]}" for tag, name in names.items() if tag in tags)
