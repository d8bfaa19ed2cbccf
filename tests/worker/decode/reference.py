"""OpenAI's published preprocessing, written with Pillow only. The tests compare the program's squares with it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def published_square(data: bytes, *, rotation: int = 0, size: int = 224) -> NDArray[np.uint8]:
    """Return the pixels of the published transform for the image in `data`, before ToTensor: (size, size, 3) in RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return published_square_of(image, rotation=rotation, size=size)


def published_square_of(image: Image.Image, *, rotation: int = 0, size: int = 224) -> NDArray[np.uint8]:
    """Return the pixels of the published transform for an image that is first rotated by `rotation` degrees.

    The rotation is counter-clockwise. The transform is Compose([Resize(size, BICUBIC), CenterCrop(size), to RGB]), so
    the resize is in the image's own mode. Like torchvision, Resize truncates the long side and CenterCrop rounds the
    offset half to even, both with Python's floats.
    """
    if rotation:
        image = image.rotate(rotation, expand=True)
    width, height = image.size
    if width <= height:
        resized_width, resized_height = size, int(size * height / width)
    else:
        resized_width, resized_height = int(size * width / height), size
    resized = image.resize((resized_width, resized_height), Image.Resampling.BICUBIC)
    left, top = round((resized_width - size) / 2.0), round((resized_height - size) / 2.0)
    square = resized.crop((left, top, left + size, top + size)).convert("RGB")
    return np.asarray(square)


def widest_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """Return the largest difference of two values at the same position and channel, 0 to 255."""
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())
